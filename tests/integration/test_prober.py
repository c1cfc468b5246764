"""The prober fills gateway_probes by itself, alone of its kind, and outlives what happens to Postgres."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from models import roles
from models.roles import PROBER
from scheduler import probe
from scheduler.prober import Prober
from tests.integration.conftest import Database
from tests.integration.gateways import Reply, answer, closed_port, silent_port, stream_server, udp_server
from tests.integration.system import System, until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_TRY_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(roles, "_AGAIN_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(probe, "ANSWER_SECONDS", 2.0)


@contextmanager
def probing(database: Database, count: int = 1) -> Iterator[list[threading.Thread]]:
    stop = threading.Event()
    threads = [threading.Thread(target=Prober(database.settings).run, args=(stop,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "it ends when it is told to, whatever it waits for"


def add_gateway(
    database: Database, port: int, *, every: int = 3600, transport: str = "transport-udp", active: bool = True
) -> UUID:
    trunk_id, gateway_id = uuid4(), uuid4()
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO trunks (id, name, auth_type, qualify_frequency, transport, is_active)"
            " VALUES (%(id)s, %(id)s, 'ip-based', %(every)s, %(transport)s, %(active)s)",
            {"id": trunk_id, "every": every, "transport": transport, "active": active},
        )
        connection.exec_driver_sql(
            "INSERT INTO trunk_gateways (id, trunk_id, gateway_address, port) VALUES (%(id)s, %(trunk)s, '127.0.0.1', %(port)s)",
            {"id": gateway_id, "trunk": trunk_id, "port": port},
        )
    return gateway_id


def noting(asked: list[bytes], *, answers: bool = True) -> Reply:
    """Keeps every request."""

    def reply(request: bytes) -> list[bytes]:
        asked.append(request)
        return [answer(request)] if answers else []

    return reply


def found(database: Database, gateway_id: UUID) -> Any:
    with database.engine.begin() as connection:
        return connection.exec_driver_sql(
            "SELECT * FROM gateway_probes WHERE gateway_id = %(id)s", {"id": gateway_id}
        ).first()


def run(database: Database, sql: str, **parameters: object) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters or None)


def test_each_gateway_is_looked_at_and_what_was_found_is_written_down(database: Database) -> None:
    with ExitStack() as stack:
        answers = add_gateway(database, stack.enter_context(udp_server(lambda request: [answer(request)])))
        refuses = add_gateway(database, stack.enter_context(closed_port(socket.SOCK_DGRAM)))
        stack.enter_context(probing(database))
        row = until(lambda: found(database, answers))
        assert (row.finding, row.seen_as) == ("answered", "203.0.113.9")
        assert row.rtt_ms > 0
        row = until(lambda: found(database, refuses))
        assert (row.finding, row.rtt_ms, row.seen_as) == ("refused", None, None)
        assert row.detail


def test_a_gateway_that_is_new_or_changed_is_looked_at_long_before_its_time(database: Database) -> None:
    with (
        probing(database),
        udp_server(lambda request: [answer(request)]) as port,
        stream_server(lambda request: [answer(request)]) as tcp_port,
    ):
        first = add_gateway(database, port)
        before = until(lambda: found(database, first))
        later = add_gateway(database, tcp_port)
        assert until(lambda: found(database, later)).finding == "refused"
        run(
            database,
            "UPDATE trunks SET transport = 'transport-tcp' WHERE id = (SELECT trunk_id FROM trunk_gateways WHERE id = %(id)s)",
            id=later,
        )
        until(lambda: found(database, later).finding == "answered")
        assert found(database, first) == before, "the hour of the other is not over"


def test_it_is_looked_at_again_each_time_its_time_is_over(database: Database) -> None:
    asked: list[bytes] = []
    with udp_server(noting(asked)) as port, probing(database):
        gateway = add_gateway(database, port, every=1)
        until(lambda: len(asked) >= 3)
        assert found(database, gateway).finding == "answered"


def test_a_trunk_that_is_off_or_wants_no_probes_is_left_alone(database: Database) -> None:
    asked: list[bytes] = []
    with udp_server(noting(asked, answers=False)) as port:
        never = add_gateway(database, port, every=0)
        off = add_gateway(database, port, active=False)
        with udp_server(lambda request: [answer(request)]) as other, probing(database):
            after = add_gateway(database, other)
            until(lambda: found(database, after))
        assert asked == []
        assert found(database, never) is None
        assert found(database, off) is None


def test_what_another_prober_found_and_still_holds_is_not_looked_at_again(database: Database) -> None:
    asked: list[bytes] = []
    with (
        udp_server(noting(asked)) as port,
        udp_server(lambda request: [answer(request)]) as other,
    ):
        gateway = add_gateway(database, port)
        with probing(database):
            until(lambda: found(database, gateway))
        with probing(database):
            after = add_gateway(database, other)
            until(lambda: found(database, after))
        assert len(asked) == 1


def test_one_of_two_probes_and_the_other_takes_over(database: Database) -> None:
    asked: list[bytes] = []
    with (
        udp_server(noting(asked)) as port,
        psycopg.connect(database.owner_url, autocommit=True) as connection,
        probing(database, count=2),
    ):
        gateway = add_gateway(database, port)
        until(lambda: found(database, gateway))
        until(lambda: len(sessions(connection)) == 2)
        assert sorted(sessions(connection).values()) == [False, True]
        assert len(asked) == 1
        (holder,) = [pid for pid, holds in sessions(connection).items() if holds]
        connection.execute("SELECT pg_terminate_backend(%s)", (holder,))
        until(lambda: any(holds for pid, holds in sessions(connection).items() if pid != holder))
        after = add_gateway(database, port)
        until(lambda: found(database, after))


def sessions(connection: psycopg.Connection) -> dict[int, bool]:
    """The backends that have asked for the role, and whether they hold it."""
    rows = connection.execute(
        "SELECT a.pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted)"
        " FROM pg_stat_activity a WHERE a.application_name = %s AND a.datname = current_database()",
        (PROBER,),
    ).fetchall()
    return dict(rows)


def test_it_outlives_a_table_that_is_not_there(database: Database) -> None:
    with (
        udp_server(lambda request: [answer(request)]) as port,
        psycopg.connect(database.owner_url, autocommit=True) as owner,
    ):
        owner.execute("ALTER TABLE gateway_probes RENAME TO away")
        gateway = add_gateway(database, port)
        with probing(database):
            until(
                lambda: owner.execute("SELECT epoch FROM roles WHERE epoch > 2").fetchone(), what="it has tried again"
            )
            owner.execute("ALTER TABLE away RENAME TO gateway_probes")
            until(lambda: found(database, gateway))


def test_a_gateway_deleted_while_it_is_looked_at_harms_nothing(database: Database) -> None:
    asked: list[bytes] = []
    with silent_port() as silent, udp_server(noting(asked, answers=False)) as port, probing(database):
        gone, stays = add_gateway(database, port), add_gateway(database, silent)
        until(lambda: asked)
        run(database, "DELETE FROM trunk_gateways WHERE id = %(id)s", id=gone)
        assert until(lambda: found(database, stays)).finding == "silent"
        assert found(database, gone) is None


def test_the_scheduler_probes_the_trunks_of_a_whole_system(system: System) -> None:
    system.add_trunk("probed")
    row = until(
        lambda: system.rows(
            "SELECT p.* FROM gateway_probes p JOIN trunk_gateways g ON g.id = p.gateway_id"
            " JOIN trunks t ON t.id = g.trunk_id WHERE t.name = 'probed'"
        ),
        what="the scheduler has probed it",
    )[0]
    assert row.finding == "answered"
    assert row.rtt_ms > 0
