"""`trunkline trunk check` on a whole system: what the carrier did is what is said, and the exit status with it."""

from __future__ import annotations

import json
import socket
from typing import Any
from uuid import UUID

import pytest

from models.errors import Conflict, NotFound
from models.slots import Slots, connect
from scheduler import probe as probing
from scheduler.trunk_check import check, check_by_call
from tests.integration.conftest import Database
from tests.integration.gateways import closed_port, silent_port
from tests.integration.ledger_rows import Rows
from tests.integration.system import PASSWORD, USERNAME, System, until

BY_CALLS = ("credentials", "caller-id", "codecs")

_areas = iter(
    [
        "602",
        "603",
        "605",
        "606",
        "607",
        "608",
        "609",
        "610",
        "612",
        "614",
        "615",
        "616",
        "617",
        "618",
        "619",
        "620",
        "623",
        "626",
        "630",
        "631",
        "636",
        "641",
        "646",
        "650",
    ]
)


def number(digits: str) -> str:
    """One that nobody else has called, which makes the carrier do what these digits say."""
    return f"+1{next(_areas)}55501{digits}"


def checked(system: System, name: str, *words: object, status: int = 0) -> dict[str, dict[str, Any]]:
    """What is said, by what it is about."""
    done = json.loads(system.trunkline("trunk", "check", name, "--json", *words, status=status))
    assert done["trunk"] == name
    assert done["wrong"] is (status == 1)
    assert done["wrong"] is any(point["verdict"] == "wrong" for point in done["points"])
    return {point["about"]: point for point in done["points"]}


def verdicts(found: dict[str, dict[str, Any]], *about: str) -> list[str]:
    return [found[one]["verdict"] for one in about]


def dial(system: System, agent: UUID, from_number: str, digits: str) -> None:
    call = system.call(agent, from_number, number(digits))
    until(lambda: system.status(call) in {"completed", "busy", "no-answer", "failed"}, what=f"a call to {digits} ends")


def test_all_is_ok_after_a_call_got_through_and_unknown_before(system: System) -> None:
    from_number, agent = system.add_trunk("fit"), system.add_agent("fit", "playback://hello-world")
    before = checked(system, "fit")
    assert verdicts(before, *BY_CALLS) == ["unknown"] * 3
    assert verdicts(before, "active", "numbers", "sip-address", "options") == ["ok"] * 4
    dial(system, agent, from_number, "01")
    after = checked(system, "fit")
    assert {point["verdict"] for point in after.values()} == {"ok"}
    assert after["options"]["gateway"] == system.carrier.address
    said = system.trunkline("trunk", "check", "fit").splitlines()
    assert len(said) == len(after), "a line a finding"
    assert all(line.startswith("ok ") for line in said)
    assert PASSWORD not in "".join(said)


def test_a_wrong_password_is_wrong_until_it_is_mended_and_a_test_call_proves_it(system: System) -> None:
    from_number, agent = system.add_trunk("locked"), system.add_agent("locked", "playback://hello-world")
    system.trunkline("trunk", "update", "locked", "--password", "-", text="no such password\n")
    dial(system, agent, from_number, "01")
    found = checked(system, "locked", status=1)  # this carrier answers 403 to it, as many do
    assert verdicts(found, *BY_CALLS) == ["unknown", "wrong", "unknown"]
    assert "password" in found["credentials"]["sentence"]
    assert "password" in found["caller-id"]["sentence"]
    system.trunkline("trunk", "update", "locked", "--username", USERNAME, "--password", "-", text=PASSWORD + "\n")
    assert verdicts(checked(system, "locked"), *BY_CALLS) == ["unknown"] * 3, "the old refusal is of the old password"
    assert verdicts(checked(system, "locked", "--call", number("01")), *BY_CALLS, "test-call") == ["ok"] * 4


def test_a_carrier_that_asks_for_a_password_where_the_trunk_has_none_is_wrong(system: System) -> None:
    from_number, agent = system.add_trunk("stranger", userpass=False), system.add_agent("stranger")
    dial(system, agent, from_number, "01")
    found = checked(system, "stranger", status=1)
    assert verdicts(found, *BY_CALLS) == ["wrong", "unknown", "unknown"]
    assert "address" in found["credentials"]["sentence"]
    assert "userpass" in found["credentials"]["sentence"]


@pytest.mark.parametrize(("digits", "about", "mend"), [("03", "caller-id", "caller ID"), ("88", "codecs", "--allow")])
def test_what_the_last_call_was_refused_for_is_wrong_until_one_gets_through(
    system: System, digits: str, about: str, mend: str
) -> None:
    name = f"refused{digits}"
    from_number, agent = system.add_trunk(name), system.add_agent(name, "playback://hello-world")
    dial(system, agent, from_number, digits)
    found = checked(system, name, status=1)
    assert verdicts(found, about) == ["wrong"]
    assert mend in found[about]["sentence"]
    dial(system, agent, from_number, "01")
    assert verdicts(checked(system, name), *BY_CALLS) == ["ok"] * 3


