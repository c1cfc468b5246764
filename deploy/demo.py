"""`trunkline demo`: a campaign of a few hundred people against a carrier of our own, on this machine only.

Everything is real but the people: Postgres, Valkey, Celery, Asterisk, and SIPp as the carrier, in which
the last two digits of the dialled number decide what happens. It types the commands that a user would.
At the end the carrier's own log is held against the ledger.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.people import numbers
from deploy.debian import provide
from deploy.left_over import end_left_over
from deploy.part import Part, accepts, free_port, running
from deploy.supervisor import Say, detach, make_home, only_one, take_down
from models.errors import TrunklineError
from models.settings import Settings

SLOTS, CALLS_PER_SECOND = 20, 30
PEOPLE = {"01": 40, "00": 110, "86": 40, "80": 20, "04": 25, "63": 20, "05": 15, "53": 10, "90": 6, "03": 6, "93": 3}
FROM_NUMBER = "+12025550100"
_SECRET = "demo"  # noqa: S105 - of a carrier that lives as long as the demo
_NAMES = ("Zoë O'Brien", "李小龍", 'Anna "Anni" Weiß', "Doe, John", "Émile | Zola", "Søren; Kierkegaard", "Ana 🎉 Díaz")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure as the carrier counts it and as the ledger does."""

    what: str
    carrier: int
    ledger: int
    limit: int | None = None

    @property
    def agrees(self) -> bool:
        """Peaks are seen from two ends of a wire, so they may differ by one; neither may pass the limit."""
        slack = 0 if self.limit is None else 1
        under = self.limit is None or max(self.carrier, self.ledger) <= self.limit
        return under and abs(self.carrier - self.ledger) <= slack


def run_demo(settings: Settings, say: Say, *, keep: bool = False) -> int:
    """Returns the exit status: 0 when every call is final and the carrier agrees."""
    home = settings.home / "demo"
    make_home(home)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    environment |= {"TRUNKLINE_HOME": str(home), "TRUNKLINE_RING_TIMEOUT_SECONDS": "8"}
    with only_one(home):  # of an earlier demo nothing is kept; one that runs is left alone
        end_left_over(home, say)
        for left_over in home.iterdir():
            if left_over.is_dir():
                shutil.rmtree(left_over)
            elif left_over.name != "supervisor.pid":
                left_over.unlink()
    with ExitStack() as stack:
        demo = _Demo(home=home, environment=environment, say=say, keep=keep)
        return demo.dial(demo.start_parts(stack))


