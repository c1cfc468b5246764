"""This machine: the home, its disk, how many files may be open."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

from deploy.supervisor import supervisor_pid
from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Settings

_LITTLE, _TOO_LITTLE = 2 << 30, 200 << 20  # bytes
_FEW_FILES = 4096


def examine_machine(settings: Settings) -> list[Finding]:
    return [_home(settings), _disk(settings.home), _files()]


def runs_here(settings: Settings) -> bool:
    try:
        return supervisor_pid(settings.home) is not None
    except OSError:
        return False


def _home(settings: Settings) -> Finding:
    if runs_here(settings):
        return ok("home", f"trunkline is up in {settings.home}")
    return unknown(
        "home", f"`trunkline up` does not run in {settings.home}", "start it, unless a service manager of yours does"
    )


def _disk(home: Path) -> Finding:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return unknown("disk", f"{there} cannot be looked at: {error.strerror}")
    sentence = f"{free / (1 << 30):.1f} GB free for {home}"
    if free < _TOO_LITTLE:
        return wrong("disk", sentence, "make room: a full disk stops Postgres and Valkey")
    if free < _LITTLE:
        return warning("disk", sentence, "make room: ledger and logs grow")
    return ok("disk", sentence)


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "any number of" if hard == resource.RLIM_INFINITY else f"{hard}"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        return warning(
            "open files", f"only {most} may be open at once", "raise the hard limit (ulimit -Hn, LimitNOFILE=) to 65536"
        )
    return ok("open files", f"{most} may be open at once")
