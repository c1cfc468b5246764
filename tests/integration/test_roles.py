"""A role has one holder; who loses the connection loses the role, and finds out at the next statement."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from models import roles
from models.database import NEVER_IDLE, open_engine
from models.roles import Role, hold
from models.settings import Settings
from tests.integration.conftest import Database
from tests.integration.system import until

NAME = "trunkline-scheduler"


class Candidate:
    """Waits for the role in a thread of its own, and keeps it until it is told to let go."""

    def __init__(self, settings: Settings, pool: ThreadPoolExecutor, name: str = NAME) -> None:
        self.stop, self.let_go = threading.Event(), threading.Event()
        self.role: Role | None = None
        self.done: Future[str] = pool.submit(self._run, settings, name)

    def _run(self, settings: Settings, name: str) -> str:
        with hold(settings, name, self.stop) as role:
            if role is None:
                return "stopped"
            self.role = role
            self.let_go.wait(60)
            with role.connection.begin():
                role.connection.exec_driver_sql("SELECT 1")
            return "held to the end"

    def holds(self) -> Role:
        until(lambda: self.role, what="it holds the role")
        assert self.role is not None
        return self.role


@contextmanager
def candidates(settings: Settings, *names: str) -> Iterator[list[Candidate]]:
    with ThreadPoolExecutor(len(names)) as pool, ExitStack() as stack:
        started = []
        for name in names:
            candidate = Candidate(settings, pool, name)
            stack.callback(candidate.let_go.set)
            stack.callback(candidate.stop.set)
            started.append(candidate)
        yield started


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_TRY_EVERY_SECONDS", 0.05)


def sessions(database: Database) -> dict[int, bool]:
    """The backends that have asked for the role, and whether they hold it."""
    with psycopg.connect(database.owner_url) as connection:
        rows = connection.execute(
            "SELECT a.pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted)"
            " FROM pg_stat_activity a WHERE a.application_name = %s AND a.datname = current_database()",
            (NAME,),
        ).fetchall()
    return dict(rows)


def test_of_two_candidates_one_holds_and_the_other_waits_until_it_lets_go(database: Database) -> None:
    with candidates(database.settings, NAME, NAME) as both:
        until(lambda: any(one.role for one in both))
        first, second = sorted(both, key=lambda one: one.role is None)
        until(lambda: len(sessions(database)) == 2)
        assert sorted(sessions(database).values()) == [False, True]
        assert second.role is None
        first.let_go.set()
        assert first.done.result(30) == "held to the end"
        assert second.holds().epoch == first.holds().epoch + 1


def test_roles_of_other_names_are_held_side_by_side_each_with_its_own_epoch(database: Database) -> None:
    with candidates(database.settings, "trunkline-listener:n1", "trunkline-listener:n2") as both:
        assert [one.holds().epoch for one in both] == [1, 1]
        assert [one.holds().name for one in both] == ["trunkline-listener:n1", "trunkline-listener:n2"]


def test_a_holder_that_is_cut_off_loses_the_role_to_a_higher_epoch_and_can_write_nothing(database: Database) -> None:
    with candidates(database.settings, NAME, NAME) as both, psycopg.connect(database.owner_url) as connection:
        until(lambda: any(one.role for one in both))
        loser, winner = sorted(both, key=lambda one: one.role is None)
        until(lambda: len(sessions(database)) == 2)
        (pid,) = [pid for pid, holds in sessions(database).items() if holds]
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        assert winner.holds().epoch > loser.holds().epoch
        loser.let_go.set()
        with pytest.raises(DBAPIError):
            loser.done.result(30)
        winner.let_go.set()
        assert winner.done.result(30) == "held to the end"
        written = connection.execute("SELECT epoch FROM roles WHERE name = %s", (NAME,)).fetchone()
        assert written == (winner.holds().epoch,)


def test_a_holder_that_does_not_use_its_connection_loses_the_role(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "LOST_AFTER_MS", 200)
    with candidates(database.settings, NAME) as (frozen,):
        held = frozen.holds()
        monkeypatch.undo()
        with candidates(database.settings, NAME) as (other,):
            assert other.holds().epoch > held.epoch
            frozen.let_go.set()
            with pytest.raises(DBAPIError):
                frozen.done.result(30)


def test_a_holder_that_freezes_while_it_is_being_answered_loses_the_role_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "LOST_AFTER_MS", 500)
    with candidates(database.settings, NAME) as (frozen,):
        held = frozen.holds()
        answered = held.connection.connection.driver_connection
        assert isinstance(answered, psycopg.Connection)
        answered.pgconn.send_query(
            b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)"
        )  # more than buffers hold
        with candidates(database.settings, NAME) as (other,):
            assert other.holds().epoch > held.epoch
            frozen.let_go.set()
            with pytest.raises(DBAPIError):
                frozen.done.result(30)


def test_one_that_freezes_with_locks_in_its_hand_costs_nobody_who_waits_for_them_the_role(database: Database) -> None:
    with candidates(database.settings, NAME) as (leader,):
        leads = leader.holds()
        frozen = open_engine(database.settings, "trunkline-worker", options=NEVER_IDLE).connect()
        lock = "SELECT FROM roles WHERE name = %(name)s FOR UPDATE"
        frozen.exec_driver_sql(lock, {"name": NAME})
        with leads.connection.begin():
            leads.connection.exec_driver_sql(lock, {"name": NAME})
        with pytest.raises(DBAPIError):
            frozen.exec_driver_sql("SELECT 1")
        frozen.engine.dispose()


def test_a_candidate_that_is_stopped_while_it_waits_gets_no_role(database: Database) -> None:
    with candidates(database.settings, NAME) as (first,):
        epoch = first.holds().epoch
        with candidates(database.settings, NAME) as (second,):
            until(lambda: len(sessions(database)) == 2)
            second.stop.set()
            assert second.done.result(30) == "stopped"
            assert second.role is None
        until(lambda: len(sessions(database)) == 1)
        first.let_go.set()
        assert first.done.result(30) == "held to the end"
    with candidates(database.settings, NAME) as (third,):
        assert third.holds().epoch == epoch + 1, "who only waited has raised no epoch"


def test_a_role_is_held_as_the_services_and_says_who_holds_it(database: Database) -> None:
    with candidates(database.settings, NAME) as (one,):
        role = one.holds()
        with database.engine.begin() as connection:
            row = connection.exec_driver_sql("SELECT * FROM roles").one()
        assert (row.name, row.epoch, row.since is not None) == (NAME, role.epoch, True)
        assert ":" in row.holder
