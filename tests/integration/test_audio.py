"""What is said of a call whose audio was missing or bad, with a carrier that really sends none, too little or only its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio.from_thread import start_blocking_portal

from deploy.agent import ExampleAgent
from models.database import database_url
from models.statuses import OPEN
from tests.integration.odd_agents import keeps_still, listening
from tests.integration.speaking_carrier import speaking_carrier
from tests.integration.system import System, until

CAUSES = ("symmetric RTP", "direct media", "behind NAT", "firewall")
# Numbers that end in 02 are answered, and hung up by the carrier after two seconds.


@pytest.fixture(scope="module")
def agent(whole_system: System) -> Iterator[ExampleAgent]:
    """Hears the person for two seconds after its greeting."""
    with start_blocking_portal() as portal:
        agent = ExampleAgent(database_url=database_url(whole_system.settings), listen=timedelta(seconds=2))
        portal.call(agent.start)
        try:
            yield agent
        finally:
            portal.call(agent.stop)


def end_of(system: System, call_id: UUID) -> Any:
    """The last attempt of the call, once it is over, with what is said of the call."""
    until(lambda: system.status(call_id) not in {"scheduled", *OPEN}, what="the call is over")
    query = (
        "SELECT a.*, c.explanation AS said FROM attempts a JOIN calls c ON c.current_attempt_id = a.id"
        " WHERE c.id = %(id)s"
    )
    return system.rows(query, id=call_id)[0]


def assert_answered(end: Any) -> None:
    assert (end.status, end.disposition, end.agent_status) == ("completed", "answered", "ANSWER")


def in_order(text: str, *words: str) -> bool:
    found = [text.find(word) for word in words]
    return -1 not in found and found == sorted(found)


def test_a_carrier_that_sends_no_audio_is_said_with_its_causes_in_their_order(system: System, tmp_path: Path) -> None:
    agent_id = system.add_agent("unheard", "playback://demo-congrats")
    with speaking_carrier(tmp_path / "carrier") as carrier:
        from_number = system.add_trunk("unheard", carrier=carrier)
        end = end_of(system, system.call(agent_id, from_number, "+12185550102"))
    assert_answered(end)
    assert (end.rx_packets, end.rx_lost) == (0, 0)
    assert end.tx_packets > 20
    assert "no audio was received" in end.said
    assert in_order(end.said, *CAUSES)


def test_an_agent_that_says_nothing_is_named_as_the_cause_of_nothing_sent(system: System, tmp_path: Path) -> None:
    with speaking_carrier(tmp_path / "carrier", speaks=True) as carrier, listening(keeps_still(60)) as uri:
        from_number = system.add_trunk("speaking", carrier=carrier)
        end = end_of(system, system.call(system.add_agent("still", uri), from_number, "+12185550202"))
    assert_answered(end)
    assert end.rx_packets > 20
    assert end.tx_packets == 0
    assert "no audio was sent" in end.said
    assert in_order(end.said, f"agent at {uri}", "see its log", *CAUSES)


def test_an_agent_that_hangs_up_after_a_second_with_nothing_said_had_its_call(system: System, tmp_path: Path) -> None:
    """Neither sends: all that can be wrong is named, the agent too."""
    with speaking_carrier(tmp_path / "carrier") as carrier, listening(keeps_still(1)) as uri:
        from_number = system.add_trunk("stillness", carrier=carrier)
        end = end_of(system, system.call(system.add_agent("short", uri), from_number, "+12185550300"))
    assert_answered(end)
    assert (end.rx_packets, end.tx_packets, end.hangup_by) == (0, 0, "agent")
    assert "not one packet of audio" in end.said
    assert in_order(end.said, *CAUSES, f"agent at {uri}", "see its log")


def test_heavy_loss_is_said_for_each_way(system: System, agent: ExampleAgent, tmp_path: Path) -> None:
    with speaking_carrier(tmp_path / "carrier", loses_every=2) as carrier:
        from_number = system.add_trunk("lossy", carrier=carrier)
        end = end_of(system, system.call(system.add_agent("lossy", agent.connect), from_number, "+12185550400"))
    assert_answered(end)
    assert 0.1 < end.rx_lost / (end.rx_packets + end.rx_lost) < 0.6
    assert 0.1 < end.tx_lost / end.tx_packets < 0.6
    assert "much of the audio was lost" in end.said
    assert f"{end.rx_lost / (end.rx_packets + end.rx_lost):.0%} of what the far side sent" in end.said
    assert f"{end.tx_lost / end.tx_packets:.0%} of what we sent" in end.said
    assert "trunkline trunk update lossy --max-concurrent-calls" in end.said


def test_keys_that_come_as_carriers_send_them_reach_the_agent(
    system: System, agent: ExampleAgent, tmp_path: Path
) -> None:
    """RFC 4733, in the stream of the audio."""
    with speaking_carrier(tmp_path / "carrier", speaks=True, presses="12#0*") as carrier:
        from_number = system.add_trunk("events", carrier=carrier)
        end = end_of(system, system.call(system.add_agent("events", agent.connect), from_number, "+12185550500"))
    assert_answered(end)
    [met] = [call for call in agent.conversations if call.attempt_id == end.id]
    assert met.keys == "12#0*"
    assert (end.rx_lost, end.said) == (0, "Answered.")
