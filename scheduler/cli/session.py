"""The ledger and Redis for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from sqlalchemy import Connection, Engine

from models.database import open_engine, readable_errors
from models.errors import Invalid
from models.settings import Settings
from models.slots import Slots, connect
from scheduler.presence import redis_client


@contextmanager
def ledger(settings: Settings) -> Iterator[Engine]:
    """Raises `Unavailable` for a Postgres that does not answer, now or later in the block."""
    engine = open_engine(settings, "trunkline-cli", pool_size=2)
    try:
        with readable_errors():
            yield engine
    finally:
        engine.dispose()


@contextmanager
def transaction(settings: Settings) -> Iterator[Connection]:
    """Committed when the block ends well. Raises `Unavailable` for a Postgres that does not answer."""
    with ledger(settings) as engine, engine.begin() as connection:
        yield connection


@contextmanager
def bell(settings: Settings) -> Iterator[Slots]:
    """The slots, from a Redis that has just answered. Raises `Unavailable` before anything is written."""
    with redis_client(settings) as client:
        yield Slots(client)


@contextmanager
def glance(settings: Settings) -> Iterator[Slots | None]:
    """The slots for people to look at, whether or not Redis answers; None where there is none."""
    if settings.redis_url is None:
        yield None
        return
    with connect(settings.redis_url.get_secret_value()) as client:
        yield Slots(client)


def wake(settings: Settings) -> None:
    """Tells the leader that a trunk has changed; if nobody hears, it looks by itself within a second."""
    if settings.redis_url is not None:
        try:
            with connect(settings.redis_url.get_secret_value()) as client:
                Slots(client).wake()
        except (redis.RedisError, Invalid):
            pass
