"""What has to be up before something is started: a call that waits unseen for a dead part would ring hours later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from sqlalchemy import Connection

from models.errors import Invalid, Unavailable
from models.nodes import BreakerState, breakers
from models.settings import Settings
from models.slots import Slots, connect


def require_asterisk(connection: Connection) -> None:
    """Raises `Unavailable` when no node has a live listener, or all of them rest: nothing could be dialled."""
    heard = [breaker for breaker in breakers(connection) if breaker.is_heard]
    if not heard:
        raise Unavailable(
            "Asterisk: no node is up and listened to; nothing was written; start it with `trunkline up`, or try again in a moment"
        )
    if all(breaker.state is BreakerState.OPEN for breaker in heard):
        raise Unavailable(
            f"Asterisk: takes no calls ({heard[0].last_failure}); nothing was written; see `trunkline doctor`, or try again in a moment"
        )


def open_redis(settings: Settings) -> redis.Redis:
    """A client that has not asked yet. Raises `Unavailable` where there is no Redis, `Invalid` for an address that is none."""
    if settings.redis_url is None:
        raise Unavailable("Redis: not running; start trunkline with `trunkline up`, or set TRUNKLINE_REDIS_URL")
    return connect(settings.redis_url.get_secret_value(), briefly=True)  # somebody waits for the answer


def redis_client(settings: Settings) -> redis.Redis:
    """A client that has been answered. Raises as `open_redis`, and `Unavailable`."""
    client = open_redis(settings)
    try:
        client.ping()
    except redis.RedisError as error:
        raise Unavailable(
            f"Redis does not answer: {error}; nothing was written; is trunkline up?",
            to_anybody="Redis does not answer; nothing was written",
        ) from error
    return client


@contextmanager
def bell(settings: Settings) -> Iterator[Slots]:
    """The slots, from a Redis that has just answered. Raises `Unavailable` before anything is written."""
    with redis_client(settings) as client:
        yield Slots(client)


@contextmanager
def glance(settings: Settings) -> Iterator[Slots | None]:
    """The slots to be looked at, whether or not Redis answers; None where there is none."""
    if settings.redis_url is None:
        yield None
        return
    with open_redis(settings) as client:
        yield Slots(client)


def wake(settings: Settings) -> None:
    """Tells the leader that something has changed; if nobody hears, it looks by itself within a second."""
    with suppress(redis.RedisError, Invalid), glance(settings) as slots:
        if slots is not None:
            slots.wake()
