"""Every write to an attempt or a call, each conditional on what it replaces.

The functions take a connection inside a transaction of the caller's, who commits before anything is
published, sent or freed. Writers lock campaigns, then attempts, then calls, then the health of gateways, of nodes and of
agents, then `repairs`; of each kind all that they need at once, in the order of their ids. So they queue and never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection

from models import contexts, repairs
from models.explanations import Ending, Verdict, explain, needs_context
from models.gateways import FIRST_REST, LONGEST_REST, REST_AFTER, Sign, may_fail_over, sign_of
from models.outcome import Disposition
from models.repairs import Repair
from models.sightings import Attempt, Sighting, after, ending_of, reached_agent
from models.statements import statement
from models.statuses import ENDS, Status

logger = structlog.get_logger(__name__)

VOID_AFTER = timedelta(seconds=30)
"""A grant that was not claimed by then is void."""

PLACE_LIMIT = 3
"""A call that Asterisk could not place this often has failed."""

PLACE_AGAIN_AFTER = timedelta(seconds=2)

RESCUE_LIMIT = 3
"""A call that so many workers died with, between its claim and its Originate, has failed: it is what kills them."""

ALONE_FOR = timedelta(seconds=10)
"""A call in quarantine whose claim is older, and that has not left, is in nobody's hand any more."""

_VERDICTS = frozenset({Status.WITHDRAWN, Status.UNKNOWN})
"""What was concluded from absence; what is seen later wins over it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DueCall:
    """A call that was picked and is locked until the transaction ends."""

    id: UUID
    campaign_id: UUID | None
    agent_id: UUID
    phone_number: str
    from_number: str | None  #: of a single call; a campaign's rotate


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """An attempt to be written: its call has a slot."""

    id: UUID
    call_id: UUID
    campaign_id: UUID | None
    trunk_id: UUID
    gateway_id: UUID
    node: str
    dialed_number: str
    from_number: str
    tried_gateways: tuple[UUID, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class HandOver:
    """An attempt that is over and whose slot waits for the next gateway's; it is locked, and so is its call."""

    id: UUID
    call_id: UUID
    campaign_id: UUID | None
    agent_id: UUID | None  #: None when its call does not wait
    trunk_id: UUID
    gateway_id: UUID
    tried_gateways: Sequence[UUID]
    node: str
    phone_number: str
    dialed_number: str
    from_number: str
    never_left: bool  #: Asterisk could not place it: without another gateway it is tried again, not over
    waits: bool  #: false when its call was canceled or its campaign paused meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """An attempt that is ours to send, once."""

    id: UUID
    trunk_id: UUID
    gateway_id: UUID
    node: str
    from_number: str
    max_calls_per_second: float
    connect: str  #: the agent's URI
    fallback: str | None  #: its sound for a person whom it does not reach; None: the default
    max_call_seconds: int | None  #: its longest call; None: the settings'
    node_ails: bool  #: it did not take what was sent last: whether it takes this one is to be put down


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What an attempt becomes. `follow` false leaves its call as it is; `delay` is for a call that is given back."""

    attempt: Attempt
    follow: bool = True
    delay: timedelta = timedelta(0)
    hands_over: bool = False  #: its call goes to the next gateway, and its slot waits for that
    sign: Sign | None = None  #: of its gateway


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What a batch of sightings ended."""

    over: Sequence[Attempt]  #: their slots are to be freed after the commit
    news: bool = False  #: a call waits for the next gateway, or a gateway rests: the leader is to be told
    overturned: int = 0  #: verdicts that what was seen has won over; the caller counts them (`models.repairs`)


def now(connection: Connection) -> datetime:
    """Postgres's clock, which every age and every hold is measured by: ours may be off by minutes."""
    at: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return at


def pick_campaign_calls(connection: Connection, wanted: Mapping[UUID, int], *, most: int) -> list[DueCall]:
    """The next due calls of each campaign, in the order they are due: at most `wanted` of each, and `most` of the first of them."""
    rows = connection.exec_driver_sql(
        statement("pick_campaign_calls"),
        {"campaigns": list(wanted.keys()), "wanted": list(wanted.values()), "most": most},
    )
    return [DueCall(**row, from_number=None) for row in rows.mappings()]


