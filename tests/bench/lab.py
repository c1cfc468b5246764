"""The whole system on real parts, as the benches use it, and what it costs.

Each bench is a function of a `Lab` and a number of rounds, and returns figures; whatever it compares takes turns,
round by round, in one run: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.carrier import witness
from tests.integration.system import System, until

SOUND = "playback://hello-world"  #: of the agent in every campaign here


@dataclass(frozen=True, kw_only=True)
class Lab:
    system: System
    directory: Path

    def campaign(
        self, name: str, to: Sequence[str], *, slots: int, calls_per_second: float = 10_000, within: float = 300
    ) -> list[witness.CarrierCall]:
        """Dials everybody by a trunk of this name; returns what the carrier saw, in the order of the INVITEs."""
        from_number = self.system.add_trunk(name, slots=slots, calls_per_second=calls_per_second)
        self.system.add_agent(name, SOUND)
        file = self.directory / f"{name}.csv"
        file.write_text("phone_number\n" + "\n".join(to) + "\n")
        words = ["--name", name, "--agent", name, "--from", from_number, "--start"]
        self.system.begin_test()
        self.system.trunkline("campaign", "upload", file, *words)
        until(lambda: self.system.campaign(name)["status"] == "completed", within=within)
        return self.system.carrier_calls()

    def spent(self) -> dict[str, float]:
        """CPU seconds, user and system, that each part that runs has used until now, its children's with it."""
        processes = {name: process.pid for name, process in self.system.processes.items() if process.poll() is None}
        processes["carrier"] = self.system.carrier.pid
        seconds = dict.fromkeys(processes, 0.0)
        for name, pid in processes.items():
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                seconds[name] += sum(process.cpu_times()[:4])  # the last two: of children that have ended
        return seconds

    def spent_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """CPU seconds since `before`, by kind of part: all listeners and all workers together."""
        seconds = defaultdict[str, float](float)
        for name, now in self.spent().items():
            seconds[name.partition("-")[0]] += now - before[name]
        return dict(seconds)


def middle(calls: Sequence[witness.CarrierCall]) -> tuple[float, float]:
    """When the second and when the third quarter of the calls began and ended: neither start nor end of a campaign."""
    began = sorted(call.invited_at for call in calls)
    return began[len(began) // 4], began[3 * len(began) // 4]
