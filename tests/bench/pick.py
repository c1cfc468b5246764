"""How long the leader takes to pick the next hundred calls, however many wait."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from sqlalchemy import Engine

from models.slots import Lease, Scope, SlotsError, Taken
from scheduler.grants import Granter
from scheduler.lines import load_lines
from tests.bench.figures import Aim, Figure
from tests.bench.filled import ledger_of
from tests.bench.lab import Lab

CALLS = (10_000, 1_000_000, 10_000_000)
CAMPAIGNS = (1, 10, 1000)
ROOM = 100
PICKS = 20  # a round


class _Picked(SlotsError):
    """What was picked is not granted: the transaction ends."""


class _Room:
    """Slots of which a hundred are always free, and that give none away."""

    def take(self, scopes: Sequence[Scope], leases: Sequence[Lease]) -> Taken:
        if leases:
            assert len(leases) == ROOM
            raise _Picked
        return Taken(granted=frozenset(), room={scope.slots_key: ROOM for scope in scopes}, ask_again_in=None)


def run(lab: Lab, rounds: int) -> list[Figure]:
    figures = []
    for campaigns in CAMPAIGNS:
        with ExitStack() as stack:
            engines = {
                calls: stack.enter_context(ledger_of(lab.system, calls=calls, campaigns=campaigns)) for calls in CALLS
            }
            figures += _compared(engines, rounds, f"{campaigns:,} campaigns")
    return figures


def _compared(engines: dict[int, Engine], rounds: int, among: str) -> list[Figure]:
    taken: dict[int, list[float]] = {calls: [] for calls in engines}
    for _ in range(rounds):
        for calls, engine in engines.items():
            taken[calls].append(pick_ms(engine))
    found = [
        Figure(name=f"pick of {ROOM}", of=f"{calls:,} calls, {among}", unit="ms", rounds=tuple(rounds_ms))
        for calls, rounds_ms in taken.items()
    ]
    return [*found, *(figure.against(found[0], Aim(at_most=1.5)) for figure in found[1:])]


def pick_ms(engine: Engine) -> float:
    """The median of a few picks, each of a transaction of its own that is taken back, as the leader does it."""
    granter = Granter(_Room())  # type: ignore[arg-type]
    found = []
    with engine.connect() as connection:
        with connection.begin():
            lines = load_lines(connection)
        for _ in range(PICKS):
            began = time.perf_counter()
            with suppress(_Picked):
                granter.grant(connection, lines)
            found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found)
