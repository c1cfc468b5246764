"""The right to have a call up: leases on slots in Redis, one script, all limits or none.

A scope is whatever has a limit: a trunk, a node, a campaign, an agent. A lease names its attempt and expires,
but its expiry frees nothing; it only asks for reconciliation (invariant 3). Time is Redis's.

Redis's memory is suspect at every new connection (invariant 8). The leader's client therefore never
reconnects by itself in the middle of its work: a new connection is refused until the slots have been
rebuilt from the ledger. Everybody else's scripts are refused while the epoch key is missing.

    SlotsError
    ├── Forgot   Redis has lost its memory, or may have: rebuild before the next grant
    ├── Stale    a newer leader rules: step down
    └── Away     Redis does not answer
        └── Full     it answers that it has no memory left: nothing was taken, and what is held is still known
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import Any
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.retry import Retry

from models.errors import Invalid

LEASE = timedelta(minutes=5)
TOMBSTONE = timedelta(minutes=2)
YOUNGEST_ORPHAN = timedelta(seconds=30)
CANCEL_LINGERS = timedelta(milliseconds=50)

# Asterisk takes some milliseconds from an Originate to its INVITE, and not always the same: a rate is paced a
# little under its limit, so that no second at the carrier sees more than the limit and one.
_PACE = 0.985
_BURST = timedelta(milliseconds=20)  # a leader that wakes up late makes up for it within this; the line evens it out
LONGEST_WAIT = timedelta(milliseconds=100)  # in a trunk's line, between the claim and the Originate

_PREFIX = "{trunkline}:"
_EPOCH, _LEASES, _LINGERING, WAKE = (_PREFIX + name for name in ("epoch", "leases", "lingering", "wake"))
_ASK_THE_BELL_EVERY, _BELL_ANSWERS_IN = 5.0, 2.0  # seconds
_TRY_AGAIN_AFTER = 5.0  # seconds for which a Redis that did not answer is left alone
_MOST_KEPT = 100_000
_TIMEOUTS: Mapping[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0, "socket_keepalive": True}


class SlotsError(Exception):
    """The slots cannot be used now."""


class Forgot(SlotsError):
    """Redis has lost its memory, or may have."""


class Stale(SlotsError):
    """A newer leader rules."""


class Away(SlotsError):
    """Redis does not answer."""


class Full(Away):
    """Redis has no memory left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Something with a limit. Two are the same scope when kind and id are."""

    kind: str
    id: str
    limit: int
    calls_per_second: float | None = None

    @property
    def slots_key(self) -> str:
        return slots_key(self.kind, self.id)

    @property
    def rate_key(self) -> str:
        return rate_key(self.kind, self.id)

    @property
    def pace(self) -> tuple[int, int]:
        """The GCRA's emission interval and burst tolerance in µs."""
        return pace(self.calls_per_second)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    attempt_id: UUID
    scopes: tuple[Scope, ...]
    takes_over: UUID | None = None  #: the attempt before it, whose slots it gets if they are held still


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    granted: frozenset[UUID]
    room: Mapping[str, int]  #: by slots key, how many leases each scope would take now
    ask_again_in: timedelta | None  #: when the next token comes or a lingering slot is freed; None: when woken


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    put_back: int
    freed: int
    expired: int
    young: tuple[UUID, ...] = ()  #: leases too young to be freed for want of a row that holds them


def slots_key(kind: str, id: object) -> str:
    return f"{_PREFIX}slots:{kind}:{id}"


def line_key(trunk_id: object) -> str:
    """From which moment the next attempt of the trunk may be sent."""
    return f"{_PREFIX}line:trunk:{trunk_id}"


def rate_key(kind: str, id: object) -> str:
    return f"{_PREFIX}rate:{kind}:{id}"


def held_keys(*, trunk_id: UUID, node: str, campaign_id: UUID | None, agent_id: UUID | None) -> str:
    """The slots that an open attempt holds, as the scripts write them down; `agent_id` is None for an agent without a limit."""
    keys = [slots_key("trunk", trunk_id), slots_key("node", node)]
    if campaign_id:
        keys.append(slots_key("campaign", campaign_id))
    if agent_id:
        keys.append(slots_key("agent", agent_id))
    return " ".join(keys)


