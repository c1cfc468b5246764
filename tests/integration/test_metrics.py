"""What a monitor is told: the ledger's own counts, and which part does not answer."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from models import repairs, webhooks
from models.repairs import Repair
from models.slots import Slots, connect
from scheduler.metrics import LedgerCollector
from tests.integration.conftest import Database, SmallApi
from tests.integration.ledger_rows import Rows
from tests.integration.system import System, until

Samples = Mapping[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(database: Database, redis_url: str) -> Samples:
    registry = CollectorRegistry()
    registry.register(LedgerCollector(database.engine, Slots(connect(redis_url))))
    return samples(generate_latest(registry).decode())


def test_the_running_api_tells_a_monitor_how_it_is_going(system: System, api: httpx.Client) -> None:
    from_number, agent = system.add_trunk("watched", slots=7), system.add_agent("watched", "playback://demo-congrats")
    call = system.call(agent, from_number, "+12015550100")
    until(lambda: system.status(call) == "in-progress")
    assert (
        json.loads(system.trunkline("config", "--json"))["metrics_url"] == system.stack.runtime["api_url"] + "/metrics"
    )
    told = samples(api.get("/metrics").raise_for_status().text)
    assert told["trunkline_up", ("postgres",)] == told["trunkline_up", ("redis",)] == 1
    assert told["trunkline_node_heard", ("local",)] == 1
    assert told["trunkline_trunk_slots", ("watched",)] == 7
    assert told["trunkline_trunk_slots_in_use", ("watched",)] == 1
    assert told["trunkline_attempts_open", ("in-progress",)] >= 1
    assert told["trunkline_repairs_total", ("lease-put-back",)] >= 0
    until(lambda: system.status(call) == "completed", within=60)


def test_what_was_put_right_is_counted_for_good(database: Database, valkey: Valkey) -> None:
    for _ in range(2):
        with database.engine.begin() as connection:
            repairs.count(connection, {Repair.LEASE_FREED: 2, Repair.ATTEMPT_LOST: 1, Repair.CALL_RESCUED: 0})
    told = scraped(database, valkey.url)
    assert told["trunkline_repairs_total", ("lease-freed",)] == 4
    assert told["trunkline_repairs_total", ("attempt-lost",)] == 2
    assert {labels[0] for name, labels in told if name == "trunkline_repairs_total"} == set(Repair)


def test_a_part_that_does_not_answer_is_said_and_the_other_tells_what_it_knows(database: Database) -> None:
    rows = Rows(engine=database.engine)
    told = scraped(database, f"redis://127.0.0.1:{free_port()}/0")
    assert (told["trunkline_up", ("postgres",)], told["trunkline_up", ("redis",)]) == (1, 0)
    assert told["trunkline_trunk_slots", (str(rows.trunk),)] == 10
    assert not any(name.endswith("in_use") for name, _ in told)


def test_the_outbox_tells_what_waits_for_how_long_and_what_was_given_up(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outbox() -> list[float]:
        told = scraped(database, valkey.url)
        return [told[f"trunkline_webhooks_{name}", ()] for name in ("waiting", "oldest_due_seconds", "given_up")]

    assert outbox() == [0, 0, 0]
    rows = Rows(engine=database.engine)
    add = (
        "INSERT INTO webhook_deliveries (call_id, status, url, due_at, given_up_at)"
        " SELECT gen_random_uuid(), 'busy', 'https://' || host, {due}, {given_up} FROM unnest(ARRAY['a', 'b', 'c']) AS h (host)"
    )
    rows.run(add.format(due="now() + interval '1 hour'", given_up="NULL"))
    assert outbox() == [3, 0, 0], "they wait, and none is due"
    rows.run(add.format(due="now() - interval '9 hours'", given_up="now()"))
    assert outbox() == [3, 0, 3], "what was given up waits no more"
    rows.run(
        "UPDATE webhook_deliveries SET due_at = now() - interval '10 min' WHERE receiver = 'b' AND given_up_at IS NULL"
    )
    rows.run(add.format(due="now() - interval '1 min'", given_up="NULL"))
    waiting, oldest, given_up = outbox()
    assert (waiting, given_up) == (6, 3)
    assert 600 <= oldest < 660, "of the receiver in the middle"
    monkeypatch.setattr(webhooks, "MOST_COUNTED", 2)
    assert outbox()[::2] == [2, 2], "and no more are counted"


def test_only_a_key_is_told_and_requests_are_counted_by_route_and_status(small_api: SmallApi) -> None:
    assert httpx.get(f"{small_api.url}/metrics").status_code == 401
    with small_api.client("read") as asks:
        asks.get("/agents/0")
        answer = asks.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told = samples(answer.text)
    assert told["trunkline_up", ("postgres",)] == told["trunkline_up", ("redis",)] == 1
    assert told["trunkline_api_requests_total", ("GET", "/agents/{agent_id}", "422")] == 1
    assert told["trunkline_api_requests_total", ("GET", "", "401")] == 1
