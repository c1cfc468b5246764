"""Connections to Postgres, each with its bounds, and the migrations.

No wait is unbounded: connecting takes at most 5 s, a dead peer is noticed by TCP keep-alive and
`tcp_user_timeout` in about 6 s, a statement of the services ends after 30 s. One whose kernel says
that it got everything, and who says nothing itself (frozen, or a proxy with nobody behind it), is given
up 3 s after it should have ended the statement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from models.errors import Invalid, TrunklineError, Unavailable
from models.settings import Settings

T = TypeVar("T")

_BOUNDS = {
    "connect_timeout": 5,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 4,
    "tcp_user_timeout": 6000,
}
# one process's services log in as a member of this role and act as it, so that they own nothing
SERVICES = "trunkline_services"
_STATEMENT_TIMEOUT_MS = 30_000
_PATIENCE = 3.0  # seconds that an answer may be late after the statement's own end
_WAKE_EVERY = 0.1  # psycopg's own: a Ctrl-C is noticed so soon
NEVER_IDLE = " -c idle_in_transaction_session_timeout=4000"
"""For those who wait for nothing else within a transaction: one who falls silent there is frozen, and its locks stop everybody.

Shorter than the statements of whoever holds a role (5 s): who waits for those locks gets them, and does not lose the role.
"""
_MIGRATING = 0x7472756E6B  # advisory lock: two that migrate at once take turns


def sqlalchemy_url(url: str) -> URL:
    """`postgresql://...` as given, spoken by psycopg 3.

    Raises `Invalid` for anything that is not the address of a Postgres database.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.path.strip("/"):
            raise ValueError
        return make_url(url).set(drivername="postgresql+psycopg")
    except Exception:  # what it says may quote a part of the password
        raise Invalid("TRUNKLINE_DATABASE_URL", "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None


def connect_arguments(
    application: str, *, role: str | None = SERVICES, statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS
) -> dict[str, Any]:
    """libpq's parameters for a connection of ours; `application` is the `writer` of its rows in `call_events`."""
    options = f"-c statement_timeout={statement_timeout_ms} -c timezone=UTC"
    return {**_BOUNDS, "application_name": application, "options": options + (f" -c role={role}" if role else "")}


def database_url(settings: Settings) -> str:
    """The services' login.

    Raises `Unavailable` where there is none: nothing is set and nothing embedded has been started.
    """
    if settings.database_url is None:
        raise Unavailable("Postgres: not running; start trunkline with `trunkline up`, or set TRUNKLINE_DATABASE_URL")
    return settings.database_url.get_secret_value()


class _Connection(psycopg.Connection[Any]):
    """Closes itself when an answer does not come: what came later would be taken for that to the next question."""

    longest_wait = _STATEMENT_TIMEOUT_MS / 1000 + _PATIENCE

    def wait(self, gen: PQGen[T], interval: float = _WAKE_EVERY, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.longest_wait if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if timeout is not None or self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise  # Postgres has answered
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.longest_wait:g} s") from error


def make_engine(
    url: str,
    application: str,
    *,
    role: str | None = SERVICES,
    statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS,
    options: str = "",
    **pool: Any,
) -> Engine:
    """An engine whose every wait is bounded; `options` are more of the server's settings."""
    arguments = connect_arguments(application, role=role, statement_timeout_ms=statement_timeout_ms)
    arguments["options"] += options
    engine = create_engine(
        sqlalchemy_url(url),
        connect_args=arguments,
        hide_parameters=True,  # phone numbers and passwords are parameters
        **pool,
    )

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, words: Any, parameters: Any) -> _Connection:
        connection = _Connection.connect(*words, **parameters)
        connection.longest_wait = statement_timeout_ms / 1000 + _PATIENCE
        return connection

    return engine


def open_engine(
    settings: Settings,
    application: str,
    *,
    pool_size: int = 5,
    statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS,
    options: str = "",
) -> Engine:
    """A pool of checked connections that act as the services' role; `options` as in `make_engine`."""
    return make_engine(
        database_url(settings),
        application,
        statement_timeout_ms=statement_timeout_ms,
        options=options,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        pool_use_lifo=True,
    )


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns a database that does not answer into one line for a person."""
    try:
        yield
    except OperationalError as error:
        raise Unavailable(
            f"Postgres does not answer: {reason(error.orig)}; is trunkline up?", to_anybody="Postgres does not answer"
        ) from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            raise Unavailable(
                "Postgres has no tables of this version of trunkline: run `trunkline up`, which migrates"
            ) from error
        raise


def reason(error: BaseException | None) -> str:
    """What Postgres or libpq says, as one line; without libpq's question, which comes after the cause.

    Of an error of the server its message alone: details quote rows.
    """
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("Is the server running"))
    return said or type(error).__name__


def migrate(owner_url: str) -> None:
    """Brings the database to this version's tables; does nothing if it is there already.

    Safe to run from several processes at once. Raises `Unavailable` if it cannot connect, and
    `TrunklineError` if the login may not create what is needed.
    """
    from alembic import command  # a tenth of the time that a command takes, and only `up` needs it
    from alembic.config import Config

    engine = make_engine(owner_url, "trunkline-migrate", role=None)
    config = Config()
    config.set_main_option("script_location", str(Path(str(resources.files("models"))) / "migrations"))
    try:
        with readable_errors(), engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.exec_driver_sql(
                "DO $$ BEGIN IF NOT pg_has_role(current_user, 'trunkline_services', 'MEMBER') THEN"
                " EXECUTE 'GRANT trunkline_services TO ' || quote_ident(current_user); END IF; END $$"
            )
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise TrunklineError(
                f"Postgres: {reason(error.orig)}: the login must own its database and have CREATEROLE, or an administrator"
                " must first CREATE ROLE trunkline_services and trunkline_asterisk and grant them to it"
            ) from error
        raise
    finally:
        engine.dispose()