def pace(calls_per_second: float | None) -> tuple[int, int]:
    if not calls_per_second:
        return 0, 0
    return round(1_000_000 / (calls_per_second * _PACE)), _micros(_BURST)


def connect(url: str, *, briefly: bool = False) -> redis.Redis:
    """A client with its bounds, for everybody but the leader's grants. Raises `Invalid` for an address that is none.

    `briefly`, for whoever holds a role, or is waited for: a Redis that hangs is waited for once, 2 s, and does not cost the role.
    """
    tries, check = (0, 0) if briefly else (1, 5)
    try:
        return redis.Redis.from_url(url, health_check_interval=check, retry=Retry(NoBackoff(), tries), **_TIMEOUTS)
    except ValueError as error:
        raise Invalid("TRUNKLINE_REDIS_URL", "must be redis://:PASSWORD@HOST:PORT/0") from error


class Bell:
    """Wakes the leader when a slot was freed or there is something new to call. One thread listens.

    A message that is lost costs at most the leader's idle second. The waiting is done here and not by
    a blocking command: the server looks at those only ten times a second. A peer that is gone and has not said so is
    found by asking it.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._messages = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._asked_at = self._heard_at = 0.0

    def wait(self, at_most: timedelta) -> bool:
        """Returns when rung since the last time, else after so long; whether there is something new to call. Raises `Away`."""
        try:
            if not self._messages.subscribed:
                self._messages.subscribe(WAKE)
                self._asked_at = self._heard_at = time.monotonic()
            message = self._messages.get_message(timeout=max(0.0005, at_most.total_seconds()))
            new = False
            while message is not None:  # rung several times is rung
                self._heard_at = time.monotonic()
                new = new or message["data"] == b"work"
                message = self._messages.get_message(timeout=0)
            self._ask()
            return new
        except redis.RedisError as error:
            raise Away(f"Redis: {error}") from error

    def _ask(self) -> None:
        """Everything that has come is read by now, so that an answer which is missing is missing."""
        now = time.monotonic()
        if self._asked_at > self._heard_at:
            if now - self._asked_at > _BELL_ANSWERS_IN:
                raise redis.TimeoutError("nobody at the other end of the bell")
        elif now - self._heard_at > _ASK_THE_BELL_EVERY:
            self._messages.ping()
            self._asked_at = time.monotonic()

    def close(self) -> None:
        """The next wait subscribes anew."""
        self._messages.close()


class Slots:
    """What anybody may do: free what is over, get in line for sending. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def free(self, attempt_ids: Sequence[UUID], *, linger: timedelta = timedelta(0)) -> None:
        """Frees the slots of attempts whose end is committed, and wakes the leader.

        Raises `Away`; what was not freed is freed by the leader's audit.
        """
        if attempt_ids:
            _free(self._redis, attempt_ids, linger=linger)

    def turns(self, sends: Sequence[tuple[UUID, float]]) -> list[timedelta | None]:
        """When each attempt may be sent, from now: `sends` are its trunk and that trunk's calls a second.

        None where the line is longer than `LONGEST_WAIT`: it is to be given back. Raises `Away`.
        """
        lines = Counter(sends)
        arguments = [_micros(LONGEST_WAIT)]
        for (_, calls_per_second), many in lines.items():
            arguments += [pace(calls_per_second)[0], many]
        waits = iter(_run(self._redis, "turns", [_EPOCH, *(line_key(trunk_id) for trunk_id, _ in lines)], arguments))
        of_trunk = {trunk: [next(waits) for _ in range(many)] for trunk, many in lines.items()}
        return [timedelta(microseconds=wait) if (wait := of_trunk[trunk].pop(0)) >= 0 else None for trunk in sends]

    def wake(self) -> None:
        """Tells the leader that there is something to do. Best effort: it looks by itself every second."""
        with suppress(Away):
            self.ring()

    def ring(self) -> None:
        """The same for whoever wants to know whether it could. Raises `Away`."""
        try:
            self._redis.publish(WAKE, "work")
        except redis.RedisError as error:
            raise Away(f"Redis: {error}") from error

    def token_in(self, kind: str, id: object) -> timedelta:
        """Until the scope's calls a second allow the next call; for people, not for decisions. Raises `Away`."""
        try:
            seconds, micros = self._redis.time()
            arrival = self._redis.get(rate_key(kind, id))
        except redis.RedisError as error:
            raise Away(str(error)) from error
        return max(timedelta(0), timedelta(microseconds=int(arrival or 0) - seconds * 1_000_000 - micros))

    def in_use(self, kind: str, id: object) -> int:
        """How many leases a scope has; for people, not for decisions."""
        try:
            return int(self._redis.zcard(slots_key(kind, id)))
        except redis.RedisError as error:
            raise Away(str(error)) from error


