"""A million people over HTTP."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx

from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab
from tests.integration.http import client, make_key

ROWS = 1_000_000


def run(lab: Lab, rounds: int) -> list[Figure]:
    """How long it takes, the API's memory at its peak, and how long others wait meanwhile."""
    system = lab.system
    from_number, agent = system.add_trunk("upload"), system.add_agent("upload")
    file = lab.directory / "million.csv"
    file.write_text("phone_number,name\n" + "".join(f"+1212{2_000_000 + at},Person {at}\n" for at in range(ROWS)))
    status = Path(f"/proc/{system.processes['api'].pid}/status")
    key, others, is_over = make_key(system.engine), list[float](), Event()

    def peak_megabytes() -> float:
        (found,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(found) / 1024

    def ask(api: httpx.Client) -> None:
        while not is_over.wait(0.05):
            began = time.monotonic()
            api.get("/batches?limit=1").raise_for_status()
            others.append((time.monotonic() - began) * 1000)

    rates = []
    with client(system.stack.runtime["api_url"], key) as api, ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, api)
        for _ in range(rounds):
            began = time.monotonic()
            with file.open("rb") as content:
                data = {"agent_id": str(agent), "from_phone_numbers": from_number}
                api.post("/batches", files={"file": content}, data=data, timeout=600).raise_for_status()
            rates.append(ROWS / (time.monotonic() - began))
        is_over.set()
        asking.result()
    return [
        Figure(name="upload", of="over HTTP", unit="rows/s", rounds=tuple(rates)),
        Figure(name="peak memory", of="the API", unit="MB", rounds=(peak_megabytes(),), aim=Aim(at_most=150)),
        Figure(name="another request, median", of="the API", unit="ms", rounds=(statistics.median(others),)),
        Figure(name="another request, worst", of="the API", unit="ms", rounds=(max(others),)),
    ]
