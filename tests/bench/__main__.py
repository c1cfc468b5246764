"""`make bench`, `make bench NAME=refill`: figures taken from the carrier's log, on real parts, on this machine.

They are to be compared within one run: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
from rich import box
from rich.console import Console
from rich.table import Table

from deploy.carrier import witness
from deploy.carrier.people import numbers
from tests.integration.http import client, make_key
from tests.integration.system import System, until

Figures = dict[str, str]


def campaign(system: System, directory: Path, name: str, to: Sequence[str], *, slots: int) -> list[witness.CarrierCall]:
    """Dials everybody as fast as so many slots allow; returns what the carrier saw."""
    from_number = system.add_trunk(name, slots=slots, calls_per_second=10_000)
    system.add_agent(name, "playback://hello-world")
    file = directory / f"{name}.csv"
    file.write_text("phone_number\n" + "\n".join(to) + "\n")
    system.trunkline("campaign", "upload", file, "--name", name, "--agent", name, "--from", from_number, "--start")
    until(lambda: system.campaign(name)["status"] == "completed", within=300)
    mine = set(to)
    return [call for call in witness.read(system.carrier.log) if call.number in mine]


def throughput(system: System, directory: Path) -> Figures:
    """Answered calls of a second each, on 300 slots: calls/s over the middle half of the campaign."""
    calls = campaign(system, directory, "throughput", numbers({f"{at:02}": 300 for at in range(10, 20)}), slots=300)
    began = sorted(call.invited_at for call in calls)
    middle = began[len(began) // 4 : 3 * len(began) // 4]
    return {"calls": str(len(calls)), "calls/s": f"{len(middle) / (middle[-1] - middle[0]):.0f}"}


def refill(system: System, directory: Path) -> Figures:
    """From an end at the carrier to the next INVITE there, while the trunk is full (20 slots, calls of a second)."""
    calls = campaign(system, directory, "refill", numbers({f"{at:02}": 100 for at in range(20, 26)}, skip=50), slots=20)
    began = sorted(call.invited_at for call in calls)
    ends = sorted(call.ended_at for call in calls if call.ended_at)[: -2 * 20]
    gaps = sorted(
        (began[bisect_right(began, end)] - end) * 1000 for end in ends if bisect_right(began, end) < len(began)
    )
    first, last = began[2 * 20], began[-2 * 20]
    busy = sum(max(0.0, min(call.ended_at or last, last) - max(call.invited_at, first)) for call in calls)
    return {
        "median ms": f"{statistics.median(gaps):.1f}",
        "p99 ms": f"{gaps[int(len(gaps) * 0.99)]:.1f}",
        "slots in use": f"{busy / (20 * (last - first)):.3f}",
        "peak at once": f"{witness.peak_at_once(calls)} of 20",
    }


def single(system: System, directory: Path) -> Figures:
    """A single call: from its row in the ledger to the INVITE at the carrier, nothing else going on."""
    from_number, agent = system.add_trunk("single-bench"), system.add_agent("single-bench")
    delays: list[float] = []
    for number in numbers({"86": 40}, skip=150):
        call = system.call(agent, from_number, number)
        until(lambda call=call: system.status(call) == "busy")  # type: ignore[misc]
        created = system.value("SELECT extract(epoch FROM created_at)::float8 FROM calls WHERE id = %(id)s", id=call)
        delays.append((system.carried(number)[0].invited_at - created) * 1000)
    return {"median ms": f"{statistics.median(delays):.1f}", "worst ms": f"{max(delays):.1f}"}


def upload(system: System, directory: Path) -> Figures:
    """A million people over HTTP: how long it takes, the API's memory before and at its peak, and how long others wait meanwhile."""
    from_number, agent = system.add_trunk("upload-bench"), system.add_agent("upload-bench")
    file = directory / "million.csv"
    file.write_text("phone_number,name\n" + "".join(f"+1212{2_000_000 + at},Person {at}\n" for at in range(1_000_000)))
    status = Path(f"/proc/{system.processes['api'].pid}/status")
    key, others, is_over = make_key(system.engine), list[float](), Event()

    def megabytes(name: str) -> str:
        (found,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
        return f"{int(found) / 1024:.0f}"

    def ask(api: httpx.Client) -> None:
        while not is_over.wait(0.05):
            began = time.monotonic()
            api.get("/batches?limit=1").raise_for_status()
            others.append((time.monotonic() - began) * 1000)

    with client(system.stack.runtime["api_url"], key) as api, ThreadPoolExecutor() as pool:
        api.get("/batches").raise_for_status()
        before = megabytes("VmRSS")
        asking = pool.submit(ask, api)
        began = time.monotonic()
        with file.open("rb") as content:
            data = {"agent_id": str(agent), "from_phone_numbers": from_number}
            answer = api.post("/batches", files={"file": content}, data=data, timeout=600)
        took = time.monotonic() - began
        is_over.set()
        asking.result()
        answer.raise_for_status()
    return {
        "file MB": f"{file.stat().st_size / 1e6:.0f}",
        "seconds": f"{took:.0f}",
        "memory before MB": before,
        "memory at its peak MB": megabytes("VmHWM"),
        "others' median ms": f"{statistics.median(others):.0f}",
        "others' worst ms": f"{max(others):.0f}",
    }


BENCHES: dict[str, Callable[[System, Path], Figures]] = {
    "throughput": throughput,
    "refill": refill,
    "single": single,
    "upload": upload,
}


def main(wanted: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        sys.exit(f"there is no bench {unknown[0]!r}; there are: {', '.join(BENCHES)}")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("bench", "figure", "value"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as directory, System(Path(directory) / "home") as system:
        for name in wanted or BENCHES:
            for figure, value in BENCHES[name](system, Path(directory)).items():
                table.add_row(name, figure, value)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
