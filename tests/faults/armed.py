"""Runs one of our modules with its points watched: `python -m tests.faults.armed DIRECTORY MODULE WORDS...`.

An order is a file in the directory, named like the point; it holds what to do there, and how many times the point is passed
by before. Whoever carries it out renames it, so each order strikes once, in one process, however many threads it has. One
that stays strikes every time; one with a number only when an attempt for that person is in hand, one with `many` only when
so many attempts are.

BROKER_OPTIONS in the environment, as JSON, are put over those of Celery's transport.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

import psycopg

from models.points import Point, watch
from tests.faults.clock import sleep_all_the_same

_LOOK_EVERY = 0.002


class Watcher:
    """Carries out what is ordered for a point when the point is reached."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._passed: dict[Point, int] = {}

    def __call__(self, point: Point, attempt_ids: Collection[UUID]) -> None:
        order = self._directory / point
        if not order.exists():
            return
        with self._lock:
            try:
                wanted = json.loads(order.read_text())
                if len(attempt_ids) < wanted["many"]:
                    return
                if wanted["number"] and not _in_hand(wanted["number"], attempt_ids):
                    return
                self._passed[point] = self._passed.get(point, 0) + 1
                if self._passed[point] <= wanted["after"]:
                    return
                self._passed[point] = 0
                if wanted["stays"]:
                    struck(order).touch()
                else:
                    order.rename(struck(order))
            except FileNotFoundError:
                return  # taken back, or carried out by another process
        match wanted["do"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hold":
                while not gone_on(order).exists():
                    time.sleep(_LOOK_EVERY)


def _in_hand(number: str, attempt_ids: Collection[UUID]) -> bool:
    with psycopg.connect(os.environ["TRUNKLINE_DATABASE_URL"]) as connection:
        found = connection.execute(
            "SELECT 1 FROM attempts a JOIN calls c ON c.id = a.call_id WHERE a.id = ANY (%s) AND c.phone_number = %s",
            (list(attempt_ids), number),
        )
        return found.fetchone() is not None


def struck(order: Path) -> Path:
    """What an order becomes when it is carried out."""
    return order.with_name(order.name + ".struck")


def gone_on(order: Path) -> Path:
    """Made by whoever lets a held process go on."""
    return order.with_name(order.name + ".go")


if __name__ == "__main__":
    sleep_all_the_same()
    directory, module, *words = sys.argv[1:]
    watch(Watcher(Path(directory)))
    if "BROKER_OPTIONS" in os.environ:
        from workers import app  # after the clock: it imports what sleeps

        app._REDIS.update(json.loads(os.environ["BROKER_OPTIONS"]))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