def pick_single_calls(
    connection: Connection, from_numbers: Collection[str], wanted: int, agents: Collection[UUID] = ()
) -> list[DueCall]:
    """The next due single calls. An agent that has a limit is in `agents`, or its calls wait."""
    rows = connection.exec_driver_sql(
        statement("pick_single_calls"), {"from_numbers": list(from_numbers), "wanted": wanted, "agents": list(agents)}
    )
    return [DueCall(**row, campaign_id=None) for row in rows.mappings()]


def pick_quarantined(
    connection: Connection,
    campaigns: Collection[UUID],
    from_numbers: Collection[str],
    agents: Collection[UUID] = (),
) -> list[DueCall]:
    """The next due call that may kill its worker, to be sent out by itself; none while another one of them is in hand."""
    rows = connection.exec_driver_sql(
        statement("pick_quarantined"),
        {
            "campaigns": list(campaigns),
            "from_numbers": list(from_numbers),
            "agents": list(agents),
            "alone_for": ALONE_FOR,
        },
    )
    return [DueCall(**row) for row in rows.mappings()]


def grant(connection: Connection, grants: Sequence[Grant]) -> None:
    """Writes the attempts of calls picked in this transaction: scheduled → queued."""
    ids, calls, campaigns, trunks, gateways, nodes, dialed, from_numbers, tried = zip(
        *map(astuple, grants), strict=True
    )
    connection.exec_driver_sql(
        statement("grant"),
        {
            "ids": list(ids),
            "calls": list(calls),
            "campaigns": list(campaigns),
            "trunks": list(trunks),
            "gateways": list(gateways),
            "nodes": list(nodes),
            "dialed_numbers": list(dialed),
            "from_numbers": list(from_numbers),
            # Postgres knows no list of lists of different lengths
            "tried_gateways": ["{" + ",".join(map(str, before)) + "}" for before in tried],
        },
    )


def refuse(connection: Connection, explanations: Mapping[UUID, str]) -> None:
    """Ends calls picked in this transaction that may not be made: scheduled → failed, not-placed."""
    connection.exec_driver_sql(
        statement("refuse_calls"), {"ids": list(explanations.keys()), "explanations": list(explanations.values())}
    )


def claim(connection: Connection, attempt_ids: Sequence[UUID]) -> list[Claim]:
    """Takes attempts for sending: queued → initiated. What it does not return must not be sent."""
    rows = connection.exec_driver_sql(statement("claim"), {"ids": list(attempt_ids), "void_after": VOID_AFTER})
    return [Claim(**row) for row in rows.mappings()]


def lock_attempts(connection: Connection, attempt_ids: Iterable[UUID]) -> dict[UUID, Attempt]:
    """What the ledger holds of these attempts; unknown ids are left out."""
    rows = connection.exec_driver_sql(statement("lock_attempts"), {"ids": list(attempt_ids)})
    return {row[0]: Attempt(**{**row._mapping, "status": Status(row.status)}) for row in rows}


def write(connection: Connection, changes: Sequence[Change]) -> None:
    """Writes attempts locked in this transaction, and moves the calls whose current attempt they are."""
    if not changes:
        return
    columns: dict[str, list[Any]] = {
        plural: [getattr(change.attempt, name) for change in changes]
        for name, plural in (
            ("id", "ids"),
            ("status", "statuses"),
            ("disposition", "dispositions"),
            ("explanation", "explanations"),
            ("sip_code", "sip_codes"),
            ("q850_cause", "q850_causes"),
            ("agent_status", "agent_statuses"),
            ("hangup_by", "hangup_bys"),
            ("hold_until", "hold_untils"),
            ("channel_at", "channel_ats"),
            ("ringing_at", "ringing_ats"),
            ("answered_at", "answered_ats"),
            ("ended_at", "ended_ats"),
            ("sip_call_id", "sip_call_ids"),
            ("last_reply", "last_replies"),
            ("rx_packets", "rx_packets"),
            ("tx_packets", "tx_packets"),
            ("rx_lost", "rx_lost"),
            ("tx_lost", "tx_lost"),
            ("codec", "codecs"),
            ("media_address", "media_addresses"),
        )
    }
    columns["statuses"] = [change.attempt.status.value for change in changes]
    columns["follows"] = [change.follow for change in changes]
    columns["delays"] = [change.delay for change in changes]
    columns["hands_overs"] = [change.hands_over for change in changes]
    columns["signs"] = [change.sign for change in changes]
    connection.exec_driver_sql(statement("write_attempts"), {**columns, "place_limit": PLACE_LIMIT})


