"""What a call costs: CPU, user and system, of each part, at full speed and at twenty calls a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from deploy.carrier.people import numbers
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab

SLOTS = 300
AT_FULL_SPEED = 3000  #: calls
SLOWLY = 400
CALLS_PER_SECOND = 20
IDLE_SECONDS = 10.0
_PYTHON = ("scheduler", "listener", "worker")
_BESIDE = ("webhooks", "api", "flower", "names")
_PARTS = {
    "our Python": _PYTHON,
    **{part: (part,) for part in _PYTHON},
    "webhooks, API, Flower, names": _BESIDE,
    **{part: (part,) for part in ("postgres", "valkey", "asterisk", "carrier")},
}


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Of a whole campaign, its upload's and its end's work with it; nothing is subtracted, and what is idle is told apart."""
    fast = numbers({f"{at:02}": AT_FULL_SPEED // 10 for at in range(10, 20)})
    slow = numbers({f"{at:02}": SLOWLY // 10 for at in range(10, 20)}, skip=100)
    idle, full, slowly = list[Mapping[str, float]](), list[Mapping[str, float]](), list[Mapping[str, float]]()
    for at in range(rounds):
        before = lab.spent()
        time.sleep(IDLE_SECONDS)
        idle.append(lab.spent_since(before))
        before = lab.spent()
        lab.campaign(f"full speed {at}", fast, slots=SLOTS)
        full.append(lab.spent_since(before))
        before = lab.spent()
        lab.campaign(f"slowly {at}", slow, slots=SLOTS, calls_per_second=CALLS_PER_SECOND)
        slowly.append(lab.spent_since(before))
    return [
        *_figures("CPU at full speed", "ms a call", full, AT_FULL_SPEED, Aim(at_most=1.2)),
        *_figures(f"CPU at {CALLS_PER_SECOND} calls/s", "ms a call", slowly, SLOWLY),
        *_figures("CPU idle", "ms a second", idle, IDLE_SECONDS),
    ]


def _figures(
    name: str, unit: str, spent: Sequence[Mapping[str, float]], among: float, aim: Aim | None = None
) -> list[Figure]:
    """One a part; the aim is our Python's."""
    return [
        Figure(
            name=name,
            of=part,
            unit=unit,
            rounds=tuple(sum(turn[kind] for kind in kinds) * 1000 / among for turn in spent),
            aim=aim if kinds is _PYTHON else None,
        )
        for part, kinds in _PARTS.items()
    ]
