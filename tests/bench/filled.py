"""Ledgers of any size, each a database of its own beside the system's: nothing dials from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, create_engine

from models.database import make_engine, migrate, sqlalchemy_url
from tests.integration.system import System

# a campaign's calls lie together and their ids are in the order of the list, as an upload leaves them
_CALLS = """
INSERT INTO calls (id, campaign_id, agent_id, phone_number, line_number, due_at)
SELECT (lpad(to_hex(%(epoch)s + n / 100), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
       p.id, p.agent_id, '+1' || 2000000000 + n, n + 2, p.created_at
FROM (SELECT id, agent_id, created_at, row_number() OVER (ORDER BY id) - 1 AS at FROM campaigns) p
CROSS JOIN LATERAL generate_series(p.at * %(each)s, (p.at + 1) * %(each)s - 1) AS n
"""

_REST = """
INSERT INTO trunks (name, auth_type, max_concurrent_calls, max_calls_per_second) VALUES ('filled', 'ip-based', 1000, 1000);
INSERT INTO trunk_gateways (trunk_id, gateway_address) SELECT id, '127.0.0.1' FROM trunks;
INSERT INTO phone_numbers (phone_number, trunk_id) SELECT '+12025550100', id FROM trunks;
INSERT INTO agents (name, connect) VALUES ('filled', 'playback://hello-world');
INSERT INTO nodes (name, max_calls, heard_at) VALUES ('filled', 1000, 'infinity');
"""

_CAMPAIGNS = """
INSERT INTO campaigns (id, name, agent_id, from_numbers, status, rows, accepted, created_at, started_at)
SELECT gen_random_uuid(), 'campaign ' || n, agents.id, '{+12025550100}', 'running', %(each)s, %(each)s, now() - interval '1 hour', now()
FROM agents, generate_series(1, %(campaigns)s) n
"""


_COUNTS = "INSERT INTO campaign_counts SELECT id, 'scheduled', %(each)s, now() FROM campaigns"


@contextmanager
def ledger_of(system: System, *, calls: int, campaigns: int) -> Iterator[Engine]:
    """A ledger in which so many calls of so many running campaigns wait; the engine is the services'."""
    name = f"filled_{calls}_{campaigns}"
    owner_url = system.stack.runtime["database_owner_url"]
    url = urlsplit(owner_url)._replace(path=f"/{name}").geturl()
    with _server(system) as server:
        server.exec_driver_sql(f"CREATE DATABASE {name}")
    owner = create_engine(sqlalchemy_url(url), connect_args={"application_name": "bench"})
    engine = make_engine(url, "bench", statement_timeout_ms=600_000)
    try:
        migrate(url)
        with owner.connect() as connection:
            _fill(connection, calls // campaigns, campaigns)
        yield engine
    finally:
        engine.dispose()
        owner.dispose()
        with _server(system) as server:
            server.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def without_indexes(connection: Connection, table: str) -> Iterator[None]:
    """Rows come in, or change, faster without; they are made anew as they were. The primary key stays."""
    indexes = connection.exec_driver_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %(table)s"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)",
        {"table": table},
    ).all()
    for index, _ in indexes:
        connection.exec_driver_sql(f"DROP INDEX {index}")
    yield
    connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
    for _, definition in indexes:
        connection.exec_driver_sql(definition)


def vacuum(connection: Connection) -> None:
    """As autovacuum does once it comes by."""
    apart = connection.execution_options(isolation_level="AUTOCOMMIT")
    apart.exec_driver_sql("VACUUM (ANALYZE) calls")
    apart.exec_driver_sql("ANALYZE campaigns, campaign_counts")


def _fill(connection: Connection, each: int, campaigns: int) -> None:
    with connection.begin():
        connection.exec_driver_sql(_REST)
        connection.exec_driver_sql(_CAMPAIGNS, {"each": each, "campaigns": campaigns})
        connection.exec_driver_sql("ALTER TABLE calls SET (autovacuum_enabled = false)")  # when is for the bench to say
        with without_indexes(connection, "calls"):
            connection.exec_driver_sql(
                "ALTER TABLE calls DISABLE TRIGGER calls_inserted"
            )  # it keeps all that came in memory
            connection.exec_driver_sql(_CALLS, {"each": each, "epoch": 1_700_000_000_000})
            connection.exec_driver_sql("ALTER TABLE calls ENABLE TRIGGER calls_inserted")
        connection.exec_driver_sql(_COUNTS, {"each": each})
    vacuum(connection)


@contextmanager
def _server(system: System) -> Iterator[Connection]:
    with system.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
