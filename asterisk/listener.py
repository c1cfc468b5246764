"""One listener a node: events in, transitions out, slots freed.

    wait for the role ──▶ connect ──Up──▶ look up what was missed ──▶ listen ──Down──▶ (the link comes back by itself)
           ▲                                                            │
           └──────────────── role or database lost ◀────────────────────┘

- The node may be dialled only while its listener says so: `nodes.heard_at` is renewed every 2 s and
  cleared as soon as the link is down. No ears, no mouth.
- Events are written in batches, whatever has come while the last batch was being written; the slots
  of what is over are freed after the commit. A Redis that does not answer is tried again later, and holds up nothing.
- When the database goes away, what was taken and not written is kept and written first when the role
  is held again; the queue behind it is bounded, and a queue that overflows is a gap like any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from psycopg.errors import DeadlockDetected
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from asterisk.connection import AmiError, AmiMessage, Timings
from asterisk.events import Interpreter
from asterisk.link import Down, Link, Up
from asterisk.marks import forget_old_marks
from asterisk.pool import AmiPool
from asterisk.reconcile import Reconciler, written_down
from models import ledger, repairs
from models.ledger import Recorded
from models.points import Point, reached
from models.repairs import Repair
from models.roles import BEAT_SECONDS, Role, hold, listener_of
from models.settings import Node, Settings
from models.sightings import Attempt, Sight, Sighting, frees_after_cancel
from models.slots import CANCEL_LINGERS, Away, Freer

logger = structlog.get_logger(__name__)

_BATCH = 500
_WAKE_EVERY = timedelta(milliseconds=200)
_LOOK_EVERY = 5.0  # seconds
_SECOND_LOOKS_EVERY = 1.0
_HOLD_AGAIN_AFTER = 0.5
_FORGET_EVERY = 600.0
_BRIEFLY = Timings(connect=timedelta(seconds=1), action=timedelta(seconds=2))  # the role is not to be lost by it


class Listener:
    """Hears one node. `run` returns when `stop` is set."""

    def __init__(self, settings: Settings, node: Node, slots: Freer) -> None:
        self._settings = settings
        self._node = node
        self._slots = slots
        self._unwritten: list[Sighting] = []
        self._interpreter = Interpreter()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with hold(self._settings, listener_of(self._node.name), stop) as role:
                    if role is None:
                        return
                    logger.info("listening", node=self._node.name, epoch=role.epoch)
                    with Link(self._node) as link:
                        self._listen(role, link, stop)
            except DBAPIError as error:
                logger.warning("role_lost", node=self._node.name, error=str(error.orig).strip().splitlines()[:1])
                stop.wait(_HOLD_AGAIN_AFTER)

    def _listen(self, role: Role, link: Link, stop: threading.Event) -> None:
        self._register(role)
        reconciler = Reconciler(self._settings, self._node.name, role.connection, link)
        is_up = hearing = False
        next_beat = next_look = next_second_look = next_forgetting = 0.0
        self._write(role)  # what was taken before the role was lost
        while not stop.is_set():
            for item in link.take(at_most=_BATCH, wait=_WAKE_EVERY):
                match item:
                    case Up():
                        is_up = True
                        self._interpreter = Interpreter()
                        hearing = self._hear_again(role, link, reconciler)
                    case Down(reason):
                        is_up = hearing = False
                        self._say_deaf(role, reason)
                    case AmiMessage():
                        sighting = self._interpreter.read(item)
                        if sighting:
                            self._unwritten.append(sighting)
            self._write(role)
            self._free([])  # what Redis did not take before
            now = time.monotonic()
            if now >= next_beat:
                self._beat(role, hearing)
                next_beat = now + BEAT_SECONDS / 2
            if hearing and now >= next_second_look:
                self._look(reconciler.second_looks)
                next_second_look = now + _SECOND_LOOKS_EVERY
            if hearing and now >= next_forgetting:
                next_forgetting = now + (_LOOK_EVERY if self._forget_old_marks(role) else _FORGET_EVERY)
            if now >= next_look:
                if hearing:
                    self._look(reconciler.overdue)
                elif is_up:  # the look after the gap got no answer
                    hearing = self._hear_again(role, link, reconciler)
                next_look = now + _LOOK_EVERY
        self._say_deaf(role, "the listener was stopped")

    def _register(self, role: Role) -> None:
        with role.connection.begin():
            role.connection.exec_driver_sql(
                "INSERT INTO nodes (name, max_calls, listener_epoch, sip_address)"
                " VALUES (%(name)s, %(max_calls)s, %(epoch)s, %(sip_address)s)"
                " ON CONFLICT (name) DO UPDATE SET max_calls = excluded.max_calls, sip_address = excluded.sip_address,"
                " listener_epoch = excluded.listener_epoch, heard_at = NULL, listening_since = NULL",
                {
                    "name": self._node.name,
                    "max_calls": self._node.max_calls,
                    "epoch": role.epoch,
                    "sip_address": self._settings.sip_address or self._settings.external_address,
                },
            )

    def _hear_again(self, role: Role, link: Link, reconciler: Reconciler) -> bool:
        """The link is up: says so, and looks up what was missed. False if it broke again meanwhile."""
        try:
            startup, version = link.startup(), link.version()
            with role.connection.begin():
                since: datetime = role.connection.exec_driver_sql(
                    "UPDATE nodes SET listening_since = clock_timestamp(), core_startup = %(startup)s, version = %(version)s,"
                    " started_at = CASE WHEN core_startup <> %(startup)s THEN clock_timestamp() ELSE started_at END"
                    " WHERE name = %(node)s RETURNING listening_since",
                    {"node": self._node.name, "startup": startup, "version": version},
                ).scalar_one()
            self._free(reconciler.after_gap(since))
        except AmiError as error:
            logger.warning("gap_not_looked_up", node=self._node.name, error=str(error))
            return False
        self._beat(role, True)
        logger.info("hearing", node=self._node.name)
        return True

    def _say_deaf(self, role: Role, reason: str) -> None:
        logger.warning("deaf", node=self._node.name, reason=reason)
        with role.connection.begin():
            role.connection.exec_driver_sql(
                "UPDATE nodes SET heard_at = NULL, listening_since = NULL WHERE name = %(node)s",
                {"node": self._node.name},
            )

    def _beat(self, role: Role, hearing: bool) -> None:
        """Keeps the role, and the node dialable while it is heard."""
        with role.connection.begin():
            role.connection.exec_driver_sql(
                "UPDATE nodes SET heard_at = now() WHERE name = %(node)s AND %(hearing)s",
                {"node": self._node.name, "hearing": hearing},
            )

    def _write(self, role: Role) -> None:
        """Writes what was seen; on an error it is kept for the next holder of the role in this process."""
        if not self._unwritten:
            return
        reached(Point.LISTENER_HEARD)
        try:
            recorded = self._record(role, self._unwritten)
        except (IntegrityError, DataError):
            recorded = self._record_singly(role)
        except OperationalError as error:
            if not isinstance(error.orig, DeadlockDetected):
                raise
            recorded = self._record(role, self._unwritten)  # of two that waited for each other the other one is through
        self._unwritten.clear()
        reached(Point.LISTENER_WROTE)
        self._free(recorded.over)
        reached(Point.LISTENER_FREED)
        if recorded.news:
            self._slots.wake()

    def _record(self, role: Role, seen: Sequence[Sighting]) -> Recorded:
        with role.connection.begin():
            complete = [*self._missed(role, seen), *self._trusted(role, seen)]
            recorded = ledger.record(role.connection, complete, timer_b=self._settings.timer_b)
            repairs.count(role.connection, {Repair.VERDICT_OVERTURNED: recorded.overturned})
            reached(Point.LISTENER_WRITES)
        return recorded

    def _record_singly(self, role: Role) -> Recorded:
        """What the ledger refuses of one attempt, which is a fault of ours, does not hold up the others."""
        over: list[Attempt] = []
        news = False
        for attempt_id in dict.fromkeys(sighting.attempt_id for sighting in self._unwritten):
            try:
                recorded = self._record(role, [s for s in self._unwritten if s.attempt_id == attempt_id])
                over += recorded.over
                news = news or recorded.news
            except (IntegrityError, DataError) as error:
                logger.error("sightings_refused", attempt=str(attempt_id), error=type(error.orig).__name__)
        return Recorded(over=over, news=news)

    def _missed(self, role: Role, seen: Sequence[Sighting]) -> list[Sighting]:
        """Of channels made before we listened that have ended now: Asterisk's own word, their answer may be among it."""
        older = [s.attempt_id for s in seen if s.sight is Sight.ENDED and s.channel_at is None]
        return [s for s in written_down(role.connection, older) if s.sight is not Sight.ENDED] if older else []

    def _trusted(self, role: Role, seen: Sequence[Sighting]) -> list[Sighting]:
        """Without the refusals of attempts claimed before everything was heard: those are looked up instead."""
        refused = [s.attempt_id for s in seen if s.sight is Sight.NOT_PLACED]
        if not refused:
            return list(seen)
        heard_whole = set(
            role.connection.exec_driver_sql(
                "SELECT a.id FROM attempts a JOIN nodes n ON n.name = a.node"
                " WHERE a.id = ANY (%(ids)s::uuid[]) AND a.initiated_at > n.listening_since",
                {"ids": refused},
            ).scalars()
        )
        return [s for s in seen if s.sight is not Sight.NOT_PLACED or s.attempt_id in heard_whole]

    def _look(self, look: Callable[[], list[Attempt]]) -> None:
        try:
            self._free(look())
        except AmiError as error:  # the link will say that it is down, or the next look will do
            logger.warning("look_failed", node=self._node.name, error=str(error))

    def _forget_old_marks(self, role: Role) -> bool:
        """Whether there are more."""
        try:
            with AmiPool([self._node], timings=_BRIEFLY) as pool:
                return forget_old_marks(role.connection, self._node.name, pool)
        except AmiError as error:
            logger.warning("marks_not_forgotten", node=self._node.name, error=str(error))
            return False

    def _free(self, over: Sequence[Attempt]) -> None:
        try:
            self._slots.free({row.id: CANCEL_LINGERS if frees_after_cancel(row) else timedelta(0) for row in over})
        except Away as error:
            logger.warning("slots_not_freed", node=self._node.name, attempts=len(over), error=str(error))