def record(connection: Connection, sightings: Iterable[Sighting], *, timer_b: timedelta) -> Recorded:
    """Writes what was seen; says what is over by it.

    Anyone may write what was seen, since every write is conditional. Sightings of ids that are not
    attempts (an agent's leg, somebody else's call) are passed over.
    """
    by_attempt: dict[UUID, list[Sighting]] = {}
    for sighting in sightings:
        by_attempt.setdefault(sighting.attempt_id, []).append(sighting)
    changes: list[Change] = []
    over: list[Attempt] = []
    overturned: list[Attempt] = []
    undelivered: list[UUID] = []
    met: list[Attempt] = []
    rows = lock_attempts(connection, by_attempt)
    for attempt_id, row in rows.items():
        new = after(row, by_attempt[attempt_id], timer_b=timer_b)
        if new == row or replace(new, channel_at=row.channel_at) == row:
            continue  # that a channel was made is in Asterisk's CEL and mark already: not worth a write of its own
        if row.status in _VERDICTS and new.status is not row.status:
            overturned.append(new)
        if reached_agent(row) is None and reached_agent(new) is not None:
            met.append(new)
        is_new = new.status is not row.status
        withdrawn = new.status is Status.WITHDRAWN
        # what is learned of a withdrawn attempt gives its call back neither again nor before the second look
        changes.append(
            Change(
                attempt=new,
                follow=is_new or not withdrawn,
                delay=PLACE_AGAIN_AFTER if withdrawn else timedelta(0),
                sign=sign_of(row, new),
            )
        )
        undelivered += [new.id] if may_fail_over(row, new) else []
        if is_new and (new.status in ENDS or withdrawn):
            over.append(new)
    if overturned:
        # every call of the batch, so that they are locked in the order of their ids
        locked = connection.exec_driver_sql(
            statement("lock_calls"), {"ids": [change.attempt.call_id for change in changes]}
        )
        over += _take_back_calls(connection, overturned, {row.id: row.current_attempt_id for row in locked})
    handing_over = _can_hand_over(connection, undelivered)
    explained = _explained(connection, changes, rows)
    if {Sign.LIVES, Sign.FAILED} <= {change.sign for change in changes}:
        signed = [change.attempt.id for change in changes if change.sign]
        connection.exec_driver_sql(statement("lock_health"), {"ids": signed})
    write(connection, [replace(change, hands_over=change.attempt.id in handing_over) for change in explained])
    rests = _count_failures(connection, [change.attempt.id for change in changes if change.sign is Sign.FAILED])
    if met:
        _count_unreached(connection, met)
    return Recorded(
        over=[row for row in over if row.id not in handing_over],
        news=rests or bool(handing_over),
        overturned=len(overturned),
    )


def _can_hand_over(connection: Connection, undelivered: Sequence[UUID]) -> Collection[UUID]:
    if not undelivered:
        return ()
    return frozenset(connection.exec_driver_sql(statement("can_hand_over"), {"ids": list(undelivered)}).scalars())


