"""What becomes known of a call by its end, whoever talked and whoever hung up; and agents that are not there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio.from_thread import BlockingPortal

from deploy.agent import ExampleAgent
from deploy.carrier.people import numbers
from deploy.part import free_port
from models.database import database_url
from models.statuses import OPEN
from tests.integration.odd_agents import Does, closes, listening
from tests.integration.system import System, until
from tests.integration.test_campaign import assert_nothing_is_left, is_over, seen_of, write_csv


@pytest.fixture(scope="module")
def agent(whole_system: System, portal: BlockingPortal) -> Iterator[ExampleAgent]:
    agent = ExampleAgent(database_url=database_url(whole_system.settings), listen=timedelta(seconds=2))
    portal.call(agent.start)
    try:
        yield agent
    finally:
        portal.call(agent.stop)


def end_of(system: System, call_id: UUID) -> Any:
    """The last attempt of the call, once it is over."""
    until(lambda: system.status(call_id) not in {"scheduled", *OPEN}, what="the call is over")
    query = "SELECT a.* FROM attempts a JOIN calls c ON c.current_attempt_id = a.id WHERE c.id = %(id)s"
    return system.rows(query, id=call_id)[0]


def test_every_answered_call_has_its_figures_its_call_id_and_who_hung_up(system: System, agent: ExampleAgent) -> None:
    from_number = system.add_trunk("figures")
    connects = {"audiosocket": agent.connect, "playback": "playback://hello-world", "dialplan": "dialplan://mine/talk"}
    long = {**connects, "playback": "playback://demo-congrats", "dialplan": "dialplan://mine/stay"}
    made: dict[tuple[str, str], tuple[str, UUID]] = {}
    area = iter(range(212, 300))

    def call(kind: str, who: str, connect: str, digits: str) -> UUID:
        agent_id = system.add_agent(f"{kind} {who}", connect)
        if who == "limit":
            system.trunkline("agent", "update", f"{kind} {who}", "--max-call-seconds", 1)
        number = f"+1{next(area)}55501{digits}"
        made[kind, who] = number, system.call(agent_id, from_number, number)
        return made[kind, who][1]

    for kind, connect in connects.items():
        call(kind, "agent", connect, "00")
    for kind, connect in long.items():
        call(kind, "callee", connect, "01")
        call(kind, "limit", connect, "00")
        stopped = call(kind, "operator", connect, "00")
        until(lambda call_id=stopped: system.status(call_id) == "in-progress")  # type: ignore[misc]
        system.trunkline("hang-up", stopped)
    for (kind, who), (number, call_id) in made.items():
        end = end_of(system, call_id)
        assert (end.status, end.disposition, end.hangup_by) == ("completed", "answered", who), (kind, who)
        [carried] = system.carried(number)
        assert end.sip_call_id == carried.sip_call_id
        assert carried.end == ("bye-sent" if who == "callee" else "bye-received")
        assert end.codec == "ulaw"
        assert end.media_address.startswith(f"{system.carrier.host}:")
        assert (end.rx_lost, end.tx_lost) == (0, 0)
        if who != "operator":  # it may have come before the first packet
            assert end.rx_packets > 10, (kind, who)  # the carrier sends back what it gets
            assert end.tx_packets > 10, (kind, who)


def test_a_call_that_is_not_answered_has_its_call_id_however_it_ends(system: System) -> None:
    from_number, agent_id = system.add_trunk("unanswered"), system.add_agent("unanswered")
    ends = {"86": "busy", "04": "failed", "53": "failed", "32": "failed", "03": "failed", "41": "completed"}
    ends |= {"90": "no-answer", "91": "no-answer", "92": "no-answer", "93": "failed"}
    made = {f"+121355501{digits}": status for digits, status in ends.items()}
    calls = {number: system.call(agent_id, from_number, number) for number in made}
    for number, call_id in calls.items():
        end = end_of(system, call_id)
        assert end.status == made[number], number
        [carried] = system.carried(number)
        assert end.sip_call_id == carried.sip_call_id, number
        if end.status != "completed":
            assert (end.rx_packets, end.codec, end.media_address, end.hangup_by) == (None, None, None, None)


def test_a_person_whom_the_agent_does_not_reach_hears_its_fallback_and_the_call_has_failed(system: System) -> None:
    from_number, dead = system.add_trunk("fallback"), f"audiosocket://127.0.0.1:{free_port()}"
    short = {"audiosocket": dead, "playback": "playback://no-such-sound", "dialplan": "dialplan://mine/nobody"}
    calls = {
        kind: system.call(system.add_agent(f"no {kind}", to), from_number, "+12145550100") for kind, to in short.items()
    }
    system.trunkline("agent", "create", "apology", "--connect", dead, "--fallback", "demo-congrats")
    system.trunkline("agent", "update", "apology", "--max-call-seconds", 10)
    apology = system.value("SELECT id FROM agents WHERE name = 'apology'")
    calls["its own"] = system.call(apology, from_number, "+12155550100")
    with listening(closes) as uri:
        calls["proxy"] = system.call(system.add_agent("no proxy", uri), from_number, "+12145550100")
        ends = {kind: end_of(system, call_id) for kind, call_id in calls.items()}
    statuses = {"audiosocket": "CHANUNAVAIL", "proxy": "HUNGUP", "playback": "NOSOUND", "dialplan": "NOEXTENSION"}
    for kind, status in statuses.items():
        end = ends[kind]
        assert (end.status, end.disposition, end.agent_status) == ("failed", "agent-unreachable", status)
        assert end.tx_packets > 20, "the apology"
        assert end.rx_packets > 20, "the carrier got it"
        assert end.hangup_by == "trunkline"
    assert {call.end for call in system.carried("+12145550100")} == {"bye-received"}
    assert f"the agent at {uri} accepted the connection and closed it at once" in ends["proxy"].explanation
    assert ends["its own"].disposition == "agent-unreachable"
    assert ends["its own"].tx_packets > 2 * ends["audiosocket"].tx_packets, "a longer prompt than the default"


@pytest.mark.parametrize(("name", "who"), [("down", None), ("gone", closes)], ids=["nobody", "a proxy"])
def test_a_campaign_whose_agent_is_down_pauses_itself_and_goes_on_when_it_is_up(
    name: str, who: Does | None, system: System, portal: BlockingPortal, tmp_path: Path
) -> None:
    port, slots = free_port(), 4
    to = numbers({"00": 40}, skip=300 if who is None else 340)
    from_number = system.add_trunk(name, slots=slots, calls_per_second=30)
    system.add_agent(name, f"audiosocket://127.0.0.1:{port}")
    file = write_csv(tmp_path / "down.csv", to)
    with listening(who, port=port) if who else nullcontext():
        system.trunkline("campaign", "upload", file, "--name", name, "--agent", name, "--from", from_number, "--start")
        until(lambda: system.campaign(name)["status"] == "paused", what="it pauses itself")
        until(lambda: not any(system.campaign(name)[s] for s in ("initiated", "ringing", "in_progress")))
    reason = system.campaign(name)["pause_reason"]
    assert f"agent {name} is down" in reason
    assert f"audiosocket://127.0.0.1:{port}" in reason
    assert reason in system.trunkline("campaign", "status", name, "--json")
    paused = system.campaign(name)
    assert paused["queued"] == 0
    assert 3 <= paused["failed"] <= 3 + 2 * slots, "what was on its way by then, and not the list"
    assert paused["failed"] + paused["scheduled"] == len(to)
    assert len(seen_of(system, to)) == paused["failed"]

    agent = ExampleAgent(database_url=database_url(system.settings), port=port, listen=timedelta(0))
    portal.call(agent.start)
    try:
        system.trunkline("campaign", "resume", name)
        assert system.campaign(name)["pause_reason"] is None
        until(lambda: is_over(system, name), within=90)
    finally:
        portal.call(agent.stop)
    over = system.campaign(name)
    assert (over["failed"], over["completed"]) == (paused["failed"], paused["scheduled"])
    assert Counter(call.number for call in seen_of(system, to)) == Counter(to), "everybody once"
    assert_nothing_is_left(system, name)


def test_keys_that_the_person_presses_reach_the_agent(system: System, agent: ExampleAgent) -> None:
    from_number, agent_id = system.add_trunk("keys"), system.add_agent("keys", agent.connect)
    end = end_of(system, system.call(agent_id, from_number, "+12165550106"))
    assert end.status == "completed"
    [met] = [call for call in agent.conversations if call.attempt_id == end.id]
    assert met.keys == "12#0"


def test_who_is_on_the_line_is_there_for_local_agents_and_for_a_dialplan(system: System, tmp_path: Path) -> None:
    from_number = system.add_trunk("con;text")
    system.add_agent("context", "dialplan://mine/talk")
    file = write_csv(tmp_path / "context.csv", ["+12175550100"])
    system.trunkline(
        "campaign", "upload", file, "--name", "con;text", "--agent", "context", "--from", from_number, "--start"
    )
    [row] = until(lambda: system.rows("SELECT * FROM call_context WHERE campaign = 'con;text'"))
    assert (row.phone_number, row.name, row.from_number) == ("+12175550100", "Person 0", from_number)
    assert row.variables == {"city": "Berlin; Mitte"}
    assert (row.agent, row.trunk, row.attempt_number, row.node) == ("context", "con;text", 1, "local")
    assert row.initiated_at is not None
    until(lambda: is_over(system, "con;text"))
    log = system.parts["asterisk"].log.read_text()
    assert re.search(rf"{row.attempt_id} is 1 of con;text on con;text$", log, re.MULTILINE)
