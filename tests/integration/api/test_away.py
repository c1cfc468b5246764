"""A part that is away or hangs: the API names it, tells nobody where it is, and asks it once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from scheduler.api.parts import Parts
from tests.integration.conftest import Database, SmallApi, serving
from tests.integration.ledger_rows import FROM, Rows

PASSWORD = "never-to-be-seen"


@pytest.fixture
def rows(database: Database) -> Rows:
    rows = Rows(engine=database.engine)
    rows.run("UPDATE nodes SET heard_at = now() + interval '1 hour'")
    return rows


@contextmanager
def asking(database: Database, valkey: Valkey, **given: object) -> Iterator[tuple[SmallApi, httpx.Client]]:
    with serving(database, valkey, api_requests_per_minute=10**6, **given) as api, api.client() as asks:
        yield api, asks


def call(rows: Rows) -> dict[str, object]:
    return {"agent_id": str(rows.agent), "recipient_phone_number": "+12125550123", "from_number": FROM}


def away(answer: httpx.Response, sentence: str, port: int) -> None:
    """503 with exactly this, which a log says more of."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["detail"] == sentence
    assert answer.headers["retry-after"]
    for word in ("127.0.0.1", str(port), PASSWORD, "localhost"):
        assert word not in answer.text


def test_a_redis_that_is_away_is_named_and_the_log_alone_says_where_it_was_looked_for(
    database: Database, valkey: Valkey, rows: Rows
) -> None:
    port = free_port()
    nowhere = SecretStr(f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
    with asking(database, valkey, redis_url=nowhere) as (_, asks), capture_logs() as logged:
        away(asks.post("/call", json=call(rows)), "Redis does not answer; nothing was written", port)
        away(
            asks.post(f"/batches/{rows.campaign(1, 'ready')}/schedule"),
            "Redis does not answer; nothing was written",
            port,
        )
        explained = asks.get(f"/batches/{rows.campaign(1)}/explain")
        metrics = asks.get("/metrics")
    assert "no-redis" in {holdup["what"] for holdup in explained.json()["holdups"]}
    assert 'trunkline_up{part="redis"} 0.0' in metrics.text
    for answer in (explained, metrics):
        assert str(port) not in answer.text
    said = [entry["error"] for entry in logged if entry["event"] == "unavailable"]
    assert len(said) == 2
    assert all(f"127.0.0.1:{port}" in one and PASSWORD not in one for one in said)


def test_a_postgres_that_is_away_is_named_and_no_more(small_api: SmallApi, rows: Rows) -> None:
    port, parts = free_port(), small_api.app.state.parts
    nowhere = SecretStr(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/trunkline")
    settings = small_api.settings.model_copy(update={"database_url": nowhere})  # of those who connect for themselves
    small_api.app.state.parts = Parts(settings=settings, engine=parts.engine)
    with small_api.client() as asks:
        away(asks.post(f"/batches/{rows.campaign(1)}/pause"), "Postgres does not answer", port)
        away(asks.post(f"/batches/{rows.campaign(1)}/stop"), "Postgres does not answer", port)


def test_an_asterisk_that_is_away_is_named_and_no_more(database: Database, valkey: Valkey, rows: Rows) -> None:
    port = free_port()
    node = SecretStr(f"n1=ami://listener:{PASSWORD}@127.0.0.1:{port}?sender=sender:{PASSWORD}&max_calls=10")
    [attempt] = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    rows.run("UPDATE attempts SET status = 'ringing', ringing_at = now(), channel_at = now()")
    rows.run("UPDATE calls SET status = 'ringing'")
    with asking(database, valkey, asterisk_nodes=node) as (_, asks):
        refused = asks.post(f"/call/{rows.call_of(attempt).id}/stop")
    away(refused, "Asterisk n1: AMI is not up: cannot connect: Connection refused", port)


@dataclass(kw_only=True)
class Hanging:
    """A server that takes connections, and never says a word."""

    port: int
    connections: list[socket.socket] = field(default_factory=list)


@contextmanager
def hanging() -> Iterator[Hanging]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Hanging(port=listening.getsockname()[1])

        def take() -> None:
            with suppress(OSError):
                while True:
                    made.connections.append(listening.accept()[0])

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield made
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in made.connections:
                connection.close()


def test_a_redis_that_hangs_is_asked_once_a_request_and_postgres_is_not_blamed(
    database: Database, valkey: Valkey, rows: Rows
) -> None:
    campaign: UUID = rows.campaign(1)
    rows.run("UPDATE campaigns SET max_concurrent_calls = 1")
    rows.run("UPDATE agents SET max_concurrent_calls = 1")
    with (
        hanging() as redis,
        asking(database, valkey, redis_url=SecretStr(f"redis://127.0.0.1:{redis.port}/0")) as (_, asks),
    ):
        for method, path, body, status in (
            ("GET", f"/batches/{campaign}/explain", None, 200),
            ("GET", "/metrics", None, 200),
            ("PATCH", f"/agents/{rows.agent}", {"max_call_seconds": 60}, 200),
            ("POST", "/call", call(rows), 503),
        ):
            before = len(redis.connections)
            answer = asks.request(method, path, json=body)
            assert answer.status_code == status, f"{path}: {answer.text}"
            assert len(redis.connections) == before + 1, f"{path}: each more is two seconds more"
            if status == 503:
                away(answer, "Redis does not answer; nothing was written", redis.port)
            if path.endswith("explain"):
                assert "no-redis" in {holdup["what"] for holdup in answer.json()["holdups"]}
