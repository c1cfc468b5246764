"""One listener a node: events in, transitions out, slots freed.

    wait for the role ──▶ connect ──Up──▶ look up what was missed ──▶ listen ──Down──▶ (the link comes back by itself)
      ▲            │                                                    │
      │            └── another holds it: write what was heard, hang up  │
      └────────────── role or database lost: keep hearing ◀─────────────┘

- The node may be dialled only while its listener says so: `nodes.heard_at` is renewed every 2 s and
  cleared as soon as the link is down. No ears, no mouth.
- Events are written in batches, whatever has come while the last batch was being written; the slots
  of what is over are freed after the commit. A Redis that does not answer is tried again later, and holds up nothing.
- When the database goes away, the link stays: Asterisk's own ledger loses what happens then, and this
  process is the only witness. What it heard (`asterisk.ears`, bounded) is written first when the role
  is held again, and only then is anything judged; if another listener holds it by then, it is written
  all the same, for what was *seen* anyone may write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from asterisk.connection import AmiError, Timings
from asterisk.ears import Ears
from asterisk.marks import forget_old_marks
from asterisk.pool import AmiPool
from asterisk.reconcile import Reconciler, written_down
from models import ledger, repairs
from models.database import reason
from models.ledger import Recorded
from models.points import Point, reached
from models.repairs import Repair
from models.roles import BEAT_SECONDS, Role, epoch_of, hold, listener_of
from models.settings import Node, Settings
from models.sightings import Attempt, Sight, Sighting, frees_after_cancel
from models.slots import CANCEL_LINGERS, Away, Freer

logger = structlog.get_logger(__name__)

_WAKE_EVERY = timedelta(milliseconds=200)
_LOOK_EVERY = 5.0  # seconds
_SECOND_LOOKS_EVERY = 1.0
_HOLD_AGAIN_AFTER = 0.5
_STAND_BACK_FOR = 2.0
_PASSING = (DeadlockDetected, SerializationFailure, LockNotAvailable)
_FORGET_EVERY = 600.0
_BRIEFLY = Timings(connect=timedelta(seconds=1), action=timedelta(seconds=2))  # the role is not to be lost by it


class Listener:
    """Hears one node. `run` returns when `stop` is set."""

    def __init__(self, settings: Settings, node: Node, slots: Freer) -> None:
        self._settings = settings
        self._node = node
        self._slots = slots
        self._ears = Ears(node)
        self._epoch = 0  # of the role when it was held last

    def run(self, stop: threading.Event) -> None:
        name = listener_of(self._node.name)
        try:
            while not stop.is_set():
                try:
                    with hold(self._settings, name, stop, while_waiting=self._hand_in) as role:
                        if role is None:
                            return
                        self._epoch = role.epoch
                        logger.info("listening", node=self._node.name, epoch=role.epoch)
                        self._listen(role, stop)
                except DBAPIError as error:
                    logger.warning("role_lost", node=self._node.name, error=reason(error.orig))
                    # whoever has heard goes first: what it knows, nobody else can look up
                    stop.wait(_HOLD_AGAIN_AFTER if self._ears.is_open else _STAND_BACK_FOR)
        finally:
            self._ears.close()

    def _listen(self, role: Role, stop: threading.Event) -> None:
        self._register(role)
        self._write(role.connection)  # what was taken before the role was lost
        self._ears.open()
        reconciler = Reconciler(
            self._settings, self._node.name, role.connection, self._ears.link, lambda: self._catch_up(role.connection)
        )
        hearing = False
        next_beat = next_look = next_second_look = next_forgetting = 0.0
        while not stop.is_set():
            behind = self._ears.read(_WAKE_EVERY)
            if hearing and self._ears.whole_since is None:
                hearing, next_look = False, 0.0  # as soon as it is up
                self._say_deaf(role, self._ears.why_down)
            self._write(role.connection)
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
            if now >= next_look and self._ears.is_up and not behind:
                if hearing:
                    self._look(reconciler.overdue)
                else:
                    hearing = self._hear_again(role, reconciler)
                next_look = now + _LOOK_EVERY
            if not self._ears.is_up:
                next_look = 0.0
        self._say_deaf(role, "the listener was stopped")  # nothing more is granted, and whoever comes next looks up
        self._ears.close()
        self._catch_up(role.connection)

    def _hand_in(self, connection: Connection) -> None:
        """Another one listens: what we heard until now is written all the same, and no more is heard.

        Unless that is we: a session of ours that Postgres has not given up yet.
        """
        if self._ears.is_open and epoch_of(connection, listener_of(self._node.name)) != self._epoch:
            self._ears.close()
        self._catch_up(connection)

    def _catch_up(self, connection: Connection) -> None:
        """Writes whatever was heard before this."""
        self._write(connection)
        behind = True
        while behind:
            behind = self._ears.read()
            self._write(connection)

    def _register(self, role: Role) -> None:
        with role.connection.begin():
            role.connection.exec_driver_sql(
                "INSERT INTO nodes (name, max_calls, listener_epoch, sip_address, listening_since)"
                " VALUES (%(name)s, %(max_calls)s, %(epoch)s, %(sip_address)s, %(since)s)"
                " ON CONFLICT (name) DO UPDATE SET max_calls = excluded.max_calls, sip_address = excluded.sip_address,"
                " listener_epoch = excluded.listener_epoch, heard_at = NULL, listening_since = excluded.listening_since",
                {
                    "name": self._node.name,
                    "max_calls": self._node.max_calls,
                    "epoch": role.epoch,
                    "sip_address": self._settings.sip_address or self._settings.external_address,
                    "since": self._ears.whole_since,
                },
            )

    def _hear_again(self, role: Role, reconciler: Reconciler) -> bool:
        """The link is up: says so, and looks up what was missed. False if it broke again meanwhile.

        Also where nothing was: the database was away and the link was not, or so it seemed.
        """
        link = self._ears.link
        try:
            startup, version = link.startup(), link.version()
            with role.connection.begin():
                told = role.connection.exec_driver_sql(
                    "UPDATE nodes SET listening_since = coalesce(%(since)s::timestamptz, clock_timestamp()),"
                    " core_startup = %(startup)s, version = %(version)s,"
                    " started_at = CASE WHEN core_startup <> %(startup)s THEN clock_timestamp() ELSE started_at END"
                    " WHERE name = %(node)s RETURNING listening_since, clock_timestamp() AS now",
                    {
                        "node": self._node.name,
                        "startup": startup,
                        "version": version,
                        "since": self._ears.whole_since,
                    },
                ).one()
            self._ears.whole_since = told.listening_since
            self._free(reconciler.after_gap(told.now))
        except (AmiError, OperationalError) as error:
            if not _passes(error):
                raise
            logger.warning("gap_not_looked_up", node=self._node.name, error=_said(error))
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

    def _write(self, connection: Connection) -> None:
        """Writes what was seen; on an error it is kept, and written first when the database is back."""
        seen = self._ears.unwritten
        if not seen:
            return
        reached(Point.LISTENER_HEARD)
        try:
            recorded = self._record(connection, seen)
        except (IntegrityError, DataError):
            recorded = self._record_singly(connection, seen)
        except OperationalError as error:
            if not _passes(error):
                raise
            recorded = self._record(connection, seen)  # of two that waited for each other the other one is through
        self._ears.unwritten = []
        reached(Point.LISTENER_WROTE)
        self._free(recorded.over)
        reached(Point.LISTENER_FREED)
        if recorded.news:
            self._slots.wake()

    def _record(self, connection: Connection, seen: Sequence[Sighting]) -> Recorded:
        with connection.begin():
            complete = [*self._missed(connection, seen), *self._trusted(connection, seen)]
            recorded = ledger.record(connection, complete, timer_b=self._settings.timer_b)
            repairs.count(connection, {Repair.VERDICT_OVERTURNED: recorded.overturned})
            reached(Point.LISTENER_WRITES)
        return recorded

    def _record_singly(self, connection: Connection, seen: Sequence[Sighting]) -> Recorded:
        """What the ledger refuses of one attempt, which is a fault of ours, does not hold up the others."""
        over: list[Attempt] = []
        news = False
        for attempt_id in dict.fromkeys(sighting.attempt_id for sighting in seen):
            try:
                recorded = self._record(connection, [s for s in seen if s.attempt_id == attempt_id])
                over += recorded.over
                news = news or recorded.news
            except (IntegrityError, DataError) as error:
                logger.error("sightings_refused", attempt=str(attempt_id), error=type(error.orig).__name__)
        return Recorded(over=over, news=news)

    def _missed(self, connection: Connection, seen: Sequence[Sighting]) -> list[Sighting]:
        """Of channels made before we listened that have ended now: Asterisk's own word, their answer may be among it."""
        older = [s.attempt_id for s in seen if s.sight is Sight.ENDED and s.channel_at is None]
        return [s for s in written_down(connection, older) if s.sight is not Sight.ENDED] if older else []

    def _trusted(self, connection: Connection, seen: Sequence[Sighting]) -> list[Sighting]:
        """Without the refusals of attempts claimed before everything was heard: those are looked up instead.

        A stream is whole since it was told so: what was heard before that is of attempts claimed before that.
        """
        refused = [s.attempt_id for s in seen if s.sight is Sight.NOT_PLACED]
        if not refused:
            return list(seen)
        heard_whole = set(
            connection.exec_driver_sql(
                "SELECT id FROM attempts WHERE id = ANY (%(ids)s::uuid[]) AND initiated_at > %(since)s::timestamptz",
                {"ids": refused, "since": self._ears.whole_since},
            ).scalars()
        )
        return [s for s in seen if s.sight is not Sight.NOT_PLACED or s.attempt_id in heard_whole]

    def _look(self, look: Callable[[], list[Attempt]]) -> None:
        try:
            self._free(look())
        except (AmiError, OperationalError) as error:  # the link will say that it is down, or the next look will do
            if not _passes(error):
                raise
            logger.warning("look_failed", node=self._node.name, error=_said(error))

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


def _passes(error: AmiError | OperationalError) -> bool:
    """Whether it says nothing against the role or the database: the same will do a moment later."""
    return isinstance(error, AmiError) or isinstance(error.orig, _PASSING)


def _said(error: AmiError | OperationalError) -> str:
    return str(error) if isinstance(error, AmiError) else reason(error.orig)
