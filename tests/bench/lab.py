"""The whole system on real parts, as the benches use it, and what it costs.

Each bench is a function of a `Lab` and a number of rounds, and returns figures; whatever it compares takes turns,
round by round, in one run: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.part import Part, stop
from tests.integration.system import System, until

UNLIMITED = 10_000  #: calls a second
SOUND = "playback://hello-world"  #: of the agent in every campaign here


@dataclass(frozen=True, kw_only=True)
class Lab:
    system: System
    directory: Path

    def campaign(
        self,
        name: str,
        to: Sequence[str],
        *,
        slots: int,
        calls_per_second: float = UNLIMITED,
        within: float = 300,
        carrier: Carrier | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[witness.CarrierCall]:
        """Dials everybody by a trunk of this name; returns what the carrier saw, in the order of the INVITEs.

        `meanwhile` is called once it has been started.
        """
        from_number = self.system.add_trunk(name, slots=slots, calls_per_second=calls_per_second, carrier=carrier)
        self.system.add_agent(name, SOUND)
        file = self.directory / f"{name}.csv"
        file.write_text("phone_number\n" + "\n".join(to) + "\n")
        words = ["--name", name, "--agent", name, "--from", from_number, "--start"]
        self.system.begin_test()
        began_at = time.time()
        self.system.trunkline("campaign", "upload", file, *words)
        meanwhile()
        until(lambda: self.system.campaign(name)["status"] == "completed", within=within)
        log = (carrier or self.system.carrier).log
        return [call for call in witness.read(log) if call.invited_at >= began_at]

    def spread_campaign(
        self, name: str, to: Sequence[str], *, slots: int, over: float, within: float = 300
    ) -> list[witness.CarrierCall]:
        """As `campaign`, its slots filled evenly over so many seconds: people do not hang up all at once.

        What began together would end together for as long as the campaign lasts, all calls being of one length.
        """

        def fill() -> None:
            until(lambda: len(self.system.carrier_calls()) >= slots, within=within, what="every slot is in use")
            words = "UPDATE trunks SET max_calls_per_second = %(rate)s WHERE name = %(name)s"
            self.system.run(words, rate=UNLIMITED, name=name)

        return self.campaign(name, to, slots=slots, calls_per_second=slots / over, within=within, meanwhile=fill)

    def start_again(self, parts: Sequence[Part]) -> None:
        """Starts processes of ours anew, as these describe them now, and returns when the node is heard again."""
        for part in parts:
            stop(self.system.parts[part.name], self.system.processes[part.name])
            self.system.parts[part.name] = part
            self.system.start(part.name)
        until(
            lambda: self.system.value("SELECT count(*) FROM nodes WHERE heard_at IS NOT NULL"), what="a node is heard"
        )

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
