"""Who leads: a role is a Postgres advisory lock on a connection of its own (invariant 7).

    wait ──try every second──▶ hold ──connection lost, or not used for 6 s──▶ wait

The holder does its work through the very connection that holds the lock, and uses it at least every
2 s. If it freezes, Postgres ends the session after 6 s (`idle_session_timeout`), the lock passes on,
and the next statement of the frozen one fails: it can write nothing. The lock hands out an epoch that
grows each time; Redis refuses what comes with a lower one.

A pooler in between would defeat this: the connection has to be a direct one.
"""

from __future__ import annotations

import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, NullPool
from sqlalchemy.exc import DBAPIError

from models.database import database_url, make_engine, reason
from models.settings import Settings

logger = structlog.get_logger(__name__)

SCHEDULER, PROBER, WEBHOOKS = "trunkline-scheduler", "trunkline-prober", "trunkline-webhook-sweep"
LOST_AFTER_MS = 6000
BEAT_SECONDS = 2.0
_TRY_EVERY_SECONDS = 1.0
_AGAIN_AFTER_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role that is held for as long as `connection` lives."""

    name: str
    epoch: int
    connection: Connection


@contextmanager
def hold(
    settings: Settings,
    name: str,
    stop: threading.Event,
    *,
    while_waiting: Callable[[Connection], None] = lambda connection: None,
) -> Iterator[Role | None]:
    """Waits for the role and yields it; None if `stop` was set first.

    `while_waiting` is called whenever somebody else was found to hold it, and may write what needs no role.

    Raises SQLAlchemy's DBAPIError, here or from the connection, when Postgres does not answer or the
    role was lost: let go of everything and hold again.
    """
    # a session that is sending to a frozen holder is not idle: TCP has to give it up
    bounds = ("idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout")
    engine = make_engine(
        database_url(settings),
        name,
        statement_timeout_ms=5000,
        options="".join(f" -c {bound}={LOST_AFTER_MS}" for bound in bounds),
        poolclass=NullPool,
    )
    try:
        with engine.connect() as connection:
            while not _try_lock(connection, name):
                while_waiting(connection)
                if stop.wait(_TRY_EVERY_SECONDS):
                    yield None
                    return
            with connection.begin():
                epoch: int = connection.exec_driver_sql(
                    "INSERT INTO roles (name, epoch, holder, since) VALUES (%(name)s, 1, %(holder)s, now())"
                    " ON CONFLICT (name) DO UPDATE SET epoch = roles.epoch + 1, holder = excluded.holder, since = now()"
                    " RETURNING epoch",
                    {"name": name, "holder": f"{socket.gethostname()}:{os.getpid()}"},
                ).scalar_one()
            yield Role(name=name, epoch=epoch, connection=connection)
    finally:
        engine.dispose()


def serve(settings: Settings, name: str, stop: threading.Event, term: Callable[[Role], None]) -> None:
    """Holds the role again and again until `stop` is set, and does `term` with it each time.

    For what runs in a thread beside the leader: whatever goes wrong is logged, and a second later it is tried again. Nobody
    else may suffer for it, and nobody else would start it again.
    """
    while not stop.is_set():
        try:
            with hold(settings, name, stop) as role:
                if role is None:
                    return
                term(role)
        except DBAPIError as error:
            logger.warning("role_lost", role=name, error=reason(error.orig))
        except Exception as error:
            logger.exception("role_fault", role=name, error=type(error).__name__)
        stop.wait(_AGAIN_AFTER_SECONDS)


def listener_of(node: str) -> str:
    """The role of the listener of a node."""
    return f"trunkline-listener:{node}"


def is_held(connection: Connection, name: str) -> bool:
    """Whether anybody holds the role now; for people, since it may change in the next moment."""
    space, role = _key(name)
    return bool(
        connection.exec_driver_sql(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = %(space)s AND objid::bigint = %(role)s)",
            {"space": space, "role": role % 2**32},  # an oid has no sign
        ).scalar_one()
    )


def holder(connection: Connection, name: str) -> str | None:
    """Who holds the role now, as HOST:PID; None if nobody does."""
    if not is_held(connection, name):
        return None
    found: str | None = connection.exec_driver_sql(
        "SELECT holder FROM roles WHERE name = %(name)s", {"name": name}
    ).scalar()
    return found


def epoch_of(connection: Connection, name: str) -> int:
    """The epoch of whoever was the last to get the role; 0 if nobody ever did."""
    with connection.begin():
        epoch: int | None = connection.exec_driver_sql(
            "SELECT epoch FROM roles WHERE name = %(name)s", {"name": name}
        ).scalar()
    return epoch or 0


def _key(name: str) -> tuple[int, int]:
    """The two numbers of the advisory lock, each of 32 bits."""
    return 0x74726C, zlib.crc32(name.encode()) - 2**31


def _try_lock(connection: Connection, name: str) -> bool:
    space, role = _key(name)
    with connection.begin():
        return bool(
            connection.exec_driver_sql(
                "SELECT pg_try_advisory_lock(%(space)s, %(role)s)", {"space": space, "role": role}
            ).scalar_one()
        )
