"""What must be true after every fault, from the carrier's log and from SQL, never from our own counters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from uuid import UUID

from deploy.carrier import witness
from deploy.carrier.witness import CALLER_TIMER, CarrierCall
from models.outcome import Disposition
from models.statuses import ATTEMPT_TRANSITIONS, CALL_TRANSITIONS, ENDS, FINAL, OPEN, Status
from tests.faults.world import Campaign, World
from tests.integration.system import until

SIPP_IS_LATE = 0.1
"""The log has the times at which SIPp handled what came; on a busy machine a tenth of a second's calls may bunch."""

READ_LATE = 1.0
"""Seconds after our end of a call at which a carrier reads its BYE only if it stood still."""

NEVER_LEFT = frozenset({Disposition.NOT_PLACED, Disposition.POISON})


@dataclass(frozen=True, kw_only=True)
class Dialled:
    """An attempt that was claimed, as the ledger has it; times are seconds since the epoch, like the carrier's."""

    id: UUID
    number: str
    status: str
    initiated_at: float
    disposition: str | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    hold_until: float | None = None
    sip_call_id: str | None = None


Pair = tuple[CarrierCall, Dialled]


def check(
    world: World,
    campaign: Campaign,
    *,
    unknown: bool = False,
    attempts_a_call: int = 1,
    within: float = 120.0,
    asterisk_died: bool = False,
    carrier_died: bool = False,
    asterisk_froze: bool = False,
) -> None:
    """Waits until the campaign is over, and fails on whatever must never be.

    `unknown`: some calls may have ended so. `attempts_a_call`: how often the carrier may see one person (the gateways of its
    trunk); at most once at a time in any case. `asterisk_died`: no end of its calls reached the carrier. `carrier_died`, or
    stood still: its log has no end, or a late beginning, of what it did not see. `asterisk_froze`: it may have given up
    a call whose answer it had not read yet.
    """
    until(lambda: world.campaign(campaign.name)["status"] in {"completed", "stopped"}, within=within, what="it is over")
    every_call_is_final(world, campaign, unknown=unknown)
    counts_add_up(world, campaign)
    in_trouble = asterisk_died or carrier_died
    if not in_trouble:
        every_end_reached_the_carrier(world, campaign)
    nobody_else_was_called(world)
    nobody_was_called_twice(world, campaign, attempts_a_call, asterisk_died=in_trouble)
    no_limit_was_passed(world, campaign, asterisk_died=in_trouble)
    if not in_trouble:
        both_tell_the_same(world, campaign, asterisk_froze=asterisk_froze)
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


def every_end_reached_the_carrier(world: World, campaign: Campaign) -> None:
    """No call is up there that we take for over: its BYE, CANCEL or final response is in the log."""

    def up() -> list[CarrierCall]:
        return [call for call in calls_at_the_carrier(world, campaign) if call.ended_at is None and not call.ignored]

    # the last BYE, and a CANCEL that leaves up to 50 ms after the ledger has its end, may be on their way
    until(lambda: not up(), within=5, what=f"all calls are over at the carrier: {up()[:3]}")


def nobody_else_was_called(world: World) -> None:
    ours = {row.phone_number for row in world.rows("SELECT phone_number FROM calls")}
    strangers = [call for call in world.carrier_calls() if call.number not in ours]
    assert not strangers, f"nobody has asked for these: {strangers}"


def nobody_was_called_twice(
    world: World, campaign: Campaign, attempts_a_call: int = 1, *, asterisk_died: bool = False
) -> None:
    pairs = paired(calls_at_the_carrier(world, campaign), dialled(world, campaign))
    nobody_is_called_twice(ended_by_the_ledger(pairs) if asterisk_died else pairs, attempts_a_call)
    known = world.rows(
        "SELECT sip_call_id FROM attempts WHERE campaign_id = %(c)s AND sip_call_id IS NOT NULL", c=campaign.id
    )
    assert len({row.sip_call_id for row in known}) == len(known), "two attempts have one Call-ID"


def no_limit_was_passed(world: World, campaign: Campaign, *, asterisk_died: bool = False) -> None:
    pairs = paired(calls_at_the_carrier(world, campaign), dialled(world, campaign))
    calls = [call for call, _ in (ended_by_the_ledger(pairs) if asterisk_died else pairs)]
    assert witness.peak_at_once(calls) <= campaign.slots
    rate = campaign.calls_per_second
    assert witness.peak_a_second(calls) <= rate + 1 + round(rate * SIPP_IS_LATE)


