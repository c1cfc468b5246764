"""What must be true after every fault, from the carrier's log and from SQL, never from our own counters."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from deploy.carrier import witness
from deploy.carrier.witness import CALLER_TIMER, CarrierCall
from models.statuses import ATTEMPT_TRANSITIONS, CALL_TRANSITIONS, FINAL, OPEN
from tests.faults.world import Campaign, World
from tests.integration.system import until

SIPP_IS_LATE = 0.1
"""The log has the times at which SIPp handled what came; on a busy machine a tenth of a second's calls may bunch."""


def check(
    world: World,
    campaign: Campaign,
    *,
    unknown: bool = False,
    attempts_a_call: int = 1,
    within: float = 120.0,
    asterisk_died: bool = False,
) -> None:
    """Waits until the campaign is over, and fails on whatever must never be.

    `unknown`: some calls may have ended so. `attempts_a_call`: how often the carrier may see one person (the gateways of its
    trunk); at most once at a time in any case. `asterisk_died`: no end of its calls reached the carrier.
    """
    until(lambda: world.campaign(campaign.name)["status"] in {"completed", "stopped"}, within=within, what="it is over")
    every_call_is_final(world, campaign, unknown=unknown)
    counts_add_up(world, campaign)
    nobody_was_called_twice(world, campaign, attempts_a_call, asterisk_died=asterisk_died)
    if not asterisk_died:
        no_limit_was_passed(world, campaign)
    every_transition_is_legal(world, campaign)
    nothing_is_held(world, campaign)


def calls_at_the_carrier(world: World, campaign: Campaign) -> list[CarrierCall]:
    people = set(campaign.people)
    return [
        call for call in world.carrier_calls() if call.number in people and call.from_number == campaign.from_number
    ]


def every_call_is_final(world: World, campaign: Campaign, *, unknown: bool) -> None:
    rows = world.rows("SELECT id, status, explanation FROM calls WHERE campaign_id = %(c)s", c=campaign.id)
    assert len(rows) == len(campaign.people)
    open_calls = [row for row in rows if row.status not in FINAL]
    assert not open_calls, f"not final: {open_calls[:5]}"
    if not unknown:
        lost = [row for row in rows if row.status == "unknown"]
        assert not lost, f"{len(lost)} are unknown: {lost[:3]}"
    left = world.rows(
        "SELECT id, status FROM attempts WHERE campaign_id = %(c)s AND status = ANY (%(open)s)",
        c=campaign.id,
        open=[status.value for status in OPEN],
    )
    assert not left, f"open attempts of calls that are over: {left[:5]}"


def counts_add_up(world: World, campaign: Campaign) -> None:
    row = world.campaign(campaign.name)
    counted = dict(
        world.rows("SELECT status, count(*) FROM calls WHERE campaign_id = %(c)s GROUP BY status", c=campaign.id)
    )
    said = {status: row[status.replace("-", "_")] for status in map(str, CALL_TRANSITIONS)}
    assert said == {status: counted.get(status, 0) for status in said}
    assert row["total"] == len(campaign.people)


def nobody_was_called_twice(
    world: World, campaign: Campaign, attempts_a_call: int = 1, *, asterisk_died: bool = False
) -> None:
    calls = calls_at_the_carrier(world, campaign)
    for number, theirs in witness.by_number(calls).items():
        assert len(theirs) <= attempts_a_call, f"{number} was called {len(theirs)} times: {theirs}"
        for before, after in pairwise(theirs):
            assert before.ended_at is not None or asterisk_died or before.ignored, f"{number}: {before} has no end"
            assert (before.ended_at or before.invited_at + CALLER_TIMER) <= after.invited_at, (
                f"{number}: {theirs} overlap"
            )
    known = world.rows(
        "SELECT id, call_id, sip_call_id, status FROM attempts WHERE campaign_id = %(c)s AND sip_call_id IS NOT NULL",
        c=campaign.id,
    )
    assert len({row.sip_call_id for row in known}) == len(known), "two attempts have one Call-ID"
    at_carrier = {call.sip_call_id for call in calls}
    assert {row.sip_call_id for row in known if row.status in {"completed", "busy"}} <= at_carrier
    left = dict(
        world.rows(
            "SELECT c.phone_number, count(*) FROM attempts a JOIN calls c ON c.id = a.call_id"
            " WHERE a.campaign_id = %(c)s AND a.status <> 'withdrawn' GROUP BY 1",
            c=campaign.id,
        )
    )
    for number, theirs in witness.by_number(calls).items():
        assert len(theirs) <= left.get(number, 0), f"{number}: an INVITE that the ledger knows nothing of: {theirs}"


def no_limit_was_passed(world: World, campaign: Campaign) -> None:
    calls = calls_at_the_carrier(world, campaign)
    assert witness.peak_at_once(calls) <= campaign.slots
    rate = campaign.calls_per_second
    assert witness.peak_a_second(calls) <= rate + 1 + round(rate * SIPP_IS_LATE)


def every_transition_is_legal(world: World, campaign: Campaign) -> None:
    rows = world.rows(
        "SELECT e.subject, e.call_id, e.attempt_id, e.from_status, e.to_status FROM call_events e"
        " JOIN calls c ON c.id = e.call_id WHERE c.campaign_id = %(c)s ORDER BY e.at",
        c=campaign.id,
    )
    stories: dict[tuple[str, object], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        subject = row.call_id if row.subject == "call" else row.attempt_id
        stories[row.subject, subject].append((row.from_status, row.to_status))
    for (kind, subject), story in stories.items():
        table = CALL_TRANSITIONS if kind == "call" else ATTEMPT_TRANSITIONS
        for old, new in story:
            assert new in {str(s) for s in table[old]}, f"{kind} {subject}: {story}"  # type: ignore[index]
        for (_, reached), (left, _) in pairwise(story):
            assert reached == left, f"{kind} {subject}: {story}"


def nothing_is_held(world: World, campaign: Campaign) -> None:
    """Slots in use are zero, when what is unknown has been held for as long as it must be."""
    world.run(
        "UPDATE attempts SET hold_until = now() WHERE campaign_id = %(c)s AND status = 'unknown' AND hold_until > now()",
        c=campaign.id,
    )
    nodes = [("node", row.name) for row in world.rows("SELECT name FROM nodes")]
    scopes = (("trunk", campaign.trunk_id), ("campaign", campaign.id), *nodes)
    until(lambda: not any(world.slots.in_use(*scope) for scope in scopes), within=60, what="no slot is held")