class Freer:
    """Frees for whoever may not be held up: what Redis did not take is kept, and tried again when Redis has been left alone.

    Not thread-safe. What is lost with the process, or is more than can be kept, the leader's audit frees.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._kept: dict[UUID, timedelta] = {}
        self._not_before = 0.0

    def free(self, over: Mapping[UUID, timedelta]) -> None:
        """Frees what is over, each after so long, and what is kept; to be called now and then, also with nothing.

        Raises `Away` when that has just been found out; it has kept them then.
        """
        self._kept |= over
        for id in list(self._kept)[:-_MOST_KEPT]:
            del self._kept[id]
        if self._kept and time.monotonic() >= self._not_before:
            with self._leaving_alone():
                for length in set(self._kept.values()):
                    self._slots.free([id for id, lingers in self._kept.items() if lingers == length], linger=length)
            self._kept.clear()

    def wake(self) -> None:
        """Wakes the leader, if Redis answers."""
        if time.monotonic() >= self._not_before:
            with suppress(Away), self._leaving_alone():
                self._slots.ring()

    @contextmanager
    def _leaving_alone(self) -> Iterator[None]:
        try:
            yield
        except Away:
            self._not_before = time.monotonic() + _TRY_AGAIN_AFTER
            raise


class LeaderSlots:
    """What only the leader may do, under its epoch. Not thread-safe."""

    def __init__(self, url: str, epoch: int) -> None:
        self._epoch = epoch
        self._trusted = False
        pool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), redis_connect_func=self._on_connect, max_connections=1, **_TIMEOUTS
        )
        self._redis = redis.Redis(connection_pool=pool)

    def _on_connect(self, connection: Connection) -> None:
        if self._trusted:
            raise redis.ConnectionError("new connection: rebuild first")
        connection.on_connect()  # type: ignore[no-untyped-call]

    def rebuild(self, holders: Iterable[tuple[UUID, str]], suspect_rates: Sequence[str]) -> None:
        """Makes the slots what the ledger says; before this, and after any doubt, nothing is granted.

        `holders` are the attempts that hold a slot, with `held_keys`; `suspect_rates` the rate keys
        that were used in the last second: they start a second from now.
        """
        self.distrust()
        keys = [_EPOCH, _LEASES, _LINGERING, *suspect_rates]
        arguments: list[str | int] = [self._epoch, _micros(LEASE), len(suspect_rates)]
        for attempt_id, held in holders:
            keys.append(_tombstone(str(attempt_id)))
            arguments += [str(attempt_id), held]
        if _run(self._redis, "rebuild", keys, arguments) == b"STALE":
            raise Stale
        self._trusted = True

    def distrust(self) -> None:
        """From now on `rebuild` is needed before the next grant; it connects anew, maybe to another server than this one."""
        self._trusted = False
        self._redis.connection_pool.disconnect()

    def take(self, scopes: Sequence[Scope], leases: Sequence[Lease]) -> Taken:
        """Takes what the limits allow, in order; without leases it only looks.

        Raises `Forgot`, `Stale` or `Away`: then nothing may be granted before a rebuild. (Slots that
        an interrupted call did take are found by that rebuild.) Raises `Full` when nothing can be taken.
        """
        if not self._trusted:
            raise Forgot
        number = {scope.slots_key: index for index, scope in enumerate(scopes, start=1)}
        keys = [_EPOCH, _LEASES, _LINGERING]
        arguments: list[str | int] = [self._epoch, _micros(LEASE), len(scopes)]
        for scope in scopes:
            keys += [scope.slots_key, scope.rate_key]
            arguments += [scope.limit, *scope.pace]
        for lease in leases:
            indexes = ",".join(str(number[scope.slots_key]) for scope in lease.scopes)
            arguments += [str(lease.attempt_id), indexes, str(lease.takes_over or "")]
        reply = self._run_as_leader("take", keys, arguments)
        wait, room, results = reply[1], reply[2 : 2 + len(scopes)], reply[2 + len(scopes) :]
        return Taken(
            granted=frozenset(lease.attempt_id for lease, taken in zip(leases, results, strict=True) if taken),
            room=dict(zip(number, map(int, room), strict=True)),
            ask_again_in=timedelta(microseconds=int(wait)) if wait else None,
        )

    def free(self, attempt_ids: Sequence[UUID], *, linger: timedelta = timedelta(0)) -> None:
        """As `Slots.free`, and only while our epoch rules. Raises `Forgot`, `Stale` or `Away`."""
        if not attempt_ids:
            return
        if not self._trusted:
            raise Forgot
        try:
            freed = _free(self._redis, attempt_ids, linger=linger, epoch=self._epoch)
        except Away:
            self.distrust()
            raise
        if freed == -1:
            self.distrust()
            raise Forgot
        if freed == -2:
            raise Stale

    def audit(self, holders: Sequence[tuple[UUID, str]]) -> Audit:
        """Puts back leases that open attempts lack, frees those whose attempt is over; see `audit.lua`.

        A lease from before its agent got a limit counts for it from now on.
        """
        keys = [_EPOCH, _LEASES, _LINGERING, WAKE, *(_tombstone(str(id)) for id, _ in holders)]
        arguments: list[str | int] = [self._epoch, _micros(LEASE), _micros(YOUNGEST_ORPHAN)]
        for attempt_id, held in holders:
            arguments += [str(attempt_id), held]
        _, put_back, freed, expired, *young = self._run_as_leader("audit", keys, arguments)
        young_ids = tuple(UUID(id.decode()) for id in young)
        return Audit(put_back=put_back, freed=freed, expired=expired, young=young_ids)

    def close(self) -> None:
        self._redis.connection_pool.disconnect()  # the client leaves a pool alone that it was given

    def _run_as_leader(self, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> list[Any]:
        try:
            reply: list[Any] = _run(self._redis, name, keys, arguments)
        except Full:
            raise
        except Away:
            self.distrust()
            raise
        if reply[0] == b"FORGOT":
            self.distrust()
            raise Forgot
        if reply[0] == b"STALE":
            raise Stale
        return reply


def _free(
    client: redis.Redis, attempt_ids: Sequence[UUID], *, linger: timedelta = timedelta(0), epoch: int | str = ""
) -> int:
    ids = [str(id) for id in attempt_ids]
    keys = [_EPOCH, _LEASES, _LINGERING, WAKE, *map(_tombstone, ids)]
    return int(_run(client, "free", keys, [_micros(linger), _millis(TOMBSTONE), epoch, *ids]))


@cache
def _script(name: str) -> tuple[str, str]:
    text = (resources.files("models") / "lua" / f"{name}.lua").read_text()
    return text, redis.Redis().register_script(text).sha


def _run(client: redis.Redis, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
    text, sha = _script(name)
    try:
        try:
            return client.evalsha(sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return client.eval(text, len(keys), *keys, *arguments)
    except redis.OutOfMemoryError as error:
        raise Full(f"Redis: {error}") from error
    except redis.RedisError as error:
        raise Away(f"Redis: {error}") from error


def _tombstone(attempt_id: str) -> str:
    return f"{_PREFIX}gone:{attempt_id}"


def _micros(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def _millis(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
