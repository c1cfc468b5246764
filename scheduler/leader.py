"""The scheduler's leader: grants whenever something changes, and keeps house every second.

    wait for the role ──▶ rebuild slots ──▶ grant, publish, sleep until woken ──▶ ...
           ▲                    ▲                      │
           │                    └─── Redis in doubt ◀──┤
           └──────── role or database lost, or a newer epoch ◀┘

It works through the connection that holds its role, at least once a second: a frozen leader loses the
role in 6 s and can then write neither to Postgres nor, by its epoch, to Redis; nor does it publish what
it had in hand, which whoever leads now has published.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import redis
import structlog
from sqlalchemy.exc import DBAPIError

from models.database import reason
from models.points import Point, reached
from models.roles import LOST_AFTER_MS, SCHEDULER, Role, hold
from models.settings import Settings
from models.slots import CANCEL_LINGERS, Away, Bell, Forgot, Full, LeaderSlots, Stale, connect
from scheduler.grants import Granter, Round
from scheduler.housekeeping import Housekeeping
from scheduler.lines import Lines, load_lines

logger = structlog.get_logger(__name__)

Publish = Callable[[Sequence[UUID]], None]

_IDLE = timedelta(seconds=1)
_LINES_FOR = 0.2  # seconds that a snapshot of the lines is used
_RETRY_AFTER = 0.5


class Leader:
    """`run` returns when `stop` is set. `publish` sends the ids of committed attempts to the workers."""

    def __init__(self, settings: Settings, redis_url: str, publish: Publish) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._publish = publish
        self._redis = connect(redis_url, briefly=True)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with hold(self._settings, SCHEDULER, stop) as role:
                    if role is None:
                        return
                    logger.info("leading", epoch=role.epoch)
                    _Term(role, self._redis_url, self._redis, self._publish).serve(stop)
            except DBAPIError as error:
                logger.warning("role_lost", role=SCHEDULER, error=reason(error.orig))
            except Stale:
                logger.warning("stepping_down", reason="a newer leader rules")
            stop.wait(_RETRY_AFTER)


class _Term:
    """One tenure of the role."""

    def __init__(self, role: Role, redis_url: str, client: redis.Redis, publish: Publish) -> None:
        self._connection = role.connection
        self._publish = publish
        self._bell = Bell(client)
        self._leader_slots = LeaderSlots(redis_url, role.epoch)
        self._granter = Granter(self._leader_slots)
        self._house = Housekeeping(role.connection)
        self._lines: Lines | None = None
        self._lines_at = 0.0
        self._limited: frozenset[UUID] = frozenset()  # agents with a limit, whose open calls all count for it
        self._led_at = time.monotonic()  # Postgres heard of us after this, and keeps the role for us for 6 s from then

    def serve(self, stop: threading.Event) -> None:
        try:
            self._house.ensure_event_partitions()
            rebuilt = False
            while not stop.is_set():
                try:
                    if not rebuilt:
                        self._led_at = time.monotonic()
                        self._house.rebuild(self._leader_slots)
                        rebuilt, self._lines, self._limited = True, None, frozenset()
                        stop.wait(CANCEL_LINGERS.total_seconds())  # what ended just now may be up for so long
                        self._publish_quietly(self._house.unclaimed(timedelta(0)))
                    self._round(stop)
                except (Away, Forgot) as doubt:
                    rebuilt = False
                    self._bell.close()
                    logger.warning("slots_in_doubt", error=str(doubt) or type(doubt).__name__)
                    self._keep_house_in_doubt(time.monotonic())
                    if isinstance(doubt, Away):
                        stop.wait(_RETRY_AFTER)
        finally:
            self._leader_slots.close()
            self._bell.close()

    def _round(self, stop: threading.Event) -> None:
        self._led_at = now = time.monotonic()
        lines = self._read_lines(now)
        if lines.hand_overs:
            hand_over_again_in = self._hand_over(lines)
            lines = self._read_lines(now)
        else:
            hand_over_again_in = _IDLE
        done = self._grant(lines)
        self._publish_quietly(done.attempt_ids)
        if self._house.is_due(now):
            freed = self._house.keep(now)
            reached(Point.LEADER_KEPT_HOUSE)
            self._leader_slots.free(freed)
            self._publish_quietly(self._house.unclaimed())
            if self._house.audit_is_due(now):
                self._house.audit(self._leader_slots, now)
        if done.tried:
            self._lines = None
        if done.attempt_ids and done.ask_again_in is None:
            return  # there may be room for more
        wait = _IDLE if not done.more_due or done.ask_again_in is None else min(_IDLE, done.ask_again_in)
        if self._bell.wait(min(wait, hand_over_again_in)):
            self._lines = None  # the new call may be from a number that is new, too

    def _keep_house_in_doubt(self, now: float) -> None:
        """The ledger is kept all the same, and with it the role.

        Nothing is freed or published, that comes with the rebuild: a Redis that hangs would cost us the role.
        """
        if self._house.is_due(now):
            self._house.keep(now)

    def _read_lines(self, now: float) -> Lines:
        if self._lines is None or now - self._lines_at > _LINES_FOR:
            with self._connection.begin():
                self._lines = load_lines(self._connection)
            self._lines_at = now
            if not self._limited.issuperset(self._lines.agents):
                # calls may be up that were granted before there was a limit: they count before the next grant
                self._house.audit(self._leader_slots, now)
            self._limited = frozenset(self._lines.agents)
        return self._lines

    def _grant(self, lines: Lines) -> Round:
        try:
            return self._granter.grant(self._connection, lines)
        except Full as full:  # what is held can still be freed, and is still known
            return self._none(full)

    def _none(self, full: Full) -> Round:
        logger.warning("nothing_granted", error=str(full))
        return Round(attempt_ids=(), more_due=False, ask_again_in=None)

    def _hand_over(self, lines: Lines) -> timedelta:
        """Calls that go to the next gateway, before all others; returns when to see to those that wait for a rate."""
        try:
            done = self._granter.hand_over(self._connection, lines)
        except Full as full:
            done = self._none(full)
        self._publish_quietly(done.attempt_ids)
        self._leader_slots.free(done.given_up)
        self._lines = None
        return (done.ask_again_in or _IDLE) if done.more_due else _IDLE

    def _publish_quietly(self, attempt_ids: Sequence[UUID]) -> None:
        """What cannot be published now stays queued in the ledger, and the sweep publishes it again."""
        if not attempt_ids:
            return
        reached(Point.LEADER_GRANTED)
        if time.monotonic() - self._led_at > LOST_AFTER_MS / 1000:
            logger.warning("not_published", attempts=len(attempt_ids), error="held up: another may lead")
            return
        try:
            self._publish(attempt_ids)
            reached(Point.LEADER_PUBLISHED)
        except Exception as error:
            logger.warning("not_published", attempts=len(attempt_ids), error=f"{type(error).__name__}: {error}")
