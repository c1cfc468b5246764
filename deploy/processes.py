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
from scheduler.leader import Leader
from scheduler.prober import Prober
from scheduler.webhook_sweep import WebhookSweep
from workers.app import QUEUE, WEBHOOKS_QUEUE
from workers.publish import Publisher, WebhookPublisher

logger = structlog.get_logger(__name__)

_BESIDE_STOPS_SECONDS = 5.0
_WEBHOOK_THREADS = 32  # each waits for one receiver, up to ten seconds


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT: finish what is in hand, then return."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_scheduler(settings: Settings) -> None:
    """Leads, or stands by for whoever leads; beside it, and apart from it, gateways are probed and webhooks published."""
    configure(settings.log_level)
    leader, stop = Leader(settings, _redis_url(settings), Publisher(settings)), stop_on_signals()
    sweep = WebhookSweep(settings, WebhookPublisher(settings))
    # daemons: whatever may hold them up, the process ends when the leader does
    beside = [
        threading.Thread(target=run, args=(stop,), name=name, daemon=True)
        for name, run in (("prober", Prober(settings).run), ("webhook-sweep", sweep.run))
    ]
    for thread in beside:
        thread.start()
    try:
        leader.run(stop)
    finally:
        stop.set()
        for thread in beside:
            thread.join(timeout=_BESIDE_STOPS_SECONDS)


def run_listener(settings: Settings, node_name: str) -> None:
    """Hears one node, or stands by for whoever does."""
    configure(settings.log_level)
    node = next((node for node in settings.nodes if node.name == node_name), None)
    if node is None:
        raise NotFound("node", node_name)
    slots = Freer(Slots(connect(_redis_url(settings), briefly=True)))
    Listener(settings, node, slots).run(stop_on_signals())


def worker_command(settings: Settings, python: str) -> list[str]:
    """The words that start a Celery worker."""
    return _celery_worker(python, QUEUE, settings.worker_threads)


def webhook_worker_command(python: str) -> list[str]:
    """The words that start a Celery worker for webhooks alone."""
    return _celery_worker(python, WEBHOOKS_QUEUE, _WEBHOOK_THREADS)


def _celery_worker(python: str, queue: str, threads: int) -> list[str]:
    """Threads: a task waits for Postgres, AMI and receivers, not for the processor."""
    words = [python, "-m", "celery", "-A", "workers.main", "worker", "--pool", "threads", "--loglevel", "WARNING"]
    return [*words, "--concurrency", str(threads), "--queues", queue, "--without-mingle", "--without-gossip"]


def run_worker(settings: Settings, python: str) -> None:
    """Becomes a Celery worker."""
    _become(settings, python, [*worker_command(settings, python), "--hostname", f"worker-{os.getpid()}@%h"])


def run_webhooks(settings: Settings, python: str) -> None:
    """Becomes a Celery worker for webhooks."""
    _become(settings, python, [*webhook_worker_command(python), "--hostname", f"webhooks-{os.getpid()}@%h"])


def _become(settings: Settings, python: str, words: list[str]) -> None:
    _redis_url(settings)
    os.execv(python, words)  # noqa: S606 - the words are ours, and no shell is needed


def run_api(settings: Settings) -> None:
    """Answers HTTP at `api_bind` until it is asked to stop, and then ends what is in hand.

    Raises `Unavailable` where the port is taken, or the address is none of this machine's.
    """
    # half of what all that is here takes to import, and no other process needs it
    from scheduler.api.server import make_server
    from scheduler.api.uploads import keep_uploads_in

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
