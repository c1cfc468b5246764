"""The truth about an open attempt after a gap (invariant 5). Nothing is guessed.

    a live channel ───────────────────────────────▶ carry on (`unknown` stays that, and keeps its slot)
    an outcome in Asterisk's CEL ─────────────────▶ that outcome
    a channel was made (CEL, mark, an event) ─────▶ unknown
    the node has restarted since the claim ───────▶ unknown
    nothing of all this ──▶ withdraw (the gate closes) ──2 s──▶ look again ──▶ the call is scheduled

"No channel now" alone proves nothing: an Asterisk whose Postgres hangs says Success and dials a
minute later. It is the gate that makes the verdict safe, and the second look that finds a channel
which passed the gate just before it closed.

Verdicts from absence need the listener's role: they are written through the connection that holds it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection

from asterisk.link import Link
from asterisk.marks import mark_family
from models import ledger, repairs
from models.explanations import Ending, Verdict, explain
from models.outcome import Disposition
from models.points import Point, reached
from models.repairs import Repair
from models.settings import Settings
from models.sightings import Attempt, Sight, Sighting
from models.statements import statement
from models.statuses import DIALABLE, Status

logger = structlog.get_logger(__name__)

SECOND_LOOK_AFTER = timedelta(seconds=2)
IN_HAND = timedelta(seconds=3)
"""A claim younger than this may still be on its way to Asterisk."""

SILENT_FOR = timedelta(seconds=10)
_OVERTIME = timedelta(seconds=30)
_SIGHTS = {"CHAN_START": Sight.CHANNEL, "ANSWER": Sight.ANSWERED, "HANGUP": Sight.ENDED}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What Asterisk knows of some attempts, in memory, in its database and in its CEL."""

    sightings: list[Sighting]
    live: frozenset[UUID]
    ended: frozenset[UUID]
    made: frozenset[UUID]  #: a channel was made, whether or not it is there still

    @property
    def vanished(self) -> frozenset[UUID]:
        """A channel was made, is not there, and no end is known."""
        return self.made - self.live - self.ended

    def and_then(self, later: _Found) -> _Found:
        ended = self.ended | later.ended
        return _Found(
            sightings=[*self.sightings, *later.sightings],
            live=(self.live | later.live) - ended,
            ended=ended,
            made=self.made | later.made,
        )


