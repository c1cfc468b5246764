"""The whole system on real parts, as the benches use it, and what it costs.

Each bench is a function of a `Lab` and a number of rounds, and returns figures; whatever it compares takes turns,
round by round, in one run: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.carrier import witness
from tests.integration.system import System, until


@dataclass(frozen=True, kw_only=True)
class Lab:
    system: System
    directory: Path

    def campaign(
        self, name: str, to: Sequence[str], *, slots: int, calls_per_second: float = 10_000, within: float = 300
    ) -> list[witness.CarrierCall]:
        """Dials everybody by a trunk of this name; returns what the carrier saw, in the order of the INVITEs."""
        from_number = self.system.add_trunk(name, slots=slots, calls_per_second=calls_per_second)
        self.system.add_agent(name, "playback://hello-world")
        file = self.directory / f"{name}.csv"
        file.write_text("phone_number\n" + "\n".join(to) + "\n")
        words = ["--name", name, "--agent", name, "--from", from_number, "--start"]
        self.system.begin_test()
        self.system.trunkline("campaign", "upload", file, *words)
        until(lambda: self.system.campaign(name)["status"] == "completed", within=within)
        return self.system.carrier_calls()

    def spent(self) -> dict[str, float]:
        """CPU seconds, user and system, that each part has used until now, its children's with it."""
        processes = {name: process.pid for name, process in self.system.processes.items()}
        seconds = dict.fromkeys(processes, 0.0)
        for name, pid in processes.items():
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                seconds[name] += sum(process.cpu_times()[:4])  # the last two: of children that have ended
        return seconds


def middle(calls: Sequence[witness.CarrierCall]) -> tuple[float, float]:
    """When the second and when the third quarter of the calls began and ended: neither start nor end of a campaign."""
    began = sorted(call.invited_at for call in calls)
    return began[len(began) // 4], began[3 * len(began) // 4]
