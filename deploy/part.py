"""One process that trunkline starts itself: what to run, how to know it is up, how to end it.

A `Part` is only a description. `trunkline up` supervises many of them; `running` holds one for the
length of a `with` block, for the tests and the demo.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from models.errors import Unavailable

READY_TIMEOUT = 60.0
READY_POLL = 0.02
LAST_LINES = 15

_UNLESS_ORPHANED = '[ "$PPID" = "$0" ] && exec "$@"'
"""A starter that dies before `setpriv` has asked for the signal sends none."""


def _at_any_time() -> None:
    """A part that needs nothing else to be there first."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process that stays in the foreground until it is told to stop.

    `ready` asks once and never waits longer than a connection on the same machine takes.
    `before_start` raises `Unavailable` as long as the part must not be started, the first time or
    again. Secrets do not belong in `argv`, which every user of the machine can read.
    """

    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path
    ready: Callable[[], bool]
    before_start: Callable[[], None] = _at_any_time
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    stop_again_after: float | None = None  #: seconds, for what may lose its stop signal


def start(part: Part) -> subprocess.Popen[bytes]:
    """Start the part in a process group of its own, output appended to its log.

    Where `setpriv` exists the part gets its stop signal when the thread that started it dies, so
    that a starter killed by `kill -9` leaves nothing behind; call this from a thread that lives on.
    Raises `Unavailable` when it must not be started yet.
    """
    part.before_start()
    words = list(part.argv)
    if shutil.which("setpriv"):
        signal_name = part.stop_signal.name.removeprefix("SIG")
        words = ["setpriv", "--pdeathsig", signal_name, "--", "sh", "-c", _UNLESS_ORPHANED, str(os.getpid()), *words]
    part.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(part.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "ab") as log:
        return subprocess.Popen(
            words,
            cwd=part.cwd,
            env={**os.environ, **part.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            umask=0o077,  # whatever it writes: people's numbers are in Asterisk's and Redis's own files too
        )


def stop(part: Part, process: subprocess.Popen[bytes]) -> None:
    """Ask by the stop signal, then kill the whole group; returns when it is gone. May be called twice."""
    deadline = time.monotonic() + part.stop_timeout
    while process.poll() is None and (left := deadline - time.monotonic()) > 0:
        process.send_signal(part.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(left, part.stop_again_after or left))
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also what it left behind
    process.wait()


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The end of a log, for an error message; empty if there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def wait_ready(part: Part, process: subprocess.Popen[bytes], timeout: float = READY_TIMEOUT) -> None:
    """Raises `Unavailable`, with the log's last lines, when the part dies or is not ready in time."""
    deadline = time.monotonic() + timeout
    while not part.ready():
        status = process.poll()
        if status is not None:
            raise Unavailable(f"{part.name} ended with status {status} before it was ready:\n{last_lines(part.log)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"{part.name} was not ready within {timeout:.0f} s:\n{last_lines(part.log)}")
        time.sleep(READY_POLL)


@contextmanager
def running(part: Part, *, timeout: float = READY_TIMEOUT) -> Iterator[subprocess.Popen[bytes]]:
    """The part, up and ready, until the block ends."""
    process = start(part)
    try:
        wait_ready(part, process, timeout)
        yield process
    finally:
        stop(part, process)


def free_port(preferred: int | None = None, host: str = "127.0.0.1", *, span: int = 1) -> int:
    """A port on which nobody listens, over TCP or UDP; `preferred` if it is one. `span` free ones in a row.

    No other trunkline of this machine is given it as long as this process lives, even before anybody listens there.
    Another program may still take it; whoever starts on it then fails and says so.
    """
    port = preferred or 0
    while not port or taken_port(port, port + span - 1, host) is not None or not _claim(range(port, port + span)):
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
    return port


_claimed: set[int] = set()


def _claim(ports: Iterable[int]) -> bool:
    """Whether they are ours now. A name in the abstract namespace goes with its process, however that ends (unix(7))."""
    for port in ports:
        if port not in _claimed and sys.platform == "linux":
            with socket.socket(socket.AF_UNIX) as claim:
                try:
                    claim.bind(f"\0trunkline-port-{port}")
                except OSError:
                    return False
                claim.detach()  # it stays open, as long as we live
            _claimed.add(port)
    return True


def taken_port(
    first: int,
    last: int,
    host: str,
    kinds: Sequence[socket.SocketKind] = (socket.SOCK_STREAM, socket.SOCK_DGRAM),
) -> int | None:
    """The first port of the range, both ends included, that cannot be bound over one of these kinds; None: all are free."""
    for port, kind in product(range(first, last + 1), kinds):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError):  # taken, or beyond the last port
                return port
    return None


def accepts(port: int, host: str = "127.0.0.1", timeout: float = 0.5) -> bool:
    """Somebody listens on this TCP port now."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False