def both_tell_the_same(world: World, campaign: Campaign, *, asterisk_froze: bool = False) -> None:
    attempts = dialled(world, campaign)
    pairs = paired(calls_at_the_carrier(world, campaign), attempts)
    if asterisk_froze:
        patience = world.settings.ring_timeout.total_seconds() + 1
        given_up = {a.id for call, a in pairs if (call.ended_at or math.inf) - call.invited_at > patience}
        pairs = [(call, a) for call, a in pairs if a.status != Status.NO_ANSWER or a.id not in given_up]
        attempts = [a for a in attempts if a.id not in given_up]
    tell_the_same(pairs, attempts)


def dialled(world: World, campaign: Campaign) -> list[Dialled]:
    """In the order in which they were claimed."""
    rows = world.rows(
        "SELECT a.id, c.phone_number AS number, a.status, a.disposition, a.sip_call_id,"
        " extract(epoch FROM a.initiated_at)::float8 AS initiated_at, extract(epoch FROM a.answered_at)::float8 AS answered_at,"
        " extract(epoch FROM a.ended_at)::float8 AS ended_at, extract(epoch FROM a.hold_until)::float8 AS hold_until"
        " FROM attempts a JOIN calls c ON c.id = a.call_id"
        " WHERE a.campaign_id = %(c)s AND a.initiated_at IS NOT NULL ORDER BY a.initiated_at, a.id",
        c=campaign.id,
    )
    return [Dialled(**row._mapping) for row in rows]


# --- the judgement itself, on what was read


def paired(calls: Sequence[CarrierCall], attempts: Sequence[Dialled]) -> list[Pair]:
    """Each Call-ID at the carrier with the one attempt that it is.

    By the Call-ID that the ledger has learned at the call's end; else (an Asterisk died before that, or nobody listened) the
    oldest attempt to that number that had been claimed by then and is not another call. Fails on an INVITE that is nobody's.
    """
    by_call_id = {attempt.sip_call_id: attempt for attempt in attempts if attempt.sip_call_id}
    nameless = [attempt for attempt in attempts if not attempt.sip_call_id and attempt.status != Status.WITHDRAWN]
    pairs: list[Pair] = []
    for call in calls:
        attempt = by_call_id.pop(call.sip_call_id, None)
        if attempt is None:
            mine = [a for a in nameless if a.number == call.number and a.initiated_at <= call.invited_at]
            assert mine, f"{call.number}: an INVITE that the ledger knows nothing of: {call}"
            attempt = mine[0]
            nameless.remove(attempt)
        assert attempt.number == call.number, f"{attempt} was sent as {call}"
        assert attempt.status != Status.WITHDRAWN, f"{attempt} is said to have never left: {call}"
        pairs.append((call, attempt))
    return pairs


def ended_by_the_ledger(pairs: Sequence[Pair]) -> list[Pair]:
    """With the ends that the carrier has not seen as the ledger has them: an unknown one is up for as long as its slot is held.

    Where the carrier stood still, what it read only after our side had ended it counts for the time when it was sent.
    """

    def settled(call: CarrierCall, attempt: Dialled) -> CarrierCall:
        if attempt.ended_at is not None and call.invited_at > attempt.ended_at:
            return replace(call, invited_at=attempt.initiated_at, ended_at=attempt.ended_at)
        if call.ended_at is not None and (
            attempt.status not in ENDS or call.ended_at < (attempt.ended_at or 0) + READ_LATE
        ):
            return call
        return replace(call, ended_at=attempt.hold_until if attempt.status == Status.UNKNOWN else attempt.ended_at)

    return [(settled(call, attempt), attempt) for call, attempt in pairs]


def nobody_is_called_twice(pairs: Sequence[Pair], attempts_a_call: int = 1) -> None:
    """Neither more often than that, nor while an earlier call to the same number is up."""
    for number, theirs in witness.by_number([call for call, _ in pairs]).items():
        assert len(theirs) <= attempts_a_call, f"{number} was called {len(theirs)} times: {theirs}"
        for before, after in pairwise(theirs):
            assert before.ended_at is not None or before.ignored, f"{number}: {before} has no end"
            assert (before.ended_at or before.invited_at + CALLER_TIMER) <= after.invited_at, (
                f"{number}: {theirs} overlap"
            )


def tell_the_same(pairs: Sequence[Pair], attempts: Sequence[Dialled]) -> None:
    """What the ledger says of an end is what the carrier did; what it says has left was there."""
    at_carrier = {attempt.id for _, attempt in pairs}
    for attempt in attempts:
        has_left = attempt.status in ENDS - {Status.CANCELED} and attempt.disposition not in NEVER_LEFT
        assert not has_left or attempt.id in at_carrier, f"the carrier has never seen {attempt}"
    for call, attempt in pairs:
        if attempt.status not in ENDS:
            continue
        assert (call.answered_at is not None) == (attempt.answered_at is not None), f"{attempt} was {call}"
        assert (call.status in {486, 600}) == (attempt.status == Status.BUSY), f"{attempt} was {call}"


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
