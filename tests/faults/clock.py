"""A wrong clock for one process, by libfaketime: off from its start, or set while it runs.

    clock = Clock.open(directory)
    world.parts["worker-1"] = clock.given_to(world.parts["worker-1"])   # and start it again
    clock.off_by(timedelta(minutes=10))                                 # and back: clock.off_by(timedelta(0))

Only the time of day is wrong. What measures a duration by the monotonic clock is not deceived, as on a machine whose clock
somebody sets.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from deploy.debian import LIBRARIES, cache_directory, fetch_package
from deploy.part import Part

_LIBRARY = f"{LIBRARIES}/faketime/libfaketimeMT.so.1"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Right until it is set."""

    file: Path
    library: Path

    @classmethod
    def open(cls, directory: Path) -> Clock:
        """Raises `Unavailable` where there is no libfaketime and none can be had."""
        directory.mkdir(parents=True, exist_ok=True)
        clock = cls(file=directory / "clock", library=_library())
        clock.off_by(timedelta(0))
        return clock

    def given_to(self, part: Part) -> Part:
        """The part, going by this clock. The library is the machine's own, and so has the part's program to be."""
        environment = {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": self.file,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        # by `env` and not by the part's environment: what goes before the program has a right clock, and needs none
        words = ["env", *(f"{name}={value}" for name, value in environment.items())]
        return replace(part, argv=[*words, *part.argv])

    def off_by(self, offset: timedelta) -> None:
        """How far from the right time it is, fast or (negative) slow. In force when this returns; a Valkey looks at its clock ten times a second."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(f"{offset.total_seconds():+f}\n")
        draft.rename(self.file)


def sleep_all_the_same() -> None:
    """To be called first by a Python that goes by such a clock: libfaketime 0.9.10 refuses the way in which it sleeps."""
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        time.sleep = _sleep  # type: ignore[assignment]  # a float is what everybody gives


def _sleep(seconds: float, /) -> None:
    threading.Event().wait(seconds)


def _library() -> Path:
    """The machine's own, else that of its Debian, fetched once."""
    for root in (Path("/"), kept := cache_directory() / "libfaketime"):
        if (root / _LIBRARY).exists():
            return root / _LIBRARY
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="libfaketime-", dir=kept.parent) as room:
        fetch_package("libfaketime", Path(room) / "package")
        with suppress(OSError):  # somebody else was faster
            (Path(room) / "package").rename(kept)
    return kept / _LIBRARY
