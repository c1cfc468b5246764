"""Runs one of our modules with a clock at its steps: `python -m tests.bench.timed FILE MODULE WORDS...`.

A line of the file is `SECONDS STEP IDS...`: when these attempts had come through the step. The steps are the product's own
points (`models.points`), and what lies between two of them and is worth telling apart. What is done at one is a line in a
buffer: a few microseconds.
"""

from __future__ import annotations

import functools
import inspect
import runpy
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from models.points import Point, watch

FLUSH_EVERY = 0.5


class _Clock:
    """Thread-safe. Leader and listener have one thread, and in hand what they took last."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: list[str] = []
        self._in_hand: list[object] = []
        self._noted: dict[str, float] = {}
        threading.Thread(target=self._keep_flushing, daemon=True).start()

    def note(self, step: str) -> None:
        """For attempts that are not known yet: those taken in hand next."""
        self._noted[step] = time.time()

    def take_in_hand(self, step: str, ids: Iterable[object], *noted: str) -> None:
        self._in_hand = list(ids)
        for before in noted:
            if before in self._noted:
                self.tell(before, self._in_hand, self._noted[before])
        self.tell(step, self._in_hand)

    def tell(self, step: str, ids: Iterable[object], at: float | None = None) -> None:
        self._lines.append(" ".join([f"{at or time.time():.6f}", step, *map(str, ids)]) + "\n")

    def pass_by(self, point: Point, ids: Collection[UUID]) -> None:
        if point is Point.LISTENER_HEARD:
            self.note(point)
            return
        self.tell(point, ids or self._in_hand)
        if point is Point.LEADER_PUBLISHED:
            self.note("leader-turns")

    def _keep_flushing(self) -> None:
        with self._file.open("a", buffering=1) as file:
            while True:
                time.sleep(FLUSH_EVERY)
                lines, self._lines = self._lines, []
                file.writelines(lines)


def _after(owner: Any, name: str, then: Callable[..., None]) -> None:
    """Whenever the function has returned, `then` is called with its result and what it was given."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args: Any, **words: Any) -> Any:
        result = function(*args, **words)
        then(result, *args)
        return result

    @functools.wraps(function)
    async def timed_coroutine(*args: Any, **words: Any) -> Any:
        result = await function(*args, **words)
        then(result, *args)
        return result

    setattr(owner, name, timed_coroutine if inspect.iscoroutinefunction(function) else timed)


def _set(clock: _Clock) -> None:
    from asterisk.link import Link
    from asterisk.pool import AmiPool
    from models import ledger
    from models.slots import Bell, LeaderSlots, Slots

    def heard(_: object, __: Link, event: Any) -> None:
        if event.name == "Hangup":
            clock.tell("hangup-heard", [event.get("Uniqueid")])

    def took(taken: Any, _: LeaderSlots, __: object, leases: Any) -> None:
        if leases:
            clock.take_in_hand("leader-took", taken.granted, "leader-turns", "leader-looked", "leader-picked")
        else:
            clock.note("leader-looked")

    watch(clock.pass_by)
    _after(Link, "_heard", heard)
    _after(
        ledger,
        "record",
        lambda recorded, *_: clock.take_in_hand("recorded", [row.id for row in recorded.over], Point.LISTENER_HEARD),
    )
    _after(Slots, "free", lambda _, __, ids: clock.tell("freed", ids))
    _after(Bell, "wait", lambda *_: clock.note("leader-turns"))
    _after(LeaderSlots, "take", took)
    _after(ledger, "pick_campaign_calls", lambda *_: clock.note("leader-picked"))
    _after(ledger, "grant", lambda _, __, grants: clock.tell("leader-wrote", [grant.id for grant in grants]))
    _after(ledger, "claim", lambda _, __, ids: clock.tell("worker-wrote", ids))
    _after(AmiPool, "_its_turn", lambda _, __, order, ___: clock.tell("sent", [order.attempt_id]))


if __name__ == "__main__":
    file, module, *words = sys.argv[1:]
    _set(_Clock(Path(file)))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
