"""trunkline on the machine inside, a carrier on the one outside, and calls between them.

`Site.up` is `trunkline up` with an environment, the same home every time; `Site.call` is one call and what all sides know
of it. An agent on the machine inside counts what it hears.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from psycopg.rows import dict_row

from deploy.carrier.witness import CarrierCall, read
from models.settings import Settings
from tests.integration.namespaces import CARRIER, INSIDE, OUTSIDE, Network
from tests.integration.sip_messages import Invite, invites
from tests.integration.system import until

FROM_NUMBER, CARRIER_PORT = "+12025550100", 5060
_PYTHON = Path(sys.executable)
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Packet:
    """One of ours that the carrier heard, and where it was told to send audio."""

    source: tuple[str, int]
    sent_back_to: tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class CarrierSide:
    """What a carrier has written down so far."""

    directory: Path

    @property
    def invites(self) -> list[Invite]:
        return invites(self.directory / "messages.log")

    @property
    def calls(self) -> list[CarrierCall]:
        return read(self.directory / "carrier.log")

    @property
    def packets(self) -> list[Packet]:
        lines = [line.split() for line in (self.directory / "audio.log").read_text().splitlines()]
        return [Packet(source=(a, int(b)), sent_back_to=(c, int(d))) for a, b, c, d in lines]


@dataclass(frozen=True, kw_only=True)
class NatCall:
    """One call that is over: its row of `attempts`, and what the carrier, the agent and the router saw of it."""

    attempt: dict[str, Any]
    invites: list[Invite]
    carried: list[CarrierCall]
    packets: list[Packet]
    heard_seconds: float | None  #: of the far side, by the agent; None: it was not answered
    refused: int  #: packets that the router did not let in


class Site:
    """Both machines. Use as a context manager, in the `with` block of their network."""

    def __init__(self, network: Network, directory: Path) -> None:
        self._network = network
        self._directory = directory
        self.home = directory / "home"
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._outside = self._undo.enter_context(self.carrier(OUTSIDE, CARRIER, CARRIER_PORT))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @contextmanager
    def carrier(self, where: str, host: str, port: int) -> Iterator[CarrierSide]:
        """One more carrier, on either machine."""
        side = CarrierSide(directory=self._directory / f"carrier-{where}")
        side.directory.mkdir()
        words = ("-m", "tests.integration.outside_carrier", str(side.directory), host, str(port))
        with self._process(where, *words) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield side
            process.communicate(timeout=20)  # the end of its input is its end

    @contextmanager
    def up(self, **environment: str) -> Iterator[None]:
        """`trunkline up` with these variables, until the block ends. A trunk to the carrier and the agent are there."""
        is_new = not self.home.exists()
        self.trunkline("up", "--detach", environment=environment)
        try:
            if is_new:
                self.add_trunk("outside", f"{CARRIER}:{CARRIER_PORT}", FROM_NUMBER)
                self._start_agent()
            until(lambda: self._row("SELECT FROM nodes WHERE heard_at IS NOT NULL") is not None, what="a node is heard")
            yield
        finally:
            self.trunkline("down", "--hang-up")

    def add_trunk(self, name: str, gateway: str, from_number: str) -> None:
        self.trunkline("trunk", "create", name, "--gateway", gateway, "--auth-type", "ip-based")
        self.trunkline("number", "add", from_number, "--trunk", name)

    def call(self, to: str, *, from_number: str = FROM_NUMBER, carrier: CarrierSide | None = None) -> NatCall:
        """Calls, and returns when it is over. `carrier` is where it goes; the one outside when None."""
        side = carrier or self._outside
        invited, carried, heard = len(side.invites), len(side.calls), len(side.packets)
        refused = self._network.refused()
        done = self._run("call", to, "--agent", "bot", "--from", from_number, "--wait")
        assert done.stdout, done.stderr
        attempt = self._attempt_of(done.stdout.split("\n")[0])
        return NatCall(
            attempt=attempt,
            invites=side.invites[invited:],
            carried=side.calls[carried:],
            packets=side.packets[heard:],
            heard_seconds=self._heard_by_agent(attempt["id"]) if attempt["answered_at"] else None,
            refused=self._network.refused() - refused,
        )

    def trunkline(self, *words: str, status: int = 0, environment: Mapping[str, str] | None = None) -> str:
        """Runs the command on the machine inside; returns what it said. Fails the test on another exit status."""
        done = self._run(*words, environment=environment)
        assert done.returncode == status, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @property
    def database_url(self) -> str:
        """By the socket in the home, since its network is not ours."""
        url = Settings(home=self.home).database_url
        assert url
        by_socket = rf"@/\2?host={self.home / 'postgres'}&port=\1"
        return re.sub(r"@127\.0\.0\.1:(\d+)/(.*)", by_socket, url.get_secret_value())

    def _start_agent(self) -> None:
        """It stays until the site is left: what it needs of a home that is up is where it was before."""
        host, port = "127.0.0.1", 9092
        self.trunkline("agent", "create", "bot", "--connect", f"audiosocket://{host}:{port}")
        log = self._undo.enter_context(self._agent_log.open("w"))
        words = ("-m", "deploy.agent", "--host", host, "--port", str(port), "--listen-seconds", "30")
        agent = self._undo.enter_context(self._process(INSIDE, *words, stderr=log))
        assert agent.stdout is not None
        assert agent.stdout.readline()

    @property
    def _agent_log(self) -> Path:
        return self._directory / "agent.log"

    def _attempt_of(self, call_id: str) -> dict[str, Any]:
        """The last one: an earlier one may have been withdrawn."""
        row = self._row("SELECT * FROM attempts WHERE call_id = %s ORDER BY id DESC LIMIT 1", call_id)
        assert row is not None
        return row

    def _row(self, query: LiteralString, *parameters: str) -> dict[str, Any] | None:
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query, parameters).fetchone()

    def _heard_by_agent(self, attempt_id: object) -> float:
        line = re.compile(rf"attempt={attempt_id} .*heard_seconds=([\d.]+)\n")
        found = until(lambda: line.search(self._agent_log.read_text()), what="the agent's word")
        assert found
        return float(found[1])

    def _run(self, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._network.words(INSIDE), str(_PYTHON.parent / "trunkline"), *words],
            env={**self._environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def _process(self, where: str, *words: str, stderr: Any = None) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [*self._network.words(where), str(_PYTHON), *words],
            cwd=_ROOT,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        return ours | {"TRUNKLINE_HOME": str(self.home)}
