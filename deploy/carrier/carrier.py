"""One SIPp process that plays the carrier: started, pinged until it answers, stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.carrier.scenario import render

_READY_SECONDS = 15.0
_PING_SECONDS = 0.1
_STOP_SECONDS = 2.0
_PORT_TRIES = 5

# SIPp's default of 64 kB holds some fifty INVITEs while it waits for its core; the kernel cuts this to its own limit.
_SOCKET_BUFFER = 1_000_000


class CarrierError(Exception):
    """Base of what goes wrong with the carrier.

    CarrierError
    ├── CarrierNotFound
    └── CarrierNotStarted
    """


class CarrierNotFound(CarrierError):
    """There is no SIPp in the tree, or none on PATH."""


class CarrierNotStarted(CarrierError):
    """SIPp ended, or did not answer in time."""


class Carrier:
    """A SIP carrier on UDP whose dialled numbers decide what happens (`deploy.carrier.numbers`).

    With `challenge` every number but the silent one asks for `username` and `password` first; without it only the one
    that always does; with `always`, two digits, every number behaves like those. `port` 0 finds a free one, which the
    carrier keeps when it is started again. `log` is appended to, one flushed line an event, and is whole at any moment;
    `deploy.carrier.witness` reads it. Audio is echoed. Not thread-safe: one owner starts and stops it.
    """

    def __init__(
        self,
        *,
        tree: Path | None,
        directory: Path,
        username: str,
        password: str,
        host: str = "127.0.0.1",
        port: int = 0,
        challenge: bool = False,
        always: str = "",
    ) -> None:
        self._tree = tree
        self._directory = directory.resolve()
        self._host = host
        self._fixed_port = port != 0
        self._port = port or _free_ports(host, 1)
        self._rtp_port = _free_ports(host, 3)
        self._server = f"carrier-{secrets.token_hex(8)}"
        self._scenario = render(
            username=username, password=password, challenge=challenge, server=self._server, always=always
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def log(self) -> Path:
        return self._directory / "carrier.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """The whole command line; it runs in the carrier's directory, where `start` writes the scenario."""
        return [
            *_unprivileged(),
            *self._sipp(),
            *("-sf", str(self._directory / "scenario.xml")),
            *("-i", self._host, "-p", str(self._port), "-bind_local", "-ci", self._host),
            *("-mi", self._host, "-min_rtp_port", str(self._rtp_port), "-max_rtp_port", str(self._rtp_port + 2)),
            "-rtp_echo",
            *("-buff_size", str(_SOCKET_BUFFER)),
            *("-default_behaviors", "none", "-deadcall_wait", "32000"),
            # The watchdog ends SIPp after some stalls, which a busy machine or a frozen process has.
            *("-watchdog_interval", "0"),
            *("-trace_logs", "-log_file", str(self.log), "-log_overwrite", "false"),
            *("-nostdin", "-skip_rlimit", "-f", "3600"),
        ]

    def start(self) -> None:
        """Returns when this very process has answered a ping on its port.

        Raises CarrierNotFound, or CarrierNotStarted with SIPp's last words.
        """
        if self.running:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        scenario = self._directory / "scenario.xml"
        scenario.touch(mode=0o600)  # it holds the password
        scenario.write_text(self._scenario, encoding="utf-8")
        self.log.touch()
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._start_once()
            except CarrierNotStarted:
                # Whoever took a port between our look and SIPp's bind.
                if self._fixed_port or not tries_left:
                    raise
                self._port = _free_ports(self._host, 1)
                self._rtp_port = _free_ports(self._host, 3)
            else:
                self._fixed_port = True
                return

    def stop(self) -> None:
        """Ends SIPp within seconds, with no farewell to the calls that are up. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=_STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _sipp(self) -> list[str]:
        if self._tree is None:
            sipp = shutil.which("sipp")
            if sipp is None:
                raise CarrierNotFound("there is no sipp on PATH; Debian's package is sip-tester")
            return [sipp]
        root = self._tree.resolve() / "usr"
        program = root / "bin/sipp"
        if not program.exists():
            raise CarrierNotFound(f"there is no sipp in {self._tree}; Debian's package is sip-tester")
        return [
            str(root / "lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            str(root / "lib/x86_64-linux-gnu"),
            str(program),
        ]

    def _start_once(self) -> None:
        last_words = self._directory / "carrier.err"
        with last_words.open("wb") as err:
            self._process = process = subprocess.Popen(
                self.command(), cwd=self._directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err
            )
        deadline = time.monotonic() + _READY_SECONDS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pinger:
            pinger.connect((self._host, self._port))
            pinger.settimeout(_PING_SECONDS)
            for ping in _pings(pinger.getsockname(), self._host, self._port):
                status = process.poll()
                if status is not None or time.monotonic() > deadline:
                    self.stop()
                    why = f"ended with {status}" if status is not None else f"was silent for {_READY_SECONDS:.0f} s"
                    said = last_words.read_text(errors="replace").strip()[-1000:]
                    raise CarrierNotStarted(f"SIPp at {self.address} {why}: {said or 'it said nothing'}")
                if self._answers(pinger, ping):
                    return

    def _answers(self, pinger: socket.socket, ping: bytes) -> bool:
        asked = time.monotonic()
        try:
            pinger.send(ping)
            while time.monotonic() < asked + _PING_SECONDS:
                if self._server.encode() in pinger.recv(4096):
                    return True
        except ConnectionRefusedError:
            # Nobody has the port yet. An ICMP error comes at once, so the rest of the turn is waited out.
            time.sleep(_PING_SECONDS / 4)
        except TimeoutError:
            pass
        return False


def _pings(here: tuple[str, int], host: str, port: int) -> Iterator[bytes]:
    while True:
        token = secrets.token_hex(8)
        yield (
            f"OPTIONS sip:{host}:{port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here[0]}:{here[1]};branch=z9hG4bK{token}\r\n"
            f"From: <sip:ping@{here[0]}>;tag={token}\r\n"
            f"To: <sip:{host}:{port}>\r\n"
            f"Call-ID: {token}\r\n"
            "CSeq: 1 OPTIONS\r\n"
            "Max-Forwards: 70\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()


def _unprivileged() -> tuple[str, ...]:
    """As root: the command that runs the rest as nobody, over files that root owns. Else nothing."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return ()
    return ("unshare", "-U", "--map-user=65534", "--map-group=65534", "--")


def _free_ports(host: str, count: int) -> int:
    """The first of `count` consecutive free UDP ports, even for more than one (SIPp echoes on the third as well)."""
    for _ in range(1000):
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind((host, 0))
            port = int(first.getsockname()[1])
            if count == 1:
                return port
            if port % 2 or port + count > 65535:
                continue
            try:
                for offset in range(1, count):
                    held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((host, port + offset))
            except OSError:
                continue
            return port
    raise CarrierNotStarted(f"found no {count} free UDP ports in a row on {host}")
