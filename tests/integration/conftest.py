"""Real services for the tests: each starts once a session, each test gets a database of its own."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
import redis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine

from deploy.debian import provide
from deploy.embedded.postgres import Postgres
from deploy.embedded.valkey import Valkey
from deploy.part import free_port, running
from models.database import migrate, open_engine
from models.settings import Settings
from scheduler.api.server import make_server
from tests.integration.http import client, make_key
from tests.integration.system import System, until


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A Postgres on which a test may create databases, as its superuser."""

    owner_url: str

    def url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.owner_url)._replace(path=f"/{database}"))

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            connection.execute(statement.encode())


@dataclass(frozen=True, kw_only=True)
class Database:
    """A migrated, empty database; `engine` acts as the services' role, `owner_url` as the superuser."""

    owner_url: str
    settings: Settings
    engine: Engine


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The embedded Postgres, or the one in TRUNKLINE_TEST_DATABASE_OWNER_URL, which starts faster."""
    given = os.environ.get("TRUNKLINE_TEST_DATABASE_OWNER_URL")
    if given:
        yield PostgresServer(owner_url=given)
        return
    directory = tmp_path_factory.mktemp("postgres")
    server = Postgres(directory=directory / "postgres", port=free_port(), passwords=directory / "passwords.json")
    server.prepare()
    with running(server.part()):
        yield PostgresServer(owner_url=server.owner_url)


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database that was migrated once, to be copied."""
    name = f"template_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name}")
    try:
        migrate(postgres.url(name))
        yield name
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: PostgresServer, template_database: str, tmp_path: Path) -> Iterator[Database]:
    name = f"test_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    url = SecretStr(postgres.url(name))
    settings = Settings(home=tmp_path / "home", database_url=url, database_owner_url=url)
    engine = open_engine(settings, "trunkline-test")
    try:
        yield Database(owner_url=url.get_secret_value(), settings=settings, engine=engine)
    finally:
        engine.dispose()
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    directory = tmp_path_factory.mktemp("valkey")
    server = Valkey(directory=directory / "valkey", port=free_port(), passwords=directory / "passwords.json")
    server.prepare()
    with running(server.part()):
        yield server


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """A real Valkey that has forgotten everything."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server


@pytest.fixture(scope="session")
def tree() -> Path:
    """Asterisk and SIPp, unpacked; fetched if this machine has never had them."""
    return provide().root


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """A loop in a thread of its own, for the asynchronous ends of a test."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def whole_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Everything, once a session: the tests on it make their own trunks, and leave no call up."""
    with System(tmp_path_factory.mktemp("system"), challenge=True, webhooks_to_private_addresses=True) as everything:
        yield everything


@pytest.fixture
def system(whole_system: System) -> System:
    whole_system.begin_test()
    return whole_system


@pytest.fixture
def api(system: System) -> Iterator[httpx.Client]:
    """Asks the API of the whole system, as an administrator."""
    with client(system.stack.runtime["api_url"], make_key(system.engine)) as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class SmallApi:
    """The API alone, over a database and a Valkey of the test's own: nothing dials."""

    url: str
    database: Database
    settings: Settings
    app: FastAPI  #: to which a test may add routes that misbehave
    ask_to_stop: Callable[[], None]

    def client(self, scope: str = "admin") -> AbstractContextManager[httpx.Client]:
        return client(self.url, make_key(self.database.engine, scope))


@pytest.fixture
def small_api(database: Database, valkey: Valkey) -> Iterator[SmallApi]:
    """Without limits on requests that a test would come to."""
    with serving(database, valkey, api_requests_per_minute=10**6, api_strangers_requests_per_minute=10**6) as made:
        yield made


@contextmanager
def serving(database: Database, valkey: Valkey, **given: object) -> Iterator[SmallApi]:
    """In a thread of this process, on a socket: what a request costs is a request, not a start."""
    settings = database.settings.model_copy(update={"redis_url": SecretStr(valkey.url), **given})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = make_server(settings)
        app = server.config.app
        assert isinstance(app, FastAPI)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def ask_to_stop() -> None:
            server.should_exit = True

        try:
            until(lambda: server.started, what="the API answers")
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield SmallApi(url=url, database=database, settings=settings, app=app, ask_to_stop=ask_to_stop)
        finally:
            ask_to_stop()
            thread.join()
