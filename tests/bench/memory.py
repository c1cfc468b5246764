"""Whether our processes grow with the attempts that they have made: campaigns of busy people, without a pause."""

from __future__ import annotations

import psutil

from deploy.carrier.people import area_codes, numbers
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab
from tests.integration.system import System, until

ATTEMPTS = 34_000  # a round; three make the hundred thousand that is to be reached
LOOKS = 10  # at equal distances; what is compared is after the second and after the last
SLOTS = 300
PARTS = ("scheduler", "listener", "worker")

# every person exists once in each campaign
_CAMPAIGNS = """
WITH added AS (
  INSERT INTO campaigns (id, name, agent_id, from_numbers, status, started_at)
  SELECT gen_random_uuid(), 'memory ' || n, %(agent)s, ARRAY[%(from)s], 'running', now() FROM generate_series(1, %(campaigns)s) n
  RETURNING id, agent_id
)
INSERT INTO calls (id, campaign_id, agent_id, phone_number)
SELECT gen_random_uuid(), added.id, added.agent_id, number FROM added, unnest(%(numbers)s::text[]) number
"""


def run(lab: Lab, rounds: int) -> list[Figure]:
    """What each part has in memory, every time that another tenth of the attempts is over."""
    system = lab.system
    people = numbers({"86": len(area_codes())})
    campaigns = -(-rounds * ATTEMPTS // len(people))
    from_number, agent = system.add_trunk("memory", slots=SLOTS, calls_per_second=10_000), system.add_agent("memory")
    words = {"agent": agent, "from": from_number, "campaigns": campaigns, "numbers": people}
    system.run(_CAMPAIGNS, **words)
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for look in range(1, LOOKS + 1):
        wanted = look * campaigns * len(people) // LOOKS
        until(lambda: _over(system) >= wanted, within=3600)  # noqa: B023
        for part, resident in found.items():
            resident.append(_megabytes(system, part))
    resident_of = [
        Figure(name=f"memory, {campaigns * len(people):,} attempts", of=part, unit="MB", rounds=tuple(resident))
        for part, resident in found.items()
    ]
    grown = [
        Figure(
            name="memory, after all / after a fifth",
            of=figure.of,
            unit="×",
            rounds=(figure.rounds[-1] / figure.rounds[1],),
            aim=Aim(at_most=1.1),
        )
        for figure in resident_of
    ]
    return [*resident_of, *grown]


def _over(system: System) -> int:
    """Calls that have ended, as the counts say: looking must not cost much."""
    return int(system.value("SELECT coalesce(sum(busy), 0) FROM campaign_status"))


def _megabytes(system: System, part: str) -> float:
    """Resident, with its children."""
    pids = [process.pid for name, process in system.processes.items() if name.split()[0].split("-")[0] == part]
    processes = [
        found for pid in pids for found in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]
    assert processes, f"there is no {part}: {', '.join(system.processes)}"
    return sum(int(process.memory_info().rss) for process in processes) / 2**20
