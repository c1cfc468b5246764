"""What a load balancer is told: is it alive, is it ready, and nothing about where the parts are."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
from pydantic import SecretStr

from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from scheduler.api import health
from tests.integration.conftest import Database, PostgresServer, SmallApi, serving
from tests.integration.system import System, until


def parts(url: str) -> dict[str, str]:
    """What /readyz says; fails the test where status, body and words do not fit together."""
    answer = httpx.get(f"{url}/readyz")
    found = answer.json()
    ready = {state for part, state in found["parts"].items() if part != "webhooks"} == {"ok"}
    assert (answer.status_code, found["status"]) == ((200, "ready") if ready else (503, "not ready"))
    assert ("retry-after" in answer.headers) == (not ready)
    assert set(found) == {"status", "parts"}
    assert set(found["parts"]) == {"postgres", "redis", "asterisk", "scheduler", "workers", "webhooks"}
    return dict(found["parts"])


def test_a_whole_system_is_ready_and_each_part_that_is_down_is_named(system: System) -> None:
    url = system.stack.runtime["api_url"]
    until(lambda: set(parts(url).values()) == {"ok"}, what="everything is ready")
    for name, part in (("scheduler", "scheduler"), ("worker-1", "workers"), ("listener-local", "asterisk")):
        system.kill(name)
        try:
            until(lambda part=part: parts(url)[part] == "down", what=f"{part} is said to be down")  # type: ignore[misc]
        finally:
            system.start(name)
            until(lambda: set(parts(url).values()) == {"ok"}, within=60, what="everything is ready again")


def test_without_a_worker_of_webhooks_it_is_ready_and_says_so(system: System) -> None:
    url = system.stack.runtime["api_url"]
    system.kill("webhooks")
    try:
        until(lambda: parts(url)["webhooks"] == "down", what="it is said to be down")
        assert httpx.get(f"{url}/readyz").status_code == 200, "calls go out without it"
    finally:
        system.start("webhooks")
        until(lambda: set(parts(url).values()) == {"ok"}, within=60, what="it is there again")


def test_a_redis_that_hangs_holds_nobody_up(system: System) -> None:
    url = system.stack.runtime["api_url"]
    until(lambda: set(parts(url).values()) == {"ok"}, what="everything is ready")
    system.freeze("valkey")
    try:
        until(lambda: parts(url)["redis"] == "down")
        began = time.monotonic()
        with ThreadPoolExecutor(20) as many:
            found = list(many.map(lambda _: parts(url), range(20)))
        assert {(one["postgres"], one["redis"], one["workers"]) for one in found} == {("ok", "down", "unknown")}
        assert time.monotonic() - began < 2 * health.LOOKS_FOR + 1
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    finally:
        system.thaw("valkey")
        until(lambda: set(parts(url).values()) == {"ok"}, within=60, what="everything is ready again")


def test_a_table_that_somebody_keeps_locked_holds_nobody_up(small_api: SmallApi) -> None:
    with psycopg.connect(small_api.database.owner_url) as holder:
        holder.execute("LOCK TABLE nodes")
        began = time.monotonic()
        found = parts(small_api.url)
        assert time.monotonic() - began < health.LOOKS_FOR + 1
        assert (found["postgres"], found["scheduler"], found["asterisk"]) == ("ok", "down", "unknown")
        with small_api.client() as asks:
            assert asks.get("/agents/x").status_code == 422  # keys are still found
    until(lambda: parts(small_api.url)["asterisk"] == "down", what="it is looked at again")


def test_nothing_dials_where_there_is_only_an_api(small_api: SmallApi) -> None:
    assert parts(small_api.url) == {
        "postgres": "ok", "redis": "ok", "asterisk": "down", "scheduler": "down", "workers": "down", "webhooks": "down",
    }  # fmt: skip


def test_a_part_that_is_away_is_down_and_what_only_it_knows_unknown(
    database: Database, valkey: Valkey, postgres: PostgresServer
) -> None:
    nowhere = SecretStr(f"redis://:hidden@127.0.0.1:{free_port()}/0")
    with serving(database, valkey, redis_url=nowhere) as api:
        found = httpx.get(f"{api.url}/readyz")
        assert found.json()["parts"] | {"postgres": ""} == {
            "postgres": "", "redis": "down", "asterisk": "down", "scheduler": "down", "workers": "unknown", "webhooks": "unknown",
        }  # fmt: skip
        assert "127.0.0.1" not in found.text
        assert "hidden" not in found.text


def test_everybody_who_asks_at_once_costs_one_look(small_api: SmallApi) -> None:
    looks = []
    readiness: health.Readiness = small_api.app.state.readiness
    ask = readiness._ask_postgres
    limiter = readiness._looks.pop(ask)

    def counted(say: object) -> None:
        looks.append(say)
        time.sleep(0.2)

    readiness._looks[counted] = limiter
    with ThreadPoolExecutor(20) as many:
        list(many.map(lambda _: httpx.get(f"{small_api.url}/readyz"), range(20)))
    assert len(looks) == 1
