"""What a supervisor that was killed leaves behind, found and ended by the next one in the same home.

`setpriv` sees to it that parts get their stop signal then (`deploy.part`). That is not enough where it is missing,
and Asterisk loses a signal that comes while it boots: it would take calls, and its ports, for ever.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.embedded.passwords import write_private
from deploy.part import Part
from models.errors import Unavailable

_FILE = "parts.json"
_ENDS_WITHIN = 15.0
_ASK_EVERY = 1.0
_LOOK_EVERY = 0.05


@dataclass(frozen=True, kw_only=True)
class _Process:
    name: str
    pid: int
    began: str  #: in the kernel's ticks: with its number it is this process and no other
    stop_signal: int

    @property
    def lives(self) -> bool:
        return _began(self.pid) == self.began


def remember(home: Path, running: Iterable[tuple[Part, subprocess.Popen[bytes]]]) -> None:
    """Writes down what runs now, for `end_left_over`."""
    known = [
        _Process(name=part.name, pid=process.pid, began=began, stop_signal=part.stop_signal)
        for part, process in running
        if (began := _began(process.pid))
    ]
    write_private(home / _FILE, json.dumps([asdict(process) for process in known], indent=1) + "\n")


def forget(home: Path) -> None:
    (home / _FILE).unlink(missing_ok=True)


def end_left_over(home: Path, say: Callable[[str], None]) -> bool:
    """Ends what an earlier run in this home has left running; whether there was anything. For whoever holds the home.

    Raises `Unavailable` for a process that does not even end when it is killed.
    """
    alive = [process for process in _known(home) if process.lives]
    if not alive:
        return False
    say(f"ending what an earlier run has left: {', '.join(process.name for process in alive)}")
    deadline = time.monotonic() + _ENDS_WITHIN
    while alive and time.monotonic() < deadline:
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, process.stop_signal)
        alive = _still_alive(alive)
    for process in alive:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if alive and (alive := _still_alive(alive)):
        raise Unavailable(f"{alive[0].name} of an earlier run does not end (process {alive[0].pid})")
    forget(home)
    return True


def _still_alive(processes: Sequence[_Process]) -> list[_Process]:
    """After a second, or as soon as there is none any more."""
    until = time.monotonic() + _ASK_EVERY
    while (alive := [process for process in processes if process.lives]) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
    return alive


def _known(home: Path) -> list[_Process]:
    try:
        return [_Process(**fields) for fields in json.loads((home / _FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _began(pid: int) -> str | None:
    """None for a process that is gone or only waits to be reaped."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]