def test_a_trunk_that_is_off_is_wrong_and_gets_no_test_call(system: System) -> None:
    system.add_trunk("asleep")
    system.trunkline("trunk", "disable", "asleep")
    to = number("01")
    assert verdicts(checked(system, "asleep", "--call", to, status=1), "active", "test-call") == ["wrong", "wrong"]
    assert verdicts(checked(system, "asleep", status=1), "active", "options") == ["wrong", "ok"]
    assert not system.carried(to)


def test_a_trunk_without_numbers_is_wrong_and_gets_no_test_call(system: System) -> None:
    system.trunkline("number", "remove", system.add_trunk("mute"))
    found = checked(system, "mute", "--call", number("01"), status=1)
    assert verdicts(found, "numbers", "test-call") == ["wrong", "wrong"]


def test_a_test_call_that_is_answered_proves_everything_from_the_number_that_is_named(system: System) -> None:
    first = system.add_trunk("proven")
    second = "+12025557799"
    system.trunkline("number", "add", second, "--trunk", "proven")
    to = number("01")
    found = checked(system, "proven", "--call", to, "--from", second)
    assert verdicts(found, *BY_CALLS, "test-call") == ["ok"] * 4
    assert second in found["caller-id"]["sentence"]
    assert first not in found["caller-id"]["sentence"]
    [call] = system.carried(to)
    assert (call.from_number, call.digest) == (second, "right")


@pytest.mark.parametrize(
    ("digits", "status", "verdict"), [("86", 0, "ok"), ("03", 1, "wrong"), ("04", 1, "wrong"), ("80", 0, "unknown")]
)
def test_a_test_call_that_is_refused_says_why(system: System, digits: str, status: int, verdict: str) -> None:
    name = f"tested{digits}"
    system.add_trunk(name)
    to = number(digits)
    found = checked(system, name, "--call", to, status=status)
    assert verdicts(found, "test-call") == [verdict]
    assert to in found["test-call"]["sentence"]
    explained = system.value("SELECT explanation FROM calls WHERE phone_number = %(n)s", n=to)
    assert explained in found["test-call"]["sentence"]


def test_numbers_that_cannot_be_used_are_refused_in_one_line_and_nothing_is_called(system: System) -> None:
    system.add_trunk("strict")
    others = system.add_trunk("others")
    to = number("01")
    system.trunkline("trunk", "check", "strict", "--call", to, "--from", others, status=1)
    system.trunkline("trunk", "check", "strict", "--call", "12", status=1)
    system.trunkline("trunk", "check", "strict", "--call", "+4930123456", status=1)  # not an allowed prefix
    system.trunkline("trunk", "check", "strict", "--from", others, status=2)
    system.trunkline("trunk", "check", "no such trunk", status=1)
    assert not system.carried(to)


# With Postgres alone


def test_with_postgres_alone_each_gateway_is_looked_at_and_written_down(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "ANSWER_SECONDS", 0.5)
    rows = Rows(engine=database.engine)
    name = str(rows.trunk)
    with silent_port() as silent, closed_port(socket.SOCK_DGRAM) as closed:
        rows.run("UPDATE trunk_gateways SET port = %(port)s WHERE id = %(id)s", port=silent, id=rows.gateway)
        rows.run(
            "INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority) VALUES (%(t)s, '127.0.0.1', %(p)s, 2)",
            t=rows.trunk,
            p=closed,
        )
        done = check(database.engine, database.settings, name)
    found = [(point.about, point.verdict.value) for point in done.points if point.gateway]
    assert found == [("options", "unknown"), ("port", "wrong")]
    assert done.is_wrong
    with database.engine.begin() as connection:
        written = connection.exec_driver_sql("SELECT finding FROM gateway_probes ORDER BY finding").scalars().all()
    assert written == ["refused", "silent"]


def test_a_test_call_talks_to_nobody_with_somebody_elses_agent(database: Database) -> None:
    rows = Rows(engine=database.engine)
    rows.run("INSERT INTO agents (id, name, connect) VALUES (gen_random_uuid(), 'trunk-check', 'playback://advert')")
    with connect("redis://127.0.0.1:1/0") as nobody, pytest.raises(Conflict, match="playback://advert"):
        check_by_call(database.engine, database.settings, Slots(nobody), str(rows.trunk), to="+12125550123")
    assert rows.value("SELECT count(*) FROM calls") == 0


def test_a_trunk_that_does_not_exist_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound):
        check(database.engine, database.settings, "nobody")
