"""Postgres, and what it says of the parts that write to it."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from deploy.doctor.clock import clock_finding
from models.database import SERVICES, connect_arguments, database_url, sqlalchemy_url
from models.errors import TrunklineError
from models.findings import Finding, ok, unknown, warning, wrong
from models.nodes import Breaker, BreakerState, breakers
from models.roles import SCHEDULER, holder, listener_of
from models.settings import Settings
from models.statements import statement
from models.webhooks import Backlog, backlog
from scheduler import trunk_health
from scheduler.trunk_health import GatewayHealth

OLDEST_POSTGRES = 15
LONG_QUEUED = 10.0  # seconds; at 30 the leader withdraws
PART = "postgres"
START = "start it with `trunkline up`, or set TRUNKLINE_DATABASE_URL"
MIGRATE = "`trunkline up` (or an administrator with TRUNKLINE_DATABASE_OWNER_URL) migrates it"


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What the other parts are held against."""

    text: str
    ledger: str
    trunk_slots: int
    gateways: tuple[str, ...]  #: addresses, of the trunks that are on
    gateway_id: UUID | None
    queued: int
    oldest_queued: float | None  #: seconds
    breakers: Mapping[str, Breaker]  #: by node
    holders: Mapping[str, str | None] = field(default_factory=dict)  #: HOST:PID, by role
    gateway_health: Sequence[GatewayHealth] = ()
    webhooks: Backlog | None = None


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Connection]:
    """As the services' login, every statement by itself. Raises DBAPIError and TrunklineError."""
    arguments = connect_arguments("trunkline-doctor", role=None, statement_timeout_ms=3000) | {"connect_timeout": 3}
    engine = create_engine(
        sqlalchemy_url(database_url(settings)),
        poolclass=NullPool,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def examine_postgres(settings: Settings) -> tuple[list[Finding], Ledger | None]:
    """What is found of Postgres; the ledger is None when it cannot be read."""
    if settings.database_url is None:
        return [wrong(PART, "is not running", START)], None
    try:
        with connected(settings) as connection:
            findings = list(_server(connection))
            rights = _rights(connection)
            if rights.verdict != "ok":
                return [*findings, rights], None
            migrated = _migrated(connection)
            if migrated.verdict != "ok":
                return [*findings, migrated], None
            findings += [migrated, _may(connection, rights)]
            return findings, _ledger(connection, settings)
    except DBAPIError as error:
        return [_unreachable(str(error.orig))], None
    except TrunklineError as error:
        return [wrong(PART, str(error), "mend the address")], None


def _unreachable(reason: str) -> Finding:
    last = reason.strip().splitlines()[-1].strip() if reason.strip() else "no reason given"
    if "unsupported startup parameter" in reason:
        return wrong(
            PART, f"a pooler answers ({last})", "give the address of Postgres itself: a role is a session's lock"
        )
    if "password authentication failed" in reason or "no password supplied" in reason:
        return wrong(PART, f"refuses the login ({last})", "mend user and password in TRUNKLINE_DATABASE_URL")
    if "does not exist" in reason:
        return wrong(PART, last, "create it, or mend TRUNKLINE_DATABASE_URL")
    return wrong(PART, f"does not answer: {last}", "start it, or mend TRUNKLINE_DATABASE_URL")


def _server(connection: Connection) -> Iterator[Finding]:
    asked = time.monotonic()
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    took = time.monotonic() - asked
    row = connection.exec_driver_sql(statement("doctor_server")).one()
    if row.major < OLDEST_POSTGRES:
        yield wrong(PART, f"version {row.version} is too old", f"version {OLDEST_POSTGRES} or later is needed")
    else:
        yield ok(PART, f"version {row.version}, answers in {took * 1000:.1f} ms")
    if row.encoding != "UTF8":
        yield wrong(PART, f"the database is in {row.encoding}", "make one with ENCODING 'UTF8': names would be lost")
    if row.read_only:
        yield wrong(PART, "takes no writes: it is a standby", "give the address of the primary")
    announced = getattr(connection.connection.driver_connection, "info").backend_pid  # noqa: B009 - psycopg's own
    if announced != row.backend:
        yield wrong(
            PART, "a pooler answers in its place", "give the address of Postgres itself: a role is a session's lock"
        )
    else:
        yield ok(PART, "the connection is a direct one")
    yield clock_finding(PART, now, datetime.now(UTC), timedelta(seconds=took))


def _rights(connection: Connection) -> Finding:
    """Leaves the connection acting as the services do."""
    login = connection.exec_driver_sql("SELECT session_user").scalar_one()
    try:
        connection.exec_driver_sql(f"SET ROLE {SERVICES}")
    except DBAPIError as error:
        if "does not exist" in str(error.orig):
            return wrong(PART, "the database has no tables of trunkline", MIGRATE)
        return wrong(PART, f"the login {login} may not act as {SERVICES}", f"as the owner: GRANT {SERVICES} TO {login}")
    return ok(PART, f"the login {login} may do what the services need")


def _migrated(connection: Connection) -> Finding:
    head = _head()
    try:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except DBAPIError as error:
        if "permission denied" in str(error.orig):  # before 0002 nobody but the owner could read it
            return wrong(PART, f"its tables are of an older trunkline than this one ({head})", MIGRATE)
        return wrong(PART, "the database has no tables of trunkline", MIGRATE)
    if found == head:
        return ok(PART, f"its tables are of this version ({head})")
    if found is not None and found > head:
        return wrong(
            PART, f"its tables are of a newer trunkline ({found}) than this one ({head})", "update trunkline here"
        )
    return wrong(PART, f"its tables are of an older trunkline ({found}) than this one ({head})", MIGRATE)


def _head() -> str:
    """The newest migration's number; Alembic would say the same a tenth of a second later."""
    versions = Path(str(resources.files("models"))) / "migrations" / "versions"
    return max(file.name.partition("_")[0] for file in versions.glob("[0-9]*.py"))


def _may(connection: Connection, rights: Finding) -> Finding:
    missing = connection.exec_driver_sql(statement("doctor_rights")).scalar_one()
    return wrong(PART, f"{SERVICES} lacks rights: {missing}", "as the owner: GRANT them again") if missing else rights


def _ledger(connection: Connection, settings: Settings) -> Ledger:
    row = connection.exec_driver_sql(statement("doctor_ledger")).one()
    roles = [SCHEDULER, *(listener_of(node.name) for node in settings.nodes)]
    return Ledger(
        text=row.text,
        ledger=row.ledger,
        trunk_slots=int(row.trunk_slots),
        gateways=tuple(row.gateways or ()),
        gateway_id=row.gateway_id,
        queued=row.queued,
        oldest_queued=None if row.oldest_queued is None else float(row.oldest_queued),
        breakers={breaker.node: breaker for breaker in breakers(connection)},
        holders={role: holder(connection, role) for role in roles},
        gateway_health=trunk_health.of_gateways(connection),
        webhooks=backlog(connection),
    )


def examine_trunks(ledger: Ledger | None) -> list[Finding]:
    """Trunks that have paused by themselves, and gateways that keep failing while another carries their calls."""
    if ledger is None:
        return []
    paused = trunk_health.pauses(ledger.gateway_health)
    spared = {pause.trunk_id for pause in paused}
    failing = [gateway for gateway in ledger.gateway_health if gateway.rests and gateway.trunk_id not in spared]
    return [
        *(wrong(f"trunk {pause.trunk}", pause.sentence, pause.advice) for pause in paused),
        *(
            warning(
                f"trunk {gateway.trunk}",
                f"its gateway {gateway.address} {gateway.now}, after {gateway.why}",
                f"`trunkline trunk check {shlex.quote(gateway.trunk)}` looks at it; the other gateways carry its calls",
            )
            for gateway in failing
        ),
    ]


def examine_scheduler(ledger: Ledger | None) -> list[Finding]:
    """Whether somebody leads, and how long granted attempts wait for a worker."""
    if ledger is None:
        return [unknown("scheduler", "cannot be looked at without Postgres")]
    leader = ledger.holders.get(SCHEDULER)
    leads = (
        ok("scheduler", f"{leader} leads")
        if leader
        else wrong(
            "scheduler", "nobody leads: nothing is granted", "start `trunkline up`, or `trunkline run scheduler`"
        )
    )
    oldest = ledger.oldest_queued
    if oldest is not None and oldest > LONG_QUEUED:
        return [
            leads,
            warning(
                "queue",
                f"{ledger.queued} attempts wait for a worker, the oldest for {oldest:.0f} s",
                "more workers (TRUNKLINE_WORKERS), or look at their logs",
            ),
        ]
    return [leads, ok("queue", f"{ledger.queued} attempts wait for a worker")]


def listener_finding(part: str, node: str, ledger: Ledger) -> Finding:
    breaker = ledger.breakers.get(node)
    if breaker and breaker.is_heard:
        return ok(part, f"its listener hears it ({ledger.holders.get(listener_of(node)) or 'since a moment'})")
    if ledger.holders.get(listener_of(node)):
        return wrong(
            part,
            "its listener runs and does not hear it: it gets no calls",
            "see the findings about it and the listener's log",
        )
    return wrong(
        part,
        "no listener runs for it: it gets no calls",
        f"start `trunkline up`, or `trunkline run listener {shlex.quote(node)}`",
    )


def breaker_finding(part: str, node: str, ledger: Ledger) -> Finding | None:
    """What the workers' Originates have shown of it lately; None where no listener has ever heard it."""
    breaker = ledger.breakers.get(node)
    if breaker is None:
        return None
    if breaker.state is BreakerState.CLOSED and not breaker.failures:
        return ok(part, "its breaker is closed: it takes calls")
    why = f"{breaker.failures} calls in a row were not taken, the last one: {breaker.last_failure}"
    advice = (
        "mend what the findings about it say, or the network between the workers and it; it is tried again by itself"
    )
    if breaker.state is BreakerState.CLOSED:
        return warning(part, f"its breaker is closed, and {why}", advice)
    if breaker.state is BreakerState.HALF_OPEN:
        return warning(part, f"its breaker is half-open, it gets one call at a time: {why}", advice)
    until = f"{breaker.rests_until:%H:%M:%S} UTC" if breaker.rests_until else "then"
    return wrong(part, f"its breaker is open, it gets no call until {until}: {why}", advice)
