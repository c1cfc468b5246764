"""No wait for Postgres is unbounded, not even for one that has got everything and says nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from anyio.from_thread import BlockingPortal
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from models import database as bounds
from models.database import make_engine
from tests.faults.proxy import Proxy
from tests.integration.conftest import Database


@pytest.fixture
def proxy(database: Database, portal: BlockingPortal) -> Iterator[Proxy]:
    parts = urlsplit(database.owner_url)
    proxy = Proxy.open(portal, (parts.hostname or "", parts.port or 0))
    yield proxy
    proxy.restore()
    proxy.close()


@pytest.fixture
def engine(database: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Through the proxy, and impatient."""
    monkeypatch.setattr(bounds, "_PATIENCE", 0.3)
    monkeypatch.setitem(bounds._BOUNDS, "connect_timeout", 2)  # libpq's least
    parts = urlsplit(database.owner_url)
    login = parts.netloc.rpartition("@")[0]
    url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))
    engine = make_engine(url, "trunkline-test", statement_timeout_ms=500, pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


def test_an_answer_that_does_not_come_ends_the_connection_and_the_next_one_is_made_anew(
    engine: Engine, proxy: Proxy
) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(OperationalError, match=r"no answer within 0\.8 s") as lost:
            connection.exec_driver_sql("SELECT 2")
        assert 0.7 < time.monotonic() - began < 5
        assert lost.value.connection_invalidated
    proxy.restore()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 3").scalar_one() == 3, "no answer to an older question"


def test_a_commit_without_an_answer_is_an_error(engine: Engine, proxy: Proxy) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.exec_driver_sql("SELECT 1")
        proxy.stall()
        with pytest.raises(OperationalError, match="no answer"):
            transaction.commit()


def test_connecting_to_one_that_says_nothing_is_bounded_too(engine: Engine, proxy: Proxy) -> None:
    """TCP is made, and neither the greeting nor the question for the password is answered."""
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(OperationalError) as refused, engine.connect():
        pass
    assert isinstance(refused.value.orig, psycopg.errors.ConnectionTimeout)
    assert time.monotonic() - began < 10


def test_an_error_of_the_server_leaves_the_connection_as_it_is(engine: Engine) -> None:
    with engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with pytest.raises(OperationalError) as canceled:
            connection.exec_driver_sql("SELECT pg_sleep(3)")
        assert isinstance(canceled.value.orig, psycopg.errors.QueryCanceled)
        assert not canceled.value.connection_invalidated
        connection.rollback()
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() == pid
