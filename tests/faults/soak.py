"""Ten minutes of faults at random, under load: `python -m tests.faults.soak [--seed N] [--minutes M]` (`make soak`).

The seed is printed, and the same seed makes the same plan: which fault, of whom, when, for how long. Two schedulers, two
listeners and two workers run; whatever dies is started again, as a service manager would. At the end everything is healed,
and every campaign is judged by the carrier's log and by SQL like any other case.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from sqlalchemy.exc import SQLAlchemyError

from models.errors import Unavailable
from models.points import Point
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import SERVICES, Campaign, Order, World
from tests.integration.system import until

PEOPLE = {"01": 40, "00": 60, "86": 30, "80": 20, "04": 10, "05": 10, "90": 4}
SLOTS, CALLS_PER_SECOND = 12, 30.0
LONGEST_FAULT = 12.0  # seconds: twice as long as a role is kept for a holder that says nothing
PAUSE = (1.0, 6.0)  # seconds between the beginnings of two faults
_TURN = 0.1


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One line of the plan."""

    at: float  #: seconds since the beginning
    kind: str
    of: str
    seconds: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        length = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:7.1f} s  {self.kind:<8} {self.of} {self.detail}{length}"


def plan(seed: int, seconds: float, processes: Sequence[str], *, asterisk: bool) -> list[Fault]:
    """The same for the same seed."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    at = 5.0
    while at < seconds:
        faults.append(_fault(rng, at, processes, asterisk=asterisk))
        at += rng.uniform(*PAUSE)
    return faults


def _fault(rng: random.Random, at: float, processes: Sequence[str], *, asterisk: bool) -> Fault:
    kinds = {"kill": 6, "freeze": 4, "point": 6, "cut": 4, "stall": 3, "refuse": 2, "delay": 2, "term": 3, "flush": 2}
    kinds |= {"valkey": 1, "postgres": 1, "asterisk": 1 if asterisk else 0}
    (kind,) = rng.choices(list(kinds), list(kinds.values()))
    of = rng.choice(list(processes))
    length = rng.uniform(0.5, LONGEST_FAULT)
    match kind:
        case "kill" | "term":
            return Fault(at=at, kind=kind, of=of)
        case "freeze":
            return Fault(at=at, kind=kind, of=of, seconds=length)
        case "point":
            points = [point for point in Point if of.startswith(_role(point))]
            do = rng.choice(["kill", "freeze", "hold"])
            detail = f"{rng.choice(points)} {do} {rng.randrange(20)}"
            return Fault(at=at, kind=kind, of=of, seconds=length, detail=detail)
        case "cut" | "stall" | "refuse" | "delay":
            return Fault(
                at=at,
                kind=kind,
                of=of,
                seconds=length,
                detail=rng.choice(SERVICES[:2] if of.startswith("scheduler") else SERVICES),
            )
    return Fault(at=at, kind=kind, of="")


def _role(point: Point) -> str:
    role = point.partition("-")[0]
    return "scheduler" if role == "leader" else role


class Soak:
    """Carries out a plan on a world. Each fault that lasts is ended by a thread of its own."""

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self._world = world
        self._say = say
        self._ending: list[threading.Thread] = []
        self._stop = threading.Event()
        self.campaigns: list[Campaign] = []
        self.asterisk_died = False

    def run(self, faults: Sequence[Fault], seconds: float) -> None:
        began = time.monotonic()
        to_come = list(faults)
        try:
            while (now := time.monotonic() - began) < seconds:
                while to_come and to_come[0].at <= now:
                    fault = to_come.pop(0)
                    self._say(str(fault))
                    self._do(fault)
                self._supervise()
                self._load()
                time.sleep(_TURN)
        finally:
            self._stop.set()
            for thread in self._ending:
                thread.join(120)

    def _load(self) -> None:
        """One campaign after another: the next begins when four fifths of the last one are over."""
        with suppress(SQLAlchemyError):  # Postgres may be away: a moment later, then
            if not self.campaigns or self._world.over(self.campaigns[-1]) > 0.8 * len(self.campaigns[-1].people):
                self.campaigns.append(self._world.campaign_of(PEOPLE, slots=SLOTS, calls_per_second=CALLS_PER_SECOND))

    def _supervise(self) -> None:
        """Starts again what has died, from this thread: what a thread has started ends with it."""
        for name, process in list(self._world.processes.items()):
            if process.poll() is not None:
                with suppress(Unavailable):  # what it needs may be away
                    self._world.start(name)

    def _do(self, fault: Fault) -> None:
        world = self._world
        match fault.kind:
            case "kill":
                world.processes[fault.of].send_signal(signal.SIGKILL)
            case "term":
                world.processes[fault.of].send_signal(signal.SIGTERM)
            case "freeze":
                world.freeze(fault.of)
                self._later(fault.seconds, lambda: world.thaw(fault.of))
            case "point":
                point, do, after = fault.detail.split()
                order = world.order(fault.of, Point(point), do, after=int(after))  # type: ignore[arg-type]
                self._later(fault.seconds, lambda: self._end_order(order, fault.of))
            case "cut":
                world.proxy(fault.of, fault.detail).cut()
            case "stall" | "refuse":
                proxy = world.proxy(fault.of, fault.detail)
                getattr(proxy, fault.kind)()
                self._later(fault.seconds, proxy.restore)
            case "delay":
                proxy = world.proxy(fault.of, fault.detail)
                proxy.delay(min(3.0, fault.seconds))
                self._later(fault.seconds, proxy.restore)
            case "flush":
                with suppress(redis.RedisError), redis.Redis.from_url(world.stack.runtime["redis_url"]) as client:
                    client.flushall()
            case "valkey" | "postgres" | "asterisk":
                self.asterisk_died = self.asterisk_died or fault.kind == "asterisk"
                world.processes[fault.kind].send_signal(signal.SIGKILL)

    def _end_order(self, order: Order, of: str) -> None:
        order.take_back()
        order.go_on()
        self._world.thaw(of)

    def _later(self, seconds: float, end: Callable[[], object]) -> None:
        def wait_and_end() -> None:
            self._stop.wait(seconds)
            end()

        thread = threading.Thread(target=wait_and_end)
        thread.start()
        self._ending.append(thread)


@contextmanager
def soaked_world(home: Path) -> Iterator[tuple[World, Sequence[str]]]:
    with World(home) as world:
        own = [name for name in world.processes if name.startswith(("scheduler", "listener", "worker"))]
        yield world, [*own, *(world.add(name) for name in own)]


def judge(world: World, soak: Soak, say: Callable[[str], None]) -> None:
    """Raises AssertionError at the first campaign of which something is not as it must be."""
    stay = list(world.extra)
    world.extra.clear()  # the second ones are ended at the very end
    world.heal()
    world.extra.extend(stay)
    for campaign in soak.campaigns:
        until(lambda campaign=campaign: world.over(campaign) == len(campaign.people), within=300, what="all are over")  # type: ignore[misc]
    for campaign in soak.campaigns:
        check(world, campaign, unknown=True, asterisk_died=soak.asterisk_died)
        row: Mapping[str, object] = world.campaign(campaign.name)
        calls = len(calls_at_the_carrier(world, campaign))
        say(f"{campaign.name}: {row['total']} people, {calls} INVITEs, {row['unknown']} unknown: as it must be")
    until(lambda: world.value("SELECT count(*) FROM attempts WHERE status = 'queued'") == 0, what="nothing is queued")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seed", type=int, default=None, help="of an earlier run, to have it again")
    words.add_argument("--minutes", type=float, default=10.0)
    words.add_argument("--no-asterisk", action="store_true", help="never kill Asterisk: then its limits are judged too")
    given = words.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    say(f"seed {seed}")
    home = Path(tempfile.mkdtemp(prefix="trunkline-soak-"))
    with soaked_world(home) as (world, processes):
        world.begin_test()
        soak = Soak(world, say)
        faults = plan(seed, 60 * given.minutes, processes, asterisk=not given.no_asterisk)
        soak.run(faults, 60 * given.minutes)
        try:
            judge(world, soak, say)
        except AssertionError as error:
            say(f"seed {seed}: {error}")
            say(f"everything that it wrote is in {home}")
            return 1
        unknown = world.value("SELECT count(*) FROM calls WHERE status = 'unknown'")
        people = sum(len(campaign.people) for campaign in soak.campaigns)
        say(f"seed {seed}: {len(faults)} faults, {people} people, {unknown} unknown, nobody called twice, nothing held")
        for what, times in world.rows("SELECT what, times FROM repairs ORDER BY what"):
            say(f"  {what:<24} {times}")
    return 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - somebody waits in front of it


if __name__ == "__main__":
    sys.exit(main())
