"""What it costs to ask how a campaign is going, and to keep the answer true, with few calls and with ten million."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

from sqlalchemy import Connection, Engine

from models.statements import statement
from tests.bench.figures import Aim, Figure
from tests.bench.filled import ledger_of
from tests.bench.lab import Lab

CALLS = (10_000, 10_000_000)
CAMPAIGNS = 10
TIMES = 50  # a round
WRITTEN = 100  # calls that one transaction moves, as the leader's and the listener's do


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Reads of one campaign and of all of them, a write of a hundred transitions, and the fold after it."""
    acts: dict[str, Callable[[Connection], object]] = {
        "read of one": _read_one,
        "read of all": _read_all,
        f"write of {WRITTEN}": _write,
        "fold": _fold,
    }
    with ExitStack() as stack:
        engines = {
            calls: stack.enter_context(ledger_of(lab.system, calls=calls, campaigns=CAMPAIGNS)) for calls in CALLS
        }
        taken: dict[tuple[str, int], list[float]] = {(act, calls): [] for act in acts for calls in CALLS}
        for _ in range(rounds):
            for calls, engine in engines.items():
                for name, median in _medians(engine, acts).items():
                    taken[name, calls].append(median)
    found = {
        (act, calls): Figure(name=f"campaign_status, {act}", of=f"{calls:,} calls", unit="ms", rounds=tuple(rounds_ms))
        for (act, calls), rounds_ms in taken.items()
    }
    few, many = CALLS
    return [*found.values(), *(found[act, many].against(found[act, few], Aim(at_most=1.5)) for act in acts)]


def _medians(engine: Engine, acts: dict[str, Callable[[Connection], object]]) -> dict[str, float]:
    """One of each in turn, so that each fold has the same to fold."""
    taken: dict[str, list[float]] = {name: [] for name in acts}
    with engine.connect() as connection:
        for _ in range(TIMES):
            for name, act in acts.items():
                began = time.perf_counter()
                with connection.begin():
                    act(connection)
                taken[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(found) for name, found in taken.items()}


def _read_one(connection: Connection) -> object:
    return connection.exec_driver_sql("SELECT * FROM campaign_status WHERE name = 'campaign 1'").one()


def _read_all(connection: Connection) -> object:
    return connection.exec_driver_sql("SELECT * FROM campaign_status").all()


def _write(connection: Connection) -> None:
    """A hundred calls are queued, or scheduled again: the triggers write their events and what it changes in the counts."""
    moved = connection.exec_driver_sql(
        "UPDATE calls SET status = CASE status WHEN 'queued' THEN 'scheduled' ELSE 'queued' END, updated_at = now()"
        f" WHERE id IN (SELECT id FROM calls ORDER BY id LIMIT {WRITTEN})"
    )
    assert moved.rowcount == WRITTEN


def _fold(connection: Connection) -> None:
    connection.exec_driver_sql(statement("fold_counts"))
