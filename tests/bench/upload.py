"""A million people, from a CSV file to calls in the ledger, against what cannot be spared.

Four take turns, in a ledger that is emptied before each:

- `trunkline campaign upload`, from the start of the process to its end;
- the same file over HTTP, with a small request every 50 ms beside it;
- bare COPY: the values that an upload writes, as text made beforehand, into a table with all columns of `calls`
  and its primary key, without CHECKs, other indexes and triggers, in one transaction;
- the validation alone: the file is parsed, every row checked and deduplicated, nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import httpx
import psycopg
import uuid_utils

from scheduler.csv_rows import open_csv
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab
from tests.integration.http import client, make_key
from tests.integration.system import System

ROWS = 1_000_000
COLUMNS = "id, campaign_id, agent_id, phone_number, name, variables, line_number, due_at"
BLOCK = 1 << 16
OFTEN = 0.05  # seconds


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Seconds and peak memory of each, and how long others wait for the API meanwhile."""
    ways = _Ways(lab)
    turns: dict[str, Callable[[int], float]] = {
        "trunkline campaign upload": ways.by_command,
        "over HTTP": ways.over_http,
        "bare COPY": ways.copy,
        "validation alone": ways.validate,
    }
    seconds: dict[str, list[float]] = {of: [] for of in turns}
    for at in range(rounds):
        for of, turn in turns.items():
            _empty(lab.system)
            seconds[of].append(turn(at))
    command, http, copy, validation = (
        Figure(name=f"{ROWS:,} rows", of=of, unit="s", rounds=tuple(taken)) for of, taken in seconds.items()
    )
    return [
        command,
        http,
        copy,
        validation,
        *(
            Figure(name="upload", of=way.of, unit="rows/s", rounds=tuple(ROWS / taken for taken in way.rounds))
            for way in (command, http)
        ),
        command.against(copy, Aim(at_most=3)),
        http.against(copy, Aim(at_most=3)),
        command.against(validation),
        validation.against(copy),
        Figure(name="peak memory", of=command.of, unit="MB", rounds=tuple(ways.peaks), aim=Aim(at_most=150)),
        Figure(name="peak memory", of="the API", unit="MB", rounds=(_peak(ways.api),), aim=Aim(at_most=150)),
        Figure(name="another request, median", of="the API", unit="ms", rounds=(statistics.median(ways.others),)),
        Figure(name="another request, worst", of="the API", unit="ms", rounds=(max(ways.others),)),
    ]


@dataclass(kw_only=True, eq=False)
class _Lists:
    """The same people as CSV and as COPY reads them."""

    csv: Path
    copied: Path


class _Ways:
    """How the rows get in; each returns the seconds that it took."""

    def __init__(self, lab: Lab) -> None:
        self._system = lab.system
        self._from_number, self._agent = lab.system.add_trunk("upload"), lab.system.add_agent("upload")
        self._lists = _write_lists(lab.directory, self._agent)
        self._key = make_key(lab.system.engine)
        self.api = lab.system.processes["api"].pid
        self.peaks: list[float] = []
        self.others: list[float] = []

    def by_command(self, at: int) -> float:
        words = ["--name", f"upload {at}", "--agent", "upload", "--from", self._from_number]
        began = time.monotonic()
        command = subprocess.Popen(
            [Path(sys.executable).parent / "trunkline", "campaign", "upload", self._lists.csv, *words],
            env={**os.environ, "TRUNKLINE_HOME": str(self._system.stack.home)},
            stdout=subprocess.DEVNULL,
        )
        peak = 0.0
        while command.poll() is None:
            peak = max(peak, _peak(command.pid))
            time.sleep(OFTEN)
        assert command.returncode == 0
        self.peaks.append(peak)
        return time.monotonic() - began

    def over_http(self, _: int) -> float:
        with client(self._system.stack.runtime["api_url"], self._key) as api, self._asked_beside(api):
            began = time.monotonic()
            with self._lists.csv.open("rb") as content:
                data = {"agent_id": str(self._agent), "from_phone_numbers": self._from_number}
                api.post("/batches", files={"file": content}, data=data, timeout=600).raise_for_status()
            return time.monotonic() - began

    @contextmanager
    def _asked_beside(self, api: httpx.Client) -> Iterator[None]:
        is_over = Event()

        def ask() -> None:
            while not is_over.wait(OFTEN):
                began = time.monotonic()
                api.get("/batches?limit=1").raise_for_status()
                self.others.append((time.monotonic() - began) * 1000)

        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask)
            try:
                yield
            finally:
                is_over.set()
            asking.result()

    def copy(self, _: int) -> float:
        with psycopg.connect(self._system.stack.runtime["database_owner_url"]) as connection:
            connection.execute("CREATE TABLE bare (LIKE calls INCLUDING DEFAULTS, PRIMARY KEY (id))")
            connection.commit()
            began = time.monotonic()
            with (
                self._lists.copied.open("rb") as content,
                connection.cursor().copy(f"COPY bare ({COLUMNS}) FROM STDIN") as copy,
            ):
                while block := content.read(BLOCK):
                    copy.write(block)
            connection.commit()
            taken = time.monotonic() - began
            connection.execute("DROP TABLE bare")
            return taken

    def validate(self, _: int) -> float:
        began = time.monotonic()
        with open_csv(self._lists.csv) as file:
            found = {file.columns.recipient(row.cells).phone_number for row in file.rows()}
        assert len(found) == ROWS
        return time.monotonic() - began


def _write_lists(directory: Path, agent: UUID) -> _Lists:
    lists = _Lists(csv=directory / "people.csv", copied=directory / "people.copy")
    campaign, due = uuid4(), datetime.now(UTC).isoformat()
    with lists.csv.open("w") as csv, lists.copied.open("w") as copied:
        csv.write("phone_number,name\n")
        for at in range(ROWS):
            number, name = f"+1212{2_000_000 + at}", f"Person {at}"
            csv.write(f"{number},{name}\n")
            cells = (uuid_utils.uuid7(), campaign, agent, number, name, "{}", at + 2, due)
            copied.write("\t".join(map(str, cells)) + "\n")
    return lists


def _empty(system: System) -> None:
    """Nobody pays for what the one before has left, nor for its checkpoint."""
    system.run("TRUNCATE calls, attempts, rejected_rows, campaigns, campaign_counts, campaign_count_deltas")
    with system.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT")


def _peak(pid: int) -> float:
    """MB that this process has had at once, as the kernel remembers; 0 once it is over."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
