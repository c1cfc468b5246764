"""The supervisor on parts of straw: what it looks after, and what it survives."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy import supervisor as supervising
from deploy.main import _say
from deploy.part import Part
from deploy.supervisor import Supervisor, take_down
from models.errors import Invalid, Unavailable
from tests.integration.system import until


@dataclass(kw_only=True)
class Straw:
    """As much of a stack as the supervisor sees; each part notes its process in a file."""

    home: Path
    names: tuple[str, ...] = ("scheduler", "listener-n1")
    runtime: dict[str, Any] = field(
        default_factory=lambda: {"flower_url": "http://127.0.0.1/", "api_url": "http://127.0.0.1"}
    )

    def parts(self) -> Iterator[Part]:
        for name in self.names:
            yield Part(
                name=name,
                argv=["sh", "-c", f"echo $$ >> {name}; exec sleep 600"],
                log=self.home / "log",
                cwd=self.home,
                ready=lambda name=name: bool(self.pids(name)),  # type: ignore[misc]
            )

    def pids(self, name: str) -> list[int]:
        file = self.home / name
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def handlers() -> Iterator[None]:
    """The test's own handlers are back when the supervisor is done."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_what_dies_while_calls_end_is_started_again_and_the_ledger_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Straw(home=tmp_path)
    waits: list[str] = []

    def settle(_: object, *, hang_up: Callable[[], bool], progress: Callable[[int], None]) -> None:
        waits.append("asked")
        if len(waits) == 1:
            os.kill(stack.pids("listener-n1")[0], signal.SIGKILL)
            raise Unavailable("Postgres does not answer")
        progress(1)
        until(lambda: len(stack.pids("listener-n1")) == 2, within=10, what="somebody listens for the end of the call")

    monkeypatch.setattr(supervising, "settle", settle)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "is up" in line:
            supervisor.ask_to_stop()

    supervisor = Supervisor(stack=stack, say=say)  # type: ignore[arg-type]
    supervisor.run()
    assert len(waits) == 2
    assert len(stack.pids("scheduler")) == 1, "nobody grants any more"
    assert said[-1] == "trunkline is down"
    assert not [line for line in said if "could be seen" in line]


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    os.close(ours)
    terminal = os.fdopen(theirs, "w")
    monkeypatch.setattr(sys, "stdout", terminal)
    _say("nobody reads this")
    with pytest.raises(OSError, match="Input/output"):
        terminal.close()


def test_a_home_that_cannot_be_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file" / "home", Path("/proc/trunkline")):
        with pytest.raises(Invalid, match=f"TRUNKLINE_HOME: {home} cannot be made"):
            Supervisor(stack=Straw(home=home), say=lambda _: None).run()  # type: ignore[arg-type]
        assert not take_down(home, hang_up=True, say=lambda _: None)


def test_a_home_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Invalid, match="everybody may write to"):
        Supervisor(stack=Straw(home=tmp_path / "open"), say=lambda _: None).run()  # type: ignore[arg-type]
