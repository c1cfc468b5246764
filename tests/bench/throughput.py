"""Answered calls a second, as the carrier saw them."""

from __future__ import annotations

from deploy.carrier.people import numbers
from tests.bench.figures import Figure
from tests.bench.lab import Lab, middle

SLOTS = 300


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Calls of a second each, over the middle half of a campaign."""
    people = numbers({f"{at:02}": 300 for at in range(10, 20)})
    found = []
    for at in range(rounds):
        calls = lab.campaign(f"throughput {at}", people, slots=SLOTS)
        since, until = middle(calls)
        found.append(sum(since <= call.invited_at < until for call in calls) / (until - since))
    return [Figure(name="throughput", of="trunkline", unit="calls/s", rounds=tuple(found))]