def _count_failures(connection: Connection, failed: Sequence[UUID]) -> bool:
    """Puts down what has failed to its gateways, and lets those rest that keep failing; whether one does from now on."""
    if not failed:
        return False
    connection.exec_driver_sql(statement("know_gateways"), {"ids": list(failed)})
    counted = connection.exec_driver_sql(
        statement("gateway_failed"),
        {"ids": list(failed), "rest_after": REST_AFTER, "first_rest": FIRST_REST, "longest_rest": LONGEST_REST},
    )
    tired = [row for row in counted if row.tires]
    for row in tired:
        logger.warning(
            "gateway_rests",
            gateway=str(row.gateway_id),
            until=row.rests_until.isoformat(timespec="seconds"),
            failures=row.failures,
            last=row.disposition,
        )
    return bool(tired)


def _explained(connection: Connection, changes: Sequence[Change], rows: Mapping[UUID, Attempt]) -> list[Change]:
    """Says again, with what is known of its trunk, what is said of an attempt only now. One query a batch, mostly none."""
    endings: dict[UUID, Ending] = {}
    for change in changes:
        ending = ending_of(change.attempt)
        is_news = change.attempt.explanation != rows[change.attempt.id].explanation
        if ending and is_news and needs_context(ending):
            endings[change.attempt.id] = ending
    around = contexts.of_attempts(connection, endings)

    def explained(row: Attempt) -> Attempt:
        ending = endings.get(row.id)
        return replace(row, explanation=explain(ending, around.get(row.id))) if ending else row

    return [replace(change, attempt=explained(change.attempt)) for change in changes]


def _count_unreached(connection: Connection, met: Sequence[Attempt]) -> None:
    """Of attempts whose answered callers met their agent, or did not: each agent's failures in a row."""
    connection.exec_driver_sql(
        statement("count_unreached"),
        {
            "calls": [row.call_id for row in met],
            "reached": [bool(reached_agent(row)) for row in met],
            "answered_ats": [row.answered_at for row in met],
        },
    )


def _take_back_calls(connection: Connection, seen: Sequence[Attempt], current: Mapping[UUID, UUID]) -> list[Attempt]:
    """More was seen of attempts than a verdict had said: their calls are theirs again, unless a newer attempt has left.

    The calls are locked, with their `current` attempts: none of those can be claimed from now on. Returns
    what was withdrawn at once; one in somebody's hand is given back by the worker that finds it unclaimable.
    """
    newer = [current[row.call_id] for row in seen if current[row.call_id] != row.id]
    queued = connection.exec_driver_sql(statement("lock_queued_attempts"), {"ids": newer}).scalars().all()
    withdrawn = [
        replace(
            row, status=Status.WITHDRAWN, explanation=explain(Ending(why=Verdict.OVERTAKEN)), ended_at=now(connection)
        )
        for row in lock_attempts(connection, queued).values()
    ]
    write(connection, [Change(attempt=row, follow=False) for row in withdrawn])
    left = set(
        connection.exec_driver_sql(
            "SELECT id FROM attempts WHERE id = ANY (%(ids)s::uuid[]) AND status NOT IN ('queued', 'withdrawn')",
            {"ids": newer},
        ).scalars()
    )
    for row in seen:
        if current[row.call_id] not in left:
            connection.exec_driver_sql(
                "UPDATE calls SET current_attempt_id = %(attempt)s WHERE id = %(call)s",
                {"attempt": row.id, "call": row.call_id},
            )
    return withdrawn


def withdraw(
    connection: Connection,
    attempt_ids: Iterable[UUID],
    *,
    of: Collection[Status],
    explanation: str,
    disposition: Disposition | None = None,
    delay: timedelta = timedelta(0),
    second_look_after: timedelta | None = None,
) -> list[UUID]:
    """Closes the gate on attempts that are still in one of the statuses `of`; returns their ids.

    Their calls go back to `scheduled` (`canceled` by that disposition), due after `delay`; or, with
    `second_look_after`, stay as they are until `give_back`.
    """
    rows = [row for row in lock_attempts(connection, attempt_ids).values() if row.status in of]
    if not rows:
        return []
    at = now(connection)
    write(
        connection,
        [
            Change(
                attempt=replace(
                    row,
                    status=Status.WITHDRAWN,
                    disposition=disposition.value if disposition else None,
                    explanation=explanation,
                    ended_at=at,
                    hold_until=None if second_look_after is None else at + second_look_after,
                ),
                follow=second_look_after is None,
                delay=delay,
            )
            for row in rows
        ],
    )
    return [row.id for row in rows]


