"""Our own processes, each run by `trunkline run`: alone under a service manager, or under `trunkline up`."""

from __future__ import annotations

import os
import signal
import socket
import threading

import structlog

from asterisk.listener import Listener
from models.errors import NotFound, Unavailable
from models.logs import configure
from models.settings import Settings
from models.slots import Freer, Slots, connect
from scheduler.api.server import make_server
from scheduler.api.uploads import keep_uploads_in
from scheduler.leader import Leader
from scheduler.prober import Prober
from workers.publish import Publisher

logger = structlog.get_logger(__name__)

_PROBER_STOPS_SECONDS = 5.0


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT: finish what is in hand, then return."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_scheduler(settings: Settings) -> None:
    """Leads, or stands by for whoever leads; beside it, and apart from it, gateways are probed."""
    configure(settings.log_level)
    leader, stop = Leader(settings, _redis_url(settings), Publisher(settings)), stop_on_signals()
    # a daemon: whatever may hold it up, the process ends when the leader does
    prober = threading.Thread(target=Prober(settings).run, args=(stop,), name="prober", daemon=True)
    prober.start()
    try:
        leader.run(stop)
    finally:
        stop.set()
        prober.join(timeout=_PROBER_STOPS_SECONDS)


def run_listener(settings: Settings, node_name: str) -> None:
    """Hears one node, or stands by for whoever does."""
    configure(settings.log_level)
    node = next((node for node in settings.nodes if node.name == node_name), None)
    if node is None:
        raise NotFound("node", node_name)
    slots = Freer(Slots(connect(_redis_url(settings), briefly=True)))
    Listener(settings, node, slots).run(stop_on_signals())


def worker_command(settings: Settings, python: str) -> list[str]:
    """The words that start a Celery worker. Threads: a task waits for Postgres and AMI, not for the processor."""
    words = [python, "-m", "celery", "-A", "workers.main", "worker", "--pool", "threads", "--loglevel", "WARNING"]
    return [
        *words,
        "--concurrency",
        str(settings.worker_threads),
        "--queues",
        "trunkline",
        "--without-mingle",
        "--without-gossip",
    ]


def run_worker(settings: Settings, python: str) -> None:
    """Becomes a Celery worker."""
    _redis_url(settings)
    words = [*worker_command(settings, python), "--hostname", f"worker-{os.getpid()}@%h"]
    os.execv(python, words)  # noqa: S606 - the words are ours, and no shell is needed


def run_api(settings: Settings) -> None:
    """Answers HTTP at `api_bind` until it is asked to stop, and then ends what is in hand.

    Raises `Unavailable` where the port is taken, or the address is none of this machine's.
    """
    configure(settings.log_level)
    keep_uploads_in(settings.home)
    server = make_server(settings)
    host, _, port = settings.api_bind.partition(":")
    try:
        listening = socket.create_server((host, int(port)))
    except OSError as error:
        raise Unavailable(f"TRUNKLINE_API_BIND: {settings.api_bind}: {os.strerror(error.errno or 0)}") from error
    with listening:
        server.run(sockets=[listening])


def _redis_url(settings: Settings) -> str:
    if settings.redis_url is None:
        raise Unavailable("Redis: not running; start trunkline with `trunkline up`, or set TRUNKLINE_REDIS_URL")
    url = settings.redis_url.get_secret_value()
    connect(url).close()  # it connects when it is used: only the address is looked at
    return url
