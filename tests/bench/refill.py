"""How soon a slot that has come free is used again, and how many are in use."""

from __future__ import annotations

import statistics
from bisect import bisect_right

from deploy.carrier import witness
from deploy.carrier.people import numbers
from tests.bench.figures import Aim, Figure, percentile
from tests.bench.lab import Lab

SLOTS = 20


def run(lab: Lab, rounds: int) -> list[Figure]:
    """From an end at the carrier to the next INVITE there, while the trunk is full of calls of a second."""
    people = numbers({f"{at:02}": 100 for at in range(20, 26)}, skip=50)
    medians, worst, used, over = [], [], [], []
    for at in range(rounds):
        calls = lab.campaign(f"refill {at}", people, slots=SLOTS)
        began = sorted(call.invited_at for call in calls)
        ends = sorted(call.ended_at for call in calls if call.ended_at)[: -2 * SLOTS]
        nexts = [(end, bisect_right(began, end)) for end in ends]
        gaps = [(began[place] - end) * 1000 for end, place in nexts if place < len(began)]
        first, last = began[2 * SLOTS], began[-2 * SLOTS]
        busy = sum(max(0.0, min(call.ended_at or last, last) - max(call.invited_at, first)) for call in calls)
        medians.append(statistics.median(gaps))
        worst.append(percentile(gaps, 0.99))
        used.append(busy / (SLOTS * (last - first)))
        over.append(float(max(0, witness.peak_at_once(calls) - SLOTS)))
    return [
        Figure(name="refill, median", of="trunkline", unit="ms", rounds=tuple(medians), aim=Aim(at_most=10)),
        Figure(name="refill, p99", of="trunkline", unit="ms", rounds=tuple(worst), aim=Aim(at_most=50)),
        Figure(name="slots in use", of="trunkline", unit="of 1", rounds=tuple(used)),
        Figure(name="over the limit", of="trunkline", unit="calls", rounds=tuple(over), aim=Aim(at_most=0)),
    ]
