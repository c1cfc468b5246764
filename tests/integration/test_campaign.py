"""A CSV becomes phone calls: seen by the carrier, written in the ledger, under every limit."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from deploy.carrier import witness
from deploy.carrier.people import numbers
from models.statuses import FINAL, Status
from tests.integration.system import System, until

SLOTS, CALLS_PER_SECOND = 20, 30

MIX = {"01": 120, "86": 40, "04": 30, "63": 20, "80": 20, "53": 20, "41": 12, "03": 10, "08": 10, "88": 10, "50": 10}
MIX |= {"32": 10, "05": 5, "90": 4, "91": 3, "92": 3, "93": 3}

EXPECTED = {
    "01": ("completed", "answered", None),
    "41": ("completed", "answered", None),
    "05": ("completed", "answered", None),
    "86": ("busy", "busy", 486),
    "04": ("failed", "invalid-number", 404),
    "63": ("failed", "rejected", 603),
    "80": ("no-answer", "no-answer", 480),
    "53": ("failed", "congestion", 503),
    "03": ("failed", "forbidden", 403),
    "08": ("no-answer", "no-answer", 408),
    "88": ("failed", "codec-mismatch", 488),
    "50": ("failed", "gateway-error", 500),
    "32": ("failed", "redirected", 302),
    "90": ("no-answer", "no-answer", None),
    "91": ("no-answer", "no-answer", None),
    "92": ("no-answer", "no-answer", None),
    "93": ("failed", "gateway-unreachable", 408),
}


def write_csv(path: Path, to: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["phone_number", "name", "city"])
        writer.writerows([number, f"Person {at}", "Berlin; Mitte"] for at, number in enumerate(to))
    return path


def start_campaign(system: System, directory: Path, name: str, to: list[str], *limits: object) -> str:
    """Uploads and starts; returns the number it is called from."""
    from_number = system.add_trunk(name, slots=SLOTS, calls_per_second=CALLS_PER_SECOND)
    system.add_agent(name, "playback://hello-world")
    file = write_csv(directory / f"{name}.csv", to)
    system.trunkline(
        "campaign", "upload", file, "--name", name, "--agent", name, "--from", from_number, "--start", *limits
    )
    return from_number


def is_over(system: System, name: str) -> bool:
    return bool(system.campaign(name)["status"] == "completed")


def seen_of(system: System, to: list[str]) -> list[witness.CarrierCall]:
    mine = set(to)
    return [call for call in system.carrier_calls() if call.number in mine]


def assert_never_twice_and_under_every_limit(system: System, to: list[str], from_number: str) -> None:
    calls = seen_of(system, to)
    assert Counter(call.number for call in calls) == Counter(to), "every number once"
    assert len({call.sip_call_id for call in calls}) == len(to)
    assert witness.peak_at_once(calls) <= SLOTS
    assert witness.peak_a_second(calls) <= CALLS_PER_SECOND + 1
    assert {call.from_number for call in calls} == {from_number}
    assert {call.digest for call in calls if not call.number.endswith("93")} == {"right"}
    assert all(call.codecs[0] == "ulaw" for call in calls)


def assert_ledger_is_right(system: System, name: str, to: list[str]) -> None:
    rows = system.rows(
        "SELECT c.phone_number, c.status, c.disposition, c.sip_code, c.explanation FROM calls c"
        " JOIN campaigns p ON p.id = c.campaign_id WHERE p.name = %(n)s",
        n=name,
    )
    wrong = [(row.phone_number, *row[1:4]) for row in rows if tuple(row[1:4]) != EXPECTED[row.phone_number[-2:]]]

    # Asterisk forgets one in ten redirects' status
    assert [row for row in wrong if not (row[0].endswith("32") and row[3] is None)] == []
    assert all(row.explanation for row in rows)
    status = system.campaign(name)
    counted = Counter(row.status for row in rows)
    assert {s: status[s.replace("-", "_")] for s in counted} == counted
    assert status["total"] == len(to) == sum(status[s.value.replace("-", "_")] for s in FINAL)


def assert_nothing_is_left(system: System, name: str) -> None:
    trunk_id = system.value("SELECT id FROM trunks WHERE name = %(n)s", n=name)
    until(lambda: system.slots.in_use("trunk", trunk_id) == 0, what="every slot is free again")
    statuses = {
        row.status for row in system.rows("SELECT DISTINCT status FROM attempts WHERE trunk_id = %(t)s", t=trunk_id)
    }
    assert statuses <= {s.value for s in FINAL | {Status.WITHDRAWN}}


def test_a_mixed_campaign_is_dialled_under_its_trunks_limits_and_ends_with_every_status_right(
    system: System, tmp_path: Path
) -> None:
    to = numbers(MIX)
    from_number = start_campaign(system, tmp_path, "mixed", to)
    until(lambda: is_over(system, "mixed"), within=120, what="the campaign is completed")
    assert_never_twice_and_under_every_limit(system, to, from_number)
    assert_ledger_is_right(system, "mixed", to)
    assert_nothing_is_left(system, "mixed")
    listed = json.loads(system.trunkline("campaign", "calls", "mixed", "--format", "json"))
    assert {row["phone_number"] for row in listed} == set(to)
    assert {row["from_number"] for row in listed} == {from_number}
    shown = json.loads(system.trunkline("campaign", "status", "mixed", "--json"))
    assert shown["total"] == len(to)
    assert shown["status"] == "completed"


def test_a_worker_killed_in_the_middle_neither_loses_nor_doubles_a_call(system: System, tmp_path: Path) -> None:
    to = numbers({"01": 180, "86": 60, "04": 60}, skip=150)
    from_number = start_campaign(system, tmp_path, "killed", to)
    for reached in (60, 150):
        until(lambda n=reached: len(seen_of(system, to)) >= n, within=60)  # type: ignore[misc]
        system.kill("worker-1")
        system.start("worker-1")
    until(lambda: is_over(system, "killed"), within=120, what="the campaign is completed")
    assert_never_twice_and_under_every_limit(system, to, from_number)
    assert_ledger_is_right(system, "killed", to)
    assert_nothing_is_left(system, "killed")


def test_a_worker_that_was_frozen_does_not_send_at_once_what_has_waited(system: System, tmp_path: Path) -> None:
    to = numbers({"86": 60, "04": 60}, skip=60)
    from_number = start_campaign(system, tmp_path, "frozen-worker", to)
    oldest = "SELECT coalesce(max(clock_timestamp() - queued_at), '0') > interval '3 s' FROM attempts WHERE status = 'queued'"
    for reached in (20, 70):
        until(lambda n=reached: len(seen_of(system, to)) >= n)  # type: ignore[misc]
        system.freeze("worker-1")
        try:
            until(lambda: system.value(oldest), what="grants have waited for three seconds")
        finally:
            system.thaw("worker-1")
    until(lambda: is_over(system, "frozen-worker"), within=60)
    assert_never_twice_and_under_every_limit(system, to, from_number)
    assert_ledger_is_right(system, "frozen-worker", to)