@dataclass(frozen=True, kw_only=True)
class _Demo:
    home: Path
    environment: dict[str, str]
    say: Say
    keep: bool

    def start_parts(self, stack: ExitStack) -> Carrier:
        tree = provide()
        carrier = Carrier(
            tree=tree.root, directory=self.home / "carrier", username="demo", password=_SECRET, challenge=True
        )
        self.say("starting the carrier (SIPp)")
        stack.enter_context(carrier)
        command = [sys.executable, "-m", "deploy.main", "up"]
        if not self.keep:
            stack.callback(take_down, self.home, hang_up=True, say=self.say)
        detach(self.home, command, self.say, env=self.environment)
        return carrier

    def dial(self, carrier: Carrier) -> int:
        agent_port = free_port(9092)
        agent = Part(
            name="agent",
            argv=[sys.executable, "-m", "deploy.agent", "--port", str(agent_port)],
            env=self.environment,
            log=self.home / "log" / "agent.log",
            cwd=self.home,
            ready=lambda: accepts(agent_port),
        )
        with running(agent):
            self._set_up(carrier, agent_port)
            people = self._write_people()
            self._type(
                "campaign", "upload", people, "--name", "demo", "--agent", "greeter", "--from", FROM_NUMBER, "--start"
            )
            self._type("campaign", "status", "demo", "--watch")
        self.say("")
        self._type("campaign", "rejected", "demo")
        return self._compare(carrier)

    def _set_up(self, carrier: Carrier, agent_port: int) -> None:
        login = ["--auth-type", "userpass", "--username", "demo", "--password", _SECRET]
        limits = ["--max-concurrent-calls", SLOTS, "--max-calls-per-second", CALLS_PER_SECOND]
        self._type("trunk", "create", "demo", "--gateway", carrier.address, *login, *limits)
        self._type("number", "add", FROM_NUMBER, "--trunk", "demo")
        self._type("agent", "create", "greeter", "--connect", f"audiosocket://127.0.0.1:{agent_port}")

    def _write_people(self) -> Path:
        """A few hundred people, and some rows as real lists have them."""
        people = numbers(PEOPLE)
        rows = [(number, _NAMES[at % len(_NAMES)], "Springfield") for at, number in enumerate(people)]
        rows[7:7] = [("+1212", "Too Short", ""), ("call me", "No Number", "")]
        rows[90:90] = [(people[3], "Called Already", "")]
        rows[200:200] = [("+4930123456", "Another Country", "Berlin")]
        path = self.home / "people.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("phone_number", "name", "city"), *rows])
        return path

    def _type(self, *words: object) -> None:
        """Types a command of the user's, and shows it. Raises TrunklineError when it fails."""
        shown = " ".join(f"'{word}'" if " " in str(word) else str(word) for word in words)
        self.say(f"\n$ trunkline {shown}")
        done = subprocess.run(self._command(words), env=self.environment, check=False)
        if done.returncode:
            raise TrunklineError(f"demo: `trunkline {shown}` ended with {done.returncode}")

    def _command(self, words: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "deploy.main", *map(str, words)]

    def _compare(self, carrier: Carrier) -> int:
        words = ("campaign", "status", "demo", "--json")
        said = subprocess.run(self._command(words), env=self.environment, capture_output=True, text=True, check=True)
        row = json.loads(said.stdout)
        config = json.loads(
            subprocess.run(
                self._command(("config", "--json")), env=self.environment, capture_output=True, text=True, check=True
            ).stdout
        )
        figures = self._figures(carrier, config["database_url"])
        screen = Console()
        screen.print(_row_table(row))
        screen.print(_figures_table(figures))
        self.say(f"Flower             {config['flower_url']}")
        self.say(f"Postgres           psql '{config['database_url']}'")
        self.say(f"the carrier's log  {carrier.log}\n")
        if self.keep:
            self.say(f"It stays up until: TRUNKLINE_HOME={self.home} trunkline down")
        else:
            self.say("Stopping it all again; `trunkline demo --keep` leaves it up, to look around in.")
        if row["status"] == "completed" and all(figure.agrees for figure in figures):
            return 0
        self.say("The carrier and the ledger do NOT agree.")
        return 1

    def _figures(self, carrier: Carrier, database_url: str) -> list[Compared]:
        calls = witness.read(carrier.log)
        with psycopg.connect(database_url) as connection:
            times = connection.execute(
                "SELECT extract(epoch FROM channel_at)::float8, extract(epoch FROM ended_at)::float8 FROM attempts"
                " WHERE channel_at IS NOT NULL ORDER BY channel_at"
            ).fetchall()
        ours = [_dialled(at, ended) for at, ended in times]
        return [
            Compared(what="calls received", carrier=len(calls), ledger=len(ours)),
            Compared(what="numbers called twice", carrier=len(witness.duplicates(calls)), ledger=0),
            Compared(
                what="peak at once",
                carrier=witness.peak_at_once(calls),
                ledger=witness.peak_at_once(ours),
                limit=SLOTS,
            ),
            Compared(
                what="peak a second",
                carrier=witness.peak_a_second(calls),
                ledger=witness.peak_a_second(ours),
                limit=CALLS_PER_SECOND + 1,
            ),
        ]


def _dialled(at: float, ended: float | None) -> witness.CarrierCall:
    """An attempt of the ledger in the witness's form, to be counted in the same way."""
    return witness.CarrierCall(
        sip_call_id="",
        number="",
        from_number="",
        asserted_number=None,
        request_uri="",
        codecs=(),
        invited_at=at,
        ended_at=ended,
    )


def _row_table(row: dict[str, object]) -> Table:
    """The row on its side: it is wider than a terminal."""
    table = Table(title="campaign_status", box=box.SIMPLE_HEAD, show_header=False)
    for name, value in row.items():
        table.add_row(name, str(value))
    return table


def _figures_table(figures: Sequence[Compared]) -> Table:
    table = Table(title="the carrier's log beside the ledger", box=box.SIMPLE_HEAD)
    for name in ("", "carrier", "ledger", "limit", ""):
        table.add_column(name, justify="right" if name else "left")
    for figure in figures:
        limit = "" if figure.limit is None else str(figure.limit)
        table.add_row(
            figure.what, str(figure.carrier), str(figure.ledger), limit, "agree" if figure.agrees else "DO NOT AGREE"
        )
    return table
