"""A dialer as tutorials write it: a Celery task a call that blocks until it is over, a counter in Redis, `countdown` when full.

Better than most in what costs it most: the tasks are in threads, not in a process each; a process keeps one AMI
connection for all of them; nothing is written to a database, and no result is kept. Celery's settings are its defaults.
There are some more threads than slots, as wherever several campaigns share workers: who finds none free comes again.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import redis
from celery import Celery

from tests.bench.peers.wire import LOGIN, action

if TYPE_CHECKING:  # the workers are to import nothing of ours
    from asterisk.pool import Originate
    from tests.bench.peers.ground import Ground

PROCESSES = 2
MORE_THREADS = 10  #: in each process, than its share of the slots
_SLOTS, _OVER = "slots", "over"
_READY_WITHIN, _WITHIN = 60.0, 300.0

app = Celery("textbook", broker=os.environ.get("TEXTBOOK_REDIS"))


class _Ami:
    """One connection, read by a thread that tells each task of its call's end."""

    def __init__(self) -> None:
        self._socket = socket.create_connection((os.environ["TEXTBOOK_AMI_HOST"], int(os.environ["TEXTBOOK_AMI_PORT"])))
        self._sending = threading.Lock()
        self._ends: dict[str, threading.Event] = {}
        self._socket.sendall(LOGIN.encode())
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, id: str, originate: str) -> None:
        """Returns when the call is over."""
        self._ends[id] = end = threading.Event()
        with self._sending:
            self._socket.sendall(originate.encode())
        end.wait(timeout=120)
        del self._ends[id]

    def _read(self) -> None:
        message: dict[str, str] = {}
        for line in self._socket.makefile("r"):
            name, _, value = line.rstrip().partition(": ")
            if name:
                message[name] = value
                continue
            if "Event" in message and (end := self._ends.get(message.get("Uniqueid", ""))):
                end.set()
            message = {}


_making = threading.Lock()


@cache
def _connect() -> tuple[_Ami, redis.Redis]:
    return _Ami(), redis.Redis.from_url(os.environ["TEXTBOOK_REDIS"])


@app.task(bind=True, max_retries=None, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery's own lack
def dial(self: Any, id: str, originate: str, slots: int) -> None:
    with _making:
        ami, counter = _connect()
    if counter.incr(_SLOTS) > slots:
        counter.decr(_SLOTS)
        raise self.retry(countdown=1)
    try:
        ami.call(id, originate)
    finally:
        counter.decr(_SLOTS)
    counter.incr(_OVER)


def run(ground: Ground, orders: Sequence[Originate], slots: int) -> float:
    """Returns when all calls are over; how many seconds of CPU the workers took from when they were ready."""
    broker = ground.system.stack.runtime["redis_url"].removesuffix("/0") + "/1"
    host, port = ground.ami
    environment = {"TEXTBOOK_REDIS": broker, "TEXTBOOK_AMI_HOST": host, "TEXTBOOK_AMI_PORT": str(port)}
    with redis.Redis.from_url(broker) as counter, _workers(environment, slots, ground.system.stack.home) as workers:
        counter.delete(_SLOTS, _OVER)  # and not the whole database: kombu keeps who listens to what in it
        app.conf.broker_url = broker
        deadline = time.monotonic() + _READY_WITHIN
        while len(app.control.ping(timeout=1)) < PROCESSES:
            if time.monotonic() > deadline:
                raise TimeoutError("the textbook's workers are not there")
        deadline = time.monotonic() + _WITHIN
        before = _cpu(workers)
        for order in orders:
            id = str(order.attempt_id)
            dial.delay(id, action("Originate", order.headers()), slots)
        while (over := int(counter.get(_OVER) or 0)) < len(orders):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{over} of {len(orders)} calls are over")
            time.sleep(0.1)
        return _cpu(workers) - before


@contextmanager
def _workers(environment: dict[str, str], slots: int, directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    threads = slots // PROCESSES + MORE_THREADS
    words = [sys.executable, "-m", "celery", "-A", "tests.bench.peers.textbook", "worker", "--loglevel", "WARNING"]
    with (directory / "textbook.log").open("ab") as log:
        workers = [
            subprocess.Popen(
                [*words, "--pool", "threads", "--concurrency", str(threads), "--hostname", f"textbook{at}@peers"],
                env={**os.environ, **environment, "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for at in range(PROCESSES)
        ]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(timeout=60)


def _cpu(workers: Sequence[subprocess.Popen[bytes]]) -> float:
    return float(sum(sum(psutil.Process(worker.pid).cpu_times()[:4]) for worker in workers))
