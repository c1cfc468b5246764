"""`trunkline up`: starts the parts, starts again what dies, and ends everything in order.

    start in turn ──▶ watch ──Ctrl-C, down──▶ no new calls ──▶ calls that are up end ──▶ stop in turn
                       ▲  │
                       └──┘ a part died: said, and started again with back-off, also while calls end

Stopping asks twice: the first request stops new calls and waits for those that are up, the second
hangs them up. A terminal that is closed asks once. One supervisor a home, by a lock that dies with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

from deploy.left_over import end_left_over, forget, remember
from deploy.part import Part, last_lines, start, stop, wait_ready
from deploy.stack import Stack
from models.errors import Conflict, Invalid, TrunklineError
from models.settings import read_settings
from scheduler.stopping import settle

_WATCH_EVERY = 0.1
_FIRST_BACK_OFF = 0.5
_LONGEST_BACK_OFF = 30.0
_FORGIVEN_AFTER = 30.0  # seconds up, after which a death is the first again
_GRANTING = ("scheduler", "worker")
_SETTLE_AGAIN_FOR = 30.0  # seconds in which the ledger may come back while calls end

Say = Callable[[str], None]


@dataclass(kw_only=True)
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    since: float
    deaths: int = 0
    start_at: float | None = None  #: when it is to be started again


@dataclass(kw_only=True)
class Supervisor:
    """Runs a stack until it is asked to stop. `follow` shows the logs of our own processes."""

    stack: Stack
    say: Say
    follow: Callable[[str, str], None] | None = None
    _running: list[_Running] = field(default_factory=list)
    _asked: int = 0  #: to stop: 1 gently, 2 at once

    def run(self) -> None:
        """Raises TrunklineError when a part does not come up; what was started is stopped again."""
        home = self.stack.home
        make_home(home)
        with only_one(home):
            (home / "runtime.json").unlink(missing_ok=True)
            for number, level in ((signal.SIGINT, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, 2)):
                signal.signal(number, lambda n, _, level=level: self.ask_to_stop(level))  # type: ignore[misc]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
                signal.signal(signal.SIGHUP, lambda *_: self._terminal_closed())
            end_left_over(home, self.say)
            try:
                self._start_all()
                if not self._asked:
                    flower = urlsplit(self.stack.runtime["flower_url"])
                    address = flower._replace(netloc=flower.netloc.rpartition("@")[2]).geturl()
                    self.say(
                        f"trunkline is up. API: {self.stack.runtime['api_url']}/docs (a key: `trunkline key create NAME --scope call`);"
                        f" Flower: {address} (login: `trunkline config`)"
                    )
                    (home / "up").write_text(str(os.getpid()))
                self._watch()
            finally:
                (home / "up").unlink(missing_ok=True)
                self._stop_all()
                (home / "runtime.json").unlink(missing_ok=True)

    def ask_to_stop(self, level: int = 1) -> None:
        self._asked = max(level, min(2, self._asked + 1))

    def _terminal_closed(self) -> None:
        """The kernel says so, and the shell once more: that is one request."""
        if not self._asked:
            self.ask_to_stop()

    def _start_all(self) -> None:
        for part in self.stack.parts():
            if self._asked:
                return
            self.say(f"starting {part.name}")
            process = start(part)
            self._running.append(_Running(part=part, process=process, since=time.monotonic()))
            self._remember()
            wait_ready(part, process)

    def _remember(self) -> None:
        remember(self.stack.home, ((running.part, running.process) for running in self._running))

    def _watch(self) -> None:
        tails = [_Tail(r.part) for r in self._running] if self.follow else []
        while not self._asked:
            for running in self._running:
                self._look_after(running)
            for tail in tails:
                for line in tail.new_lines():
                    assert self.follow is not None
                    self.follow(tail.name, line)
            time.sleep(_WATCH_EVERY)

    def _look_after(self, running: _Running) -> None:
        now = time.monotonic()
        status = running.process.poll()
        if status is None:
            return
        if running.start_at is None:
            self.say(f"{running.part.name} ended ({_how(status)})")
            if status > 0:
                self.say(last_lines(running.part.log, 3))
            self._start_later(running, now)
        elif now >= running.start_at:
            try:
                running.process = start(running.part)
                running.since, running.start_at = now, None
                self._remember()
            except TrunklineError as error:
                self.say(f"{running.part.name}: {error}")
                self._start_later(running, now)

    def _start_later(self, running: _Running, now: float) -> None:
        running.deaths = 1 if now - running.since > _FORGIVEN_AFTER else running.deaths + 1
        pause = min(_LONGEST_BACK_OFF, _FIRST_BACK_OFF * 2 ** (running.deaths - 1))
        running.start_at = now + pause
        self.say(f"starting {running.part.name} again in {pause:.1f} s")

    def _stop_all(self) -> None:
        """New calls first; then, with the listeners still up, the calls; then everything in reverse order."""
        granting = [r for r in self._running if r.part.name.startswith(_GRANTING)]
        if granting:
            self.say("stopping: no new calls")
        for running in granting:
            stop(running.part, running.process)
        self._running = [r for r in self._running if not r.part.name.startswith(_GRANTING)]
        if any(r.part.name.startswith("listener") for r in self._running):
            self._settle()
        for running in reversed(self._running):
            stop(running.part, running.process)
        self._running.clear()
        forget(self.stack.home)
        self.say("trunkline is down")

    def _settle(self) -> None:
        """Until no call is up. What sees the calls end is looked after meanwhile, from this thread, which lives on."""
        with ThreadPoolExecutor(max_workers=1) as executor:
            settling = executor.submit(self._see_calls_end)
            while not settling.done():
                for running in self._running:
                    self._look_after(running)
                time.sleep(_WATCH_EVERY)
        settling.result()

    def _see_calls_end(self) -> None:
        shown = -1
        failing_since: float | None = None

        def progress(up: int) -> None:
            nonlocal shown, failing_since
            failing_since = None
            if up != shown and self._asked < 2:
                self.say(f"waiting for {up} calls to end (Ctrl-C again, or `trunkline down --hang-up`, ends them)")
            shown = up

        while True:
            try:
                settle(read_settings(home=self.stack.home), hang_up=lambda: self._asked >= 2, progress=progress)
                return
            except TrunklineError as error:
                now = time.monotonic()
                failing_since = failing_since or now
                if self._asked >= 2 or now - failing_since > _SETTLE_AGAIN_FOR:
                    self.say(f"not all calls could be seen to their end: {error}")
                    return
            time.sleep(_FIRST_BACK_OFF)


class _Tail:
    """New lines of a log, as they come."""

    def __init__(self, part: Part) -> None:
        self.name = part.name
        self._path = part.log
        self._at = part.log.stat().st_size if part.log.exists() else 0
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as log:
            log.seek(self._at)
            data = log.read(1 << 20)
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")


def make_home(home: Path) -> None:
    """Raises Invalid where nothing can be kept, or anybody may put files of theirs in the place of ours."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if home.stat().st_mode & stat.S_IWOTH:
            raise Invalid("TRUNKLINE_HOME", f"everybody may write to {home}: chmod o-w, or choose another")
        (home / "supervisor.pid").touch()
    except OSError as error:
        raise Invalid("TRUNKLINE_HOME", f"{home} cannot be made or written to: {error.strerror}") from error


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Raises Conflict while another supervisor runs in this home."""
    with (home / "supervisor.pid").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Conflict(f"trunkline is up already in {home} (process {file.read().strip()})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def supervisor_pid(home: Path) -> int | None:
    """The process that runs this home; None if nobody does."""
    try:
        with (home / "supervisor.pid").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except (FileNotFoundError, NotADirectoryError):
        pass
    return None


def take_down(home: Path, *, hang_up: bool, say: Say) -> bool:
    """Asks the supervisor to stop and waits until it has, or ends what one left that was killed; False if nothing runs."""
    pid = supervisor_pid(home)
    if pid is None:
        if not (home / "supervisor.pid").exists():
            return False
        with only_one(home):
            return end_left_over(home, say)
    os.kill(pid, signal.SIGTERM if hang_up else signal.SIGUSR1)
    while supervisor_pid(home) == pid:
        time.sleep(_WATCH_EVERY)
    return True


def detach(home: Path, words: list[str], say: Say, *, env: Mapping[str, str] | None = None) -> None:
    """Starts a supervisor in a session of its own and returns when everything is up.

    Raises TrunklineError with its last words when it does not come up. Ctrl-C reaches the supervisor as well:
    it takes down again what it has started, then KeyboardInterrupt is raised.
    """
    make_home(home)
    log = home / "log" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    log.touch(mode=0o600)
    at = log.stat().st_size
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    interrupts: SimpleQueue[int] = SimpleQueue()
    interrupted = False
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.put(number))
    try:
        while True:
            ended = process.poll() is not None  # before its last words are read
            with log.open("rb") as said:
                said.seek(at)
                text = said.read()
            *lines, _ = text.split(b"\n")
            for line in lines:
                say(line.decode(errors="replace"))
            at += sum(len(line) + 1 for line in lines)
            ready = home / "up"
            while not interrupts.empty():
                process.send_signal(interrupts.get())
                say("interrupted: what has been started is taken down again")
                interrupted = True
            if not interrupted and ready.exists() and ready.read_text() == str(process.pid):
                return
            if ended:
                if interrupted:
                    raise KeyboardInterrupt
                raise TrunklineError("trunkline did not come up; see above")
            time.sleep(_WATCH_EVERY)
    finally:
        signal.signal(signal.SIGINT, before)


def _how(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
