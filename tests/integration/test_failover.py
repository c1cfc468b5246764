"""Several gateways a trunk: what one did not deliver goes out by the next, and nothing else does.

Seen at two carriers: the trunk's first gateway is one that fails, its second the carrier of all tests.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.people import numbers
from tests.integration.system import PASSWORD, USERNAME, System, until
from tests.integration.test_campaign import assert_nothing_is_left, is_over, write_csv


def congested_carrier(system: System, directory: Path, digits: str = "53") -> Carrier:
    """One at which every number ends like these digits; to be started."""
    return Carrier(
        tree=system.tree.root, directory=directory, username=USERNAME, password=PASSWORD, challenge=True, always=digits
    )


@pytest.fixture(scope="module")
def congested(whole_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    with congested_carrier(whole_system, tmp_path_factory.mktemp("congested")) as carrier:
        yield carrier


def put_gateway_first(system: System, trunk: str, host: str, port: int) -> None:
    system.run(
        "WITH t AS (SELECT id FROM trunks WHERE name = %(name)s),"
        " later AS (UPDATE trunk_gateways SET priority = priority + 1 WHERE trunk_id = (SELECT id FROM t))"
        " INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority) SELECT id, %(host)s, %(port)s, 1 FROM t",
        name=trunk,
        host=host,
        port=port,
    )


def attempts_of(system: System, call: UUID) -> list[Any]:
    return system.rows(
        "SELECT a.status, a.disposition, g.port, cardinality(a.tried_gateways) AS tried, a.hands_over FROM attempts a"
        " LEFT JOIN trunk_gateways g ON g.id = a.gateway_id WHERE a.call_id = %(id)s ORDER BY a.id",
        id=call,
    )


def health(system: System, port: int) -> Any:
    """Of the gateway at this port; None if nothing bad is known of it."""
    rows = system.rows(
        "SELECT h.failures, h.rests, h.rests_until > now() AS rests_now FROM gateway_health h"
        " JOIN trunk_gateways g ON g.id = h.gateway_id WHERE g.port = %(port)s",
        port=port,
    )
    return rows[0] if rows else None


def seen_at(carrier: Carrier, to: list[str]) -> list[witness.CarrierCall]:
    mine = set(to)
    return [call for call in witness.read(carrier.log) if call.number in mine]


def test_what_a_congested_gateway_refuses_is_answered_through_the_next_in_the_same_slot(
    system: System, congested: Carrier, tmp_path: Path
) -> None:
    to = numbers({"01": 4, "86": 4}, skip=230)
    from_number = system.add_trunk("failover", slots=1)
    put_gateway_first(system, "failover", congested.host, congested.port)
    system.add_agent("failover", "playback://hello-world")
    file = write_csv(tmp_path / "failover.csv", to)
    system.trunkline(
        "campaign", "upload", file, "--name", "failover", "--agent", "failover", "--from", from_number, "--start"
    )
    until(lambda: is_over(system, "failover"), within=60)
    here = [call for call in system.carrier_calls() if call.number in set(to)]
    there = seen_at(congested, to)
    assert Counter(call.number for call in here) == Counter(to), "everybody once by the gateway that works"
    assert max(Counter(call.number for call in there).values()) == 1
    assert len({call.sip_call_id for call in [*here, *there]}) == len(here) + len(there)
    assert witness.peak_at_once([*here, *there]) == 1, "the slot is handed over, and never shared"
    status = system.campaign("failover")
    assert (status["completed"], status["busy"], status["failed"]) == (4, 4, 0)
    # five in a row, and then it is left alone: the rest went straight to the other
    assert len(there) == 5
    assert system.value(
        "SELECT count(*) FROM calls c JOIN campaigns p ON p.id = c.campaign_id WHERE p.name = 'failover' AND attempts = 2"
    ) == len(there)
    assert_nothing_is_left(system, "failover")


def test_silence_counts_as_not_delivered(system: System) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        from_number = system.add_trunk("silence", qualify_frequency=0)  # no OPTIONS: the calls alone
        agent = system.add_agent("silence", "playback://hello-world")
        put_gateway_first(system, "silence", "127.0.0.1", port)
        call = system.call(agent, from_number, "+12175550186")
        until(lambda: system.status(call) == "busy")
        silent.setblocking(False)
        assert b"INVITE sip:+12175550186@" in silent.recv(65535)
    first, second = attempts_of(system, call)
    assert tuple(first) == ("failed", "gateway-unreachable", port, 0, False)
    assert tuple(second) == ("busy", "busy", system.carrier.port, 1, False)


@pytest.mark.parametrize(
    ("digits", "status", "disposition"),
    [
        ("86", "busy", "busy"),
        ("63", "failed", "rejected"),
        ("04", "failed", "invalid-number"),
        ("80", "no-answer", "no-answer"),
        ("08", "no-answer", "no-answer"),
        ("38", "no-answer", "no-answer"),  # 100, and a 408 when our own timer would have been over
        ("55", "failed", "congestion"),  # it rang before
        ("90", "no-answer", "no-answer"),  # our ring timeout
        ("91", "no-answer", "no-answer"),  # 183 alone, then the ring timeout
        ("92", "no-answer", "no-answer"),  # 100, then the ring timeout
    ],
)
def test_nothing_else_is_tried_again_by_another_gateway(
    system: System, tmp_path: Path, digits: str, status: str, disposition: str
) -> None:
    name = f"final-{digits}"
    with congested_carrier(system, tmp_path / "first", digits) as first:
        from_number, agent = system.add_trunk(name), system.add_agent(name, "playback://hello-world")
        put_gateway_first(system, name, first.host, first.port)
        call = system.call(agent, from_number, "+12185550101")
        until(lambda: system.status(call) == status)
        [attempt] = attempts_of(system, call)
        assert tuple(attempt) == (status, disposition, first.port, 0, False)
        assert len(seen_at(first, ["+12185550101"])) == 1
    assert system.carried("+12185550101") == []


def test_a_call_that_no_gateway_delivers_ends_as_its_last_attempt_did(system: System, congested: Carrier) -> None:
    from_number, agent = system.add_trunk("nowhere"), system.add_agent("nowhere")
    put_gateway_first(system, "nowhere", congested.host, congested.port)
    system.run("UPDATE gateway_health SET failures = 0, rests = 0, rests_until = NULL")
    call = system.call(agent, from_number, "+12195550150")  # 503 there, 500 here
    until(lambda: system.status(call) == "failed")
    row = system.rows("SELECT disposition, sip_code, attempts FROM calls WHERE id = %(id)s", id=call)[0]
    assert tuple(row) == ("gateway-error", 500, 2)
    assert [attempt.disposition for attempt in attempts_of(system, call)] == ["congestion", "gateway-error"]
    trunk = system.value("SELECT id FROM trunks WHERE name = 'nowhere'")
    until(lambda: system.slots.in_use("trunk", trunk) == 0, what="its slot is free")


def test_a_gateway_that_keeps_failing_rests_and_is_tried_again_with_one_call(system: System, tmp_path: Path) -> None:
    to = numbers({"01": 30}, skip=240)
    with congested_carrier(system, tmp_path / "bad") as bad:
        system.run(
            "INSERT INTO trunks (name, auth_type, max_concurrent_calls, max_calls_per_second) VALUES ('rests', 'userpass', 3, 100)"
        )
        system.run(
            "INSERT INTO trunk_credentials SELECT id, %(user)s, %(password)s FROM trunks WHERE name = 'rests'",
            user=USERNAME,
            password=PASSWORD,
        )
        system.run(
            "INSERT INTO phone_numbers (phone_number, trunk_id) SELECT '+12025559901', id FROM trunks WHERE name = 'rests'"
        )
        put_gateway_first(system, "rests", bad.host, bad.port)
        system.add_agent("rests", "playback://hello-world")
        file = write_csv(tmp_path / "rests.csv", to)
        system.trunkline(
            "campaign", "upload", file, "--name", "rests", "--agent", "rests", "--from", "+12025559901", "--start"
        )
        until(lambda: (h := health(system, bad.port)) and h.rests == 1 and h.rests_now, what="the gateway rests")
        until(lambda: system.campaign("rests")["scheduled"] + system.campaign("rests")["failed"] == len(to))
        system.run("UPDATE gateway_health SET rests_until = now() + interval '1 minute' WHERE rests = 1")
        said = system.trunkline("explain", "rests")
        assert f"Trunk rests is paused, its gateway {bad.address} keeps failing" in said
        assert "the last one: congestion" in said
        before = len(seen_at(bad, to))
        assert 5 <= before <= 5 + 2 * 3, "five in a row, and what was granted before that was known"

        system.run("UPDATE gateway_health SET rests_until = now() WHERE rests = 1")
        until(lambda: (h := health(system, bad.port)) and h.rests == 2 and h.rests_now, what="the trial failed too")
        assert len(seen_at(bad, to)) == before + 1, "one call and no more"
        port, directory = bad.port, tmp_path / "good"
    with Carrier(
        tree=system.tree.root, directory=directory, username=USERNAME, password=PASSWORD, challenge=True, port=port
    ) as good:
        system.run("UPDATE gateway_health SET rests_until = now() WHERE rests = 2")
        until(lambda: is_over(system, "rests"), within=60, what="it works again, and everybody is called")
        assert health(system, port).rests == 0
        answered = seen_at(good, to)
        first, second = sorted(answered, key=lambda call: call.invited_at)[:2]
        assert first.ringing_at is not None
        assert second.invited_at >= first.ringing_at, "the others only after the first sign of life"
        assert len(answered) == len(to) - before - 1
    status = system.campaign("rests")
    assert (status["failed"], status["completed"]) == (before + 1, len(to) - before - 1)
    assert_nothing_is_left(system, "rests")