class Reconciler:
    """Looks up the attempts of one node. Every method commits by itself and returns the attempts whose slots are to be freed."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        connection: Connection,
        link: Link,
        catch_up: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._settings = settings
        self._node = node
        self._connection = connection
        self._link = link
        self._catch_up = catch_up  # writes what was heard until now: judged is only what then is still open
        self._heard_since: datetime | None = None  # until what was in hand then has been looked up too
        self._heard_at = 0.0

    def after_gap(self, heard_since: datetime) -> list[Attempt]:
        """Everything that was open before the listener heard everything."""
        self._heard_since, self._heard_at = heard_since, self._now()
        return self._look_up(heard_since)

    def overdue(self) -> list[Attempt]:
        """Whatever has been silent, or up, for longer than it can be; and, once, what was in hand after the gap."""
        since = self._heard_since
        if self._now() - self._heard_at > IN_HAND.total_seconds():
            self._heard_since = None
        try:
            return self._look_up(since)
        except Exception:
            self._heard_since = since
            raise

    def _look_up(self, heard_since: datetime | None) -> list[Attempt]:
        longest = longest_attempt(self._settings)
        with self._connection.begin():
            ids = list(
                self._connection.exec_driver_sql(
                    statement("overdue_attempts"),
                    {
                        "node": self._node,
                        "since": heard_since,
                        "silent_for": SILENT_FOR,
                        "in_hand": IN_HAND,
                        "longest": longest,
                    },
                ).scalars()
            )
        if not ids:
            return []
        found = self._find(ids)
        self._catch_up()
        reached(Point.LISTENER_LOOKED)
        with self._connection.begin():
            ledger.lock_attempts(self._connection, ids)  # all, before what locks behind some of them
            recorded = ledger.record(self._connection, found.sightings, timer_b=self._settings.timer_b)
            now = ledger.now(self._connection)
            started_at = self._connection.exec_driver_sql(
                "SELECT started_at FROM nodes WHERE name = %(node)s", {"node": self._node}
            ).scalar()
            missing = {id for id in ids if id not in found.live and id not in found.ended}
            rows = ledger.lock_attempts(self._connection, ids).values()
            verdicts = [
                self._verdict(row, found, started_at, now)
                for row in rows
                if row.id in missing and row.status in DIALABLE
            ]
            held = [self._held(row, now) for row in rows if row.id in found.live and row.status is Status.UNKNOWN]
            ledger.write(self._connection, [*verdicts, *held])
            statuses = Counter(verdict.attempt.status for verdict in verdicts)
            repairs.count(
                self._connection,
                {
                    Repair.ATTEMPT_WITHDRAWN: statuses[Status.WITHDRAWN],
                    Repair.ATTEMPT_LOST: statuses[Status.UNKNOWN],
                    Repair.VERDICT_OVERTURNED: recorded.overturned,
                },
            )
        reached(Point.LISTENER_JUDGED)
        over = recorded.over
        if verdicts or over:
            logger.info("looked_up", node=self._node, attempts=len(ids), over=len(over), judged=len(verdicts))
        return list(over)

    def _verdict(self, row: Attempt, found: _Found, started_at: datetime | None, now: datetime) -> ledger.Change:
        """On an attempt that has neither a channel nor an outcome."""
        claimed_at = row.initiated_at or now
        if started_at is not None and started_at > claimed_at:
            longest = claimed_at + self._settings.ring_timeout + self._settings.longest_call
            return _lost(row, now, hold_until=max(longest, now))
        if row.id in found.made or row.channel_at or row.ringing_at or row.answered_at:
            return _lost(row, now, hold_until=now + self._settings.lost_call_hold)
        withdrawn = replace(
            row,
            status=Status.WITHDRAWN,
            disposition=Disposition.CANCELED.value if row.stop_requested_at else None,
            explanation=explain(Ending(why=Verdict.NO_CHANNEL)),
            ended_at=now,
            hold_until=now + SECOND_LOOK_AFTER,
        )
        return ledger.Change(attempt=withdrawn, follow=False)

    def _held(self, row: Attempt, now: datetime) -> ledger.Change:
        """An attempt that was given up and has a channel after all: its slot is taken for as long as the call is up."""
        held = now + self._settings.lost_call_hold
        return ledger.Change(attempt=replace(row, hold_until=max(row.hold_until or held, held)), follow=False)

    def second_looks(self) -> list[Attempt]:
        """Verdicts that are old enough: the calls of those that still left no trace are scheduled again."""
        with self._connection.begin():
            ids = list(self._connection.exec_driver_sql(statement("second_looks"), {"node": self._node}).scalars())
        if not ids:
            return []
        found = self._find(ids)
        self._catch_up()
        reached(Point.LISTENER_LOOKED)
        with self._connection.begin():
            ledger.lock_attempts(self._connection, ids)
            now = ledger.now(self._connection)
            recorded = ledger.record(self._connection, found.sightings, timer_b=self._settings.timer_b)
            still = [
                row for row in ledger.lock_attempts(self._connection, ids).values() if row.status is Status.WITHDRAWN
            ]
            lost = [row for row in still if row.id in found.made]
            gone = [row for row in still if row.id not in found.made]
            hold_until = now + self._settings.lost_call_hold
            ledger.write(self._connection, [_lost(row, now, hold_until=hold_until) for row in lost])
            ledger.give_back(self._connection, [row.id for row in gone])
            repairs.count(
                self._connection,
                {Repair.ATTEMPT_LOST: len(lost), Repair.VERDICT_OVERTURNED: recorded.overturned + len(lost)},
            )
        reached(Point.LISTENER_JUDGED)
        logger.info("looked_again", node=self._node, attempts=len(ids), given_back=len(gone), lost=len(lost))
        return [*recorded.over, *gone]

    def _find(self, ids: Sequence[UUID]) -> _Found:
        """A channel that was made between the look at the channels and that at its traces is looked for once more."""
        found = self._find_once(ids)
        return found.and_then(self._find_once(sorted(found.vanished))) if found.vanished else found

    def _find_once(self, ids: Sequence[UUID]) -> _Found:
        """Channels first, then CEL, then marks: what ends in between is found by the later look."""
        now = datetime.now(UTC)
        channels = self._link.channels()
        sightings: list[Sighting] = []
        for id in ids:
            if id in channels:
                sightings.append(Sighting(attempt_id=id, at=now, sight=Sight.CHANNEL))
                sight = {"Ringing": Sight.RINGING, "Up": Sight.ANSWERED}.get(channels[id])
                if sight:
                    sightings.append(Sighting(attempt_id=id, at=now, sight=sight))
        with self._connection.begin():
            from_cel = written_down(self._connection, ids)
        sightings += from_cel
        made = {sighting.attempt_id for sighting in from_cel}
        ended = {sighting.attempt_id for sighting in from_cel if sighting.sight is Sight.ENDED}
        unseen = {id: mark_family(id) for id in ids if id not in channels and id not in made}
        made |= self._link.marked(unseen) if unseen else set()
        return _Found(
            sightings=sightings, live=frozenset(channels) - ended, ended=frozenset(ended), made=frozenset(made)
        )


def longest_attempt(settings: Settings) -> timedelta:
    """So long after its claim at most a call is up: Asterisk ends it (`TIMEOUT(absolute)`), whoever hears of it."""
    return settings.ring_timeout + settings.longest_call + _OVERTIME


def written_down(connection: Connection, ids: Sequence[UUID]) -> list[Sighting]:
    """What Asterisk's CEL says of these attempts; an end has no SIP status there."""
    rows = connection.exec_driver_sql(statement("cel_of_attempts"), {"ids": [str(id) for id in ids]})
    return [
        Sighting(
            attempt_id=UUID(row.uniqueid),
            at=row.eventtime,
            sight=_SIGHTS[row.eventtype],
            cause=_hangup_cause(row.extra),
        )
        for row in rows
    ]


def _lost(row: Attempt, now: datetime, *, hold_until: datetime) -> ledger.Change:
    return ledger.Change(
        attempt=replace(
            row,
            status=Status.UNKNOWN,
            disposition=Disposition.LOST.value,
            explanation=explain(Ending(why=Disposition.LOST)),
            ended_at=now,
            hold_until=hold_until,
        )
    )


def _hangup_cause(extra: str | None) -> int | None:
    try:
        return int(json.loads(extra or "{}")["hangupcause"])
    except (ValueError, KeyError, TypeError):
        return None
