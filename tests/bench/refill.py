"""How soon a slot that has come free is used again, and where that time goes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from deploy.carrier.people import numbers
from deploy.carrier.witness import CarrierCall
from tests.bench import steps
from tests.bench.figures import Aim, Figure, percentile
from tests.bench.lab import Lab

SLOTS = (20, 50)  #: of calls of a second, which is about as many calls a second
_SECONDS = 24


def run(lab: Lab, rounds: int) -> list[Figure]:
    """From the BYE at the carrier to the next INVITE there, while the trunk is full; ends come one by one.

    Slots have no names. The trunk's n slots are full after n INVITEs, and from then on every end allows one INVITE: the
    first end the INVITE n + 1, the k-th end the INVITE n + k. So they are paired, each in its order of time: that is how
    long slots stood idle, each moment of each slot counted once. The first INVITE after an end would be too short where
    many end at once, as it belongs to the first of them, and all the others would be paired with it too; a slot that is
    lost for good would not show at all.
    """
    medians: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    worst: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    rates: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    for at in range(rounds):
        for slots in SLOTS:
            calls = _campaign(lab, f"refill {slots} {at}", slots)
            gaps = [begun.invited_at - (ended.ended_at or 0.0) for ended, begun in paired(calls, slots)]
            began = [begun.invited_at for _, begun in paired(calls, slots)]
            medians[slots].append(statistics.median(gaps) * 1000)
            worst[slots].append(percentile(gaps, 0.99) * 1000)
            rates[slots].append(len(began) / (began[-1] - began[0]))
    found = []
    for slots in SLOTS:
        of = f"{slots} slots"
        found += [
            Figure(name="refill, median", of=of, unit="ms", rounds=tuple(medians[slots]), aim=Aim(at_most=10)),
            Figure(name="refill, p99", of=of, unit="ms", rounds=tuple(worst[slots]), aim=Aim(at_most=50)),
            Figure(name="while it calls", of=of, unit="calls/s", rounds=tuple(rates[slots])),
        ]
    return found + _breakdown(lab, rounds, SLOTS[0])


def _campaign(lab: Lab, name: str, slots: int) -> list[CarrierCall]:
    people = numbers(dict.fromkeys((f"{digits}" for digits in range(10, 30)), slots * _SECONDS // 20), skip=20)
    return lab.spread_campaign(name, people, slots=slots, over=1.0)


def paired(calls: Sequence[CarrierCall], slots: int) -> list[tuple[CarrierCall, CarrierCall]]:
    """Each end with the INVITE that it allowed; without the slots' first calls, and the last, which nothing followed."""
    ended = sorted((call for call in calls if call.ended_at), key=lambda call: call.ended_at or 0.0)
    begun = sorted(calls, key=lambda call: call.invited_at)
    return list(zip(ended, begun[slots:], strict=False))[slots:-slots]


def _breakdown(lab: Lab, rounds: int, slots: int) -> list[Figure]:
    """The medians of the steps, which are not the steps of the median, and a clock costs a little."""
    found: dict[str, list[float]] = {step: [] for step in (*steps.STEPS, "all steps")}
    with steps.clocks(lab) as directory:
        for at in range(rounds):
            calls = _campaign(lab, f"steps {at}", slots)
            clocks = steps.read(lab, directory)
            rows = [row for ended, begun in paired(calls, slots) if (row := clocks.between(ended, begun))]
            for step, seconds in zip(found, zip(*((*row, sum(row)) for row in rows), strict=True), strict=True):
                found[step].append(statistics.median(seconds) * 1000)
    return [
        Figure(name=f"refill: {step}", of=f"{slots} slots", unit="ms", rounds=tuple(ms)) for step, ms in found.items()
    ]
