"""How soon a single call reaches the carrier, when nothing else goes on."""

from __future__ import annotations

import statistics

from deploy.carrier.people import numbers
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab
from tests.integration.system import until

CALLS = 40


def run(lab: Lab, rounds: int) -> list[Figure]:
    """From its row in the ledger to the INVITE at the carrier."""
    system = lab.system
    from_number, agent = system.add_trunk("single"), system.add_agent("single")
    found = []
    for at in range(rounds):
        delays: list[float] = []
        for number in numbers({"86": CALLS}, skip=CALLS * at):
            call = system.call(agent, from_number, number)
            until(lambda call=call: system.status(call) == "busy")  # type: ignore[misc]
            created = system.value(
                "SELECT extract(epoch FROM created_at)::float8 FROM calls WHERE id = %(id)s", id=call
            )
            delays.append((system.carried(number)[0].invited_at - created) * 1000)
        found.append(statistics.median(delays))
    return [Figure(name="single call", of="trunkline", unit="ms", rounds=tuple(found), aim=Aim(at_most=25))]