def give_back(connection: Connection, attempt_ids: Iterable[UUID]) -> list[UUID]:
    """After the second look: the calls of these withdrawn attempts are scheduled again.

    One whose worker has died is counted as rescued; a call that was rescued so often is over (`RESCUE_LIMIT`).
    """
    rows = [
        row
        for row in lock_attempts(connection, attempt_ids).values()
        if row.status is Status.WITHDRAWN and row.hold_until
    ]
    counted = connection.exec_driver_sql(statement("count_rescues"), {"ids": [row.id for row in rows]})
    rescues: dict[UUID, int] = {row.id: row.rescues for row in counted}
    poison = {id for id, times in rescues.items() if times >= RESCUE_LIMIT}
    for row in rows:
        if row.id in rescues:
            logger.warning("call_rescued", call=str(row.call_id), attempt=str(row.id), times=rescues[row.id])
    write(connection, [Change(attempt=_given_back(row, row.id in poison)) for row in rows])
    repairs.count(connection, {Repair.CALL_RESCUED: len(rescues)})
    return [row.id for row in rows]


def _given_back(row: Attempt, is_poison: bool) -> Attempt:
    if not is_poison or row.disposition == Disposition.CANCELED:
        return replace(row, hold_until=None)
    return replace(
        row,
        status=Status.FAILED,
        disposition=Disposition.POISON.value,
        explanation=explain(Ending(why=Disposition.POISON)),
        hold_until=None,
    )


def call_again(connection: Connection, attempt_ids: Iterable[UUID]) -> list[UUID]:
    """Has the calls that hang on these unknown attempts made again, and releases their slots; returns those attempts.

    What is seen of such an attempt later is still written, and ends its call if no newer attempt has left by then.
    """
    unknown = _lock_unknown(connection, attempt_ids)
    moved = set(
        connection.exec_driver_sql(
            statement("call_again"), {"calls": [row.call_id for row in unknown.values()], "attempts": list(unknown)}
        ).scalars()
    )
    at = now(connection)
    released = [replace(row, hold_until=at) for row in unknown.values() if row.id in moved]  # none: left as it is
    write(connection, [Change(attempt=row, follow=False) for row in released])
    return [row.id for row in released]


def leave(connection: Connection, attempt_ids: Iterable[UUID]) -> list[UUID]:
    """Leaves unknown attempts at that, and releases their slots; returns them."""
    left = explain(Ending(why=Disposition.LOST, left=True))
    unknown = _lock_unknown(connection, attempt_ids)
    write(connection, [Change(attempt=replace(row, hold_until=None, explanation=left)) for row in unknown.values()])
    return list(unknown)


def _lock_unknown(connection: Connection, attempt_ids: Iterable[UUID]) -> dict[UUID, Attempt]:
    rows = lock_attempts(connection, attempt_ids)
    return {id: row for id, row in rows.items() if row.status is Status.UNKNOWN}


def lock_hand_overs(connection: Connection, most: int) -> list[HandOver]:
    """Attempts whose slot waits for the next gateway, each to be granted anew or given to `end_hand_overs`."""
    rows = connection.exec_driver_sql(statement("hand_overs"), {"most": most})
    return [HandOver(**row) for row in rows.mappings()]


def end_hand_overs(connection: Connection, again: Mapping[UUID, bool]) -> None:
    """Ends the waiting of these attempts.

    The call of each, if it was not granted anew, is due again where the value is true; else it ends as the attempt did.
    """
    connection.exec_driver_sql(
        statement("end_hand_overs"),
        {"ids": list(again.keys()), "again": list(again.values()), "delay": PLACE_AGAIN_AFTER},
    )
