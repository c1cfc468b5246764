"""What a monitor is told: the ledger's own counts, and which part does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from models import repairs
from models.errors import Invalid
from models.repairs import Repair
from models.settings import Settings, read_settings
from models.slots import Slots, connect
from scheduler.metrics import LedgerCollector, serve
from tests.integration.conftest import Database
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


def test_the_running_scheduler_tells_a_monitor_how_it_is_going(system: System) -> None:
    from_number, agent = system.add_trunk("watched", slots=7), system.add_agent("watched", "playback://demo-congrats")
    call = system.call(agent, from_number, "+12015550100")
    until(lambda: system.status(call) == "in-progress")
    with urlopen(f"http://{system.settings.metrics_bind}/metrics") as answer:
        told = samples(answer.read().decode())
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


def test_a_second_scheduler_on_the_machine_goes_on_without_the_port(database: Database, valkey: Valkey) -> None:
    settings = database.settings.model_copy(
        update={"metrics_bind": f"127.0.0.1:{free_port()}", "redis_url": SecretStr(valkey.url)}
    )
    first = serve(settings)
    assert first is not None
    try:
        assert serve(settings) is None
    finally:
        first.shutdown()
        first.server_close()


@pytest.mark.parametrize("bind", ["9464", "localhost:9464", "127.0.0.1:", "127.0.0.1:70000", "::1:9464"])
def test_a_bind_that_is_none_is_refused_by_its_name(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_METRICS_BIND", bind)
    with pytest.raises(Invalid, match=r"TRUNKLINE_METRICS_BIND: must be ADDRESS:PORT"):
        read_settings(Settings)
