"""One SIPp process that plays the carrier, over UDP, TCP or TLS: started, pinged until it answers, stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.carrier.scenario import render
from deploy.carrier.witness import Transport

_READY_SECONDS = 15.0
_PING_SECONDS = 0.1
_STOP_SECONDS = 2.0
_PORT_TRIES = 5

# SIPp's words for one socket a connection.
_MODES: dict[Transport, str] = {"UDP": "u1", "TCP": "t1", "TLS": "l1"}

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


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a carrier on TLS shows: its certificate, followed by those between it and the authority, and its key."""

    chain: Path
    key: Path


class Carrier:
    """A SIP carrier whose dialled numbers decide what happens (`deploy.carrier.numbers`).

    With `challenge` every number but the silent one asks for `username` and `password` first; without it only the one
    that always does; with `always`, two digits, every number behaves like those. With `plus` a number exists only if it
    is written with its plus (True) or without (False). With `certificate` it is on TLS
    whatever `transport` says. `port` 0 finds a free one, which the carrier keeps when it is started again. `log` is
    appended to, one flushed line an event, and is whole at any moment; `deploy.carrier.witness` reads it. Audio is
    echoed, encrypted (SDES) where the caller offers that. Not thread-safe: one owner starts and stops it.
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
        plus: bool | None = None,
        transport: Transport = "UDP",
        certificate: Certificate | None = None,
    ) -> None:
        self._tree = tree
        self._directory = directory.resolve()
        self._host = host
        self._transport: Transport = "TLS" if certificate else transport
        self._certificate = certificate
        self._fixed_port = port != 0
        self._port = port or self._free_port()
        self._rtp_port = _free_ports(host, 3)
        self._server = f"carrier-{secrets.token_hex(8)}"
        self._scenario = render(
            username=username, password=password, challenge=challenge, server=self._server, always=always, plus=plus
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

    @property
    def pid(self) -> int:
        """Of SIPp itself. Raises CarrierNotStarted."""
        if self._process is None:
            raise CarrierNotStarted(f"SIPp at {self.address} does not run")
        return self._process.pid

    def command(self) -> list[str]:
        """The whole command line; it runs in the carrier's directory, where `start` writes the scenario."""
        return [
            *_unprivileged(),
            *self._sipp(),
            *("-sf", str(self._directory / "scenario.xml")),
            *("-t", _MODES[self._transport], *self._shown()),
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
                self._port = self._free_port()
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

    def _shown(self) -> tuple[str, ...]:
        if self._certificate is None:
            return ()
        return ("-tls_cert", str(self._certificate.chain), "-tls_key", str(self._certificate.key))

    def _free_port(self) -> int:
        kind = socket.SOCK_DGRAM if self._transport == "UDP" else socket.SOCK_STREAM
        return _free_ports(self._host, 1, kind=kind)

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
        while True:
            asked = time.monotonic()
            if self._answers():
                return
            status = process.poll()
            if status is not None or asked > deadline:
                self.stop()
                why = f"ended with {status}" if status is not None else f"was silent for {_READY_SECONDS:.0f} s"
                said = last_words.read_text(errors="replace").strip()[-1000:]
                raise CarrierNotStarted(f"SIPp at {self.address} {why}: {said or 'it said nothing'}")
            # Nobody has the port yet: an error comes at once, so the rest of the turn is waited out.
            time.sleep(max(0.0, asked + _PING_SECONDS / 4 - time.monotonic()))

    def _answers(self) -> bool:
        """It is this very process that answers a ping, within a moment."""
        with contextlib.suppress(OSError), self._connect() as pinger:
            pinger.sendall(self._ping(pinger.getsockname()))
            deadline = time.monotonic() + _PING_SECONDS
            while time.monotonic() < deadline:
                heard = pinger.recv(4096)
                if not heard or self._server.encode() in heard:
                    return bool(heard)
        return False

    def _connect(self) -> socket.socket:
        with contextlib.ExitStack() as undo:
            kind = socket.SOCK_DGRAM if self._transport == "UDP" else socket.SOCK_STREAM
            pinger = undo.enter_context(socket.socket(socket.AF_INET, kind))
            pinger.settimeout(_PING_SECONDS)
            pinger.connect((self._host, self._port))
            if self._transport == "TLS":
                pinger = undo.enter_context(_UNVERIFIED.wrap_socket(pinger))
            undo.pop_all()
            return pinger

    def _ping(self, here: tuple[str, int]) -> bytes:
        token = secrets.token_hex(8)
        return (
            f"OPTIONS sip:{self.address} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self._transport} {here[0]}:{here[1]};branch=z9hG4bK{token}\r\n"
            f"From: <sip:ping@{here[0]}>;tag={token}\r\n"
            f"To: <sip:{self.address}>\r\n"
            f"Call-ID: {token}\r\n"
            "CSeq: 1 OPTIONS\r\n"
            "Max-Forwards: 70\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()


# A ping asks whether this process is up, and the name in its answer says so; whom its certificate is for is its callers'
# business.
_UNVERIFIED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE


def _unprivileged() -> tuple[str, ...]:
    """As root: the command that runs the rest as nobody, over files that root owns. Else nothing."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return ()
    return ("unshare", "-U", "--map-user=65534", "--map-group=65534", "--")


def _free_ports(host: str, count: int, *, kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """The first of `count` consecutive free ports, even for more than one (SIPp echoes on the third as well)."""
    for _ in range(1000):
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket(socket.AF_INET, kind))
            first.bind((host, 0))
            port = int(first.getsockname()[1])
            if count == 1:
                return port
            if port % 2 or port + count > 65535:
                continue
            try:
                for offset in range(1, count):
                    held.enter_context(socket.socket(socket.AF_INET, kind)).bind((host, port + offset))
            except OSError:
                continue
            return port
    raise CarrierNotStarted(f"found no {count} free ports in a row on {host}")
