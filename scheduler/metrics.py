"""What a monitor asks for, in Prometheus's words: read from the ledger and from Redis at each scrape, kept nowhere else.

So it does not matter which process is asked, nor since when it runs: counts that grow are the ledger's own, and survive
restarts. A part that does not answer is 0 in `trunkline_up`, and what only it knows is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from models.nodes import Breaker, BreakerState, breakers
from models.repairs import Repair
from models.slots import Away, Slots
from models.statements import statement
from models.statuses import OPEN
from models.webhooks import MOST_COUNTED, Backlog, backlog

Family = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One that the ledger gives, most of them by `sql/metrics.sql`; `always` are the labels that are there with 0 as well."""

    says: str
    labels: tuple[str, ...] = ()
    counts: bool = False
    always: tuple[str, ...] = ()

    def family(self, name: str) -> Family:
        kind = CounterMetricFamily if self.counts else GaugeMetricFamily
        return kind(f"trunkline_{name}", self.says, labels=self.labels)


METRICS: Mapping[str, Metric] = {
    "repairs": Metric(
        says="What had to be put right, by what it was.", labels=("what",), counts=True, always=tuple(Repair)
    ),
    "role_epoch": Metric(says="How often a role has changed hands.", labels=("role",)),
    "node_heard": Metric(says="1 if the Asterisk node is listened to.", labels=("node",)),
    "node_breaker": Metric(says="1 for the state that the node's breaker is in.", labels=("node", "state")),
    "node_slots": Metric(says="Calls that the node carries at most.", labels=("node",)),
    "trunk_slots": Metric(says="Calls that the trunk carries at most.", labels=("trunk",)),
    "gateway_resting": Metric(says="1 if the gateway rests after failures.", labels=("trunk", "gateway")),
    "attempts_open": Metric(
        says="Attempts that are not over.", labels=("status",), always=tuple(status.value for status in sorted(OPEN))
    ),
    "attempts_held": Metric(says="Attempts of unknown fate that hold their slot."),
    "webhooks_waiting": Metric(says=f"Webhooks that were not taken yet, {MOST_COUNTED} at most."),
    "webhooks_oldest_due_seconds": Metric(says="For how long the oldest webhook that is due has been; 0 if none is."),
    "webhooks_given_up": Metric(says=f"Webhooks given up in the last week, {MOST_COUNTED} at most."),
}


class LedgerCollector(Collector):
    """Thread-safe. A scrape takes three queries and one question to Redis a trunk and a node, each within its bound."""

    def __init__(self, engine: Engine, slots: Slots) -> None:
        self._engine = engine
        self._slots = slots

    def collect(self) -> Iterator[Family]:
        up = GaugeMetricFamily("trunkline_up", "1 if the part answers.", labels=("part",))
        rows: list[Any] = []
        try:
            with self._engine.begin() as connection:
                found = connection.exec_driver_sql(statement("metrics"))
                rows = [(row.metric, list(row.labels), float(row.value)) for row in found]
                rows += _of_nodes(breakers(connection))
                rows += _of_webhooks(backlog(connection))
            up.add_metric(["postgres"], 1)
        except SQLAlchemyError:
            up.add_metric(["postgres"], 0)
        try:
            in_use = list(self._in_use(rows))
            up.add_metric(["redis"], 1)
        except Away:
            in_use = []
            up.add_metric(["redis"], 0)
        yield up
        if rows:
            yield from _families(rows)
        yield from in_use

    def _in_use(self, rows: Iterable[Any]) -> Iterator[Family]:
        trunks = GaugeMetricFamily("trunkline_trunk_slots_in_use", "Slots of the trunk in use.", labels=("trunk",))
        nodes = GaugeMetricFamily("trunkline_node_slots_in_use", "Slots of the node in use.", labels=("node",))
        self._slots.in_use("trunk", "any")  # whether it answers, also where there is no trunk
        for metric, labels, _ in rows:
            if metric == "trunk_slots":
                trunks.add_metric(labels[:1], self._slots.in_use("trunk", labels[1]))
            elif metric == "node_slots":
                nodes.add_metric(labels, self._slots.in_use("node", labels[0]))
        yield trunks
        yield nodes


def _of_nodes(found: Iterable[Breaker]) -> Iterator[Any]:
    for breaker in found:
        yield "node_heard", [breaker.node], float(breaker.is_heard)
        for state in BreakerState:
            yield "node_breaker", [breaker.node, state.value], float(breaker.state is state)


def _of_webhooks(found: Backlog) -> Iterator[Any]:
    yield "webhooks_waiting", [], float(found.waiting)
    yield "webhooks_oldest_due_seconds", [], found.oldest_due.total_seconds()
    yield "webhooks_given_up", [], float(found.given_up)


def _families(rows: Iterable[Any]) -> Iterator[Family]:
    families = {name: metric.family(name) for name, metric in METRICS.items()}
    missing = {(name, label) for name, metric in METRICS.items() for label in metric.always}
    for name, labels, value in rows:
        families[name].add_metric(labels[: len(METRICS[name].labels)], value)
        missing.difference_update((name, label) for label in labels[:1])
    for name, label in sorted(missing):
        families[name].add_metric([label], 0)
    yield from families.values()
