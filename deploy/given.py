"""What is yours and not embedded is asked before anything is started: an `up` beside a dead Redis would dial nobody."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import redis

from asterisk.pool import AmiError, AmiPool
from models.database import reason, sqlalchemy_url
from models.errors import Unavailable
from models.settings import Settings
from scheduler.presence import open_redis

_WAIT = timedelta(seconds=10)


def require_given(settings: Settings) -> None:
    """Raises `Unavailable`, naming the variable, for what does not answer, and `Invalid` for an address that is none.

    Of several Asterisk nodes one is enough: the others are dialled when they are there.
    """
    for variable, url in (
        ("TRUNKLINE_DATABASE_OWNER_URL", settings.database_owner_url),
        ("TRUNKLINE_DATABASE_URL", settings.database_url),
    ):
        if url is not None:
            _require_postgres(variable, url.get_secret_value())
    if settings.redis_url is not None:
        _require_redis(settings)
    if settings.nodes:
        _require_a_node(settings)


def _require_postgres(variable: str, url: str) -> None:
    sqlalchemy_url(url)
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        raise Unavailable(f"{variable}: Postgres does not answer: {reason(error)}") from error


def _require_redis(settings: Settings) -> None:
    try:
        with open_redis(settings) as client:
            client.ping()
    except redis.RedisError as error:
        raise Unavailable(f"TRUNKLINE_REDIS_URL: Redis does not answer: {error}") from error


def _require_a_node(settings: Settings) -> None:
    silent: list[str] = []
    with AmiPool(settings.nodes) as pool:
        for node in settings.nodes:
            try:
                pool.wait_up(node.name, _WAIT)  # its sender
                pool.channels(node.name)  # its listener
                return
            except AmiError as error:
                silent.append(f"{node.name}: {error}")
    raise Unavailable(f"TRUNKLINE_ASTERISK_NODES: no Asterisk answers: {'; '.join(silent)}")
