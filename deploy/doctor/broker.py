"""Redis (or Valkey), and the workers that answer through it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.doctor.clock import clock_finding
from deploy.doctor.ledger import Ledger
from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Settings
from models.webhooks import MOST_COUNTED, Backlog
from workers.app import QUEUE, WEBHOOKS_QUEUE, make_app

OLDEST_REDIS = 7
SLOW = 5.0  # milliseconds; every grant and every end of a call is a round trip
PING_WORKERS = 1.5  # seconds
LONG_DUE = timedelta(minutes=2)  # a webhook; a worker takes it at once, unless those before it are not taken
PART = "redis"


def examine_redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        return [wrong(PART, "is not running", "start it with `trunkline up`, or set TRUNKLINE_REDIS_URL")]
    try:
        client = redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        return [wrong(PART, "TRUNKLINE_REDIS_URL is no address", "redis://:PASSWORD@HOST:PORT/0")]
    with client:
        try:
            return list(_server(client))
        except redis.AuthenticationError as error:
            return [wrong(PART, f"refuses the password ({error})", "mend TRUNKLINE_REDIS_URL")]
        except redis.RedisError as error:
            return [wrong(PART, f"does not answer: {error}", "start it, or mend TRUNKLINE_REDIS_URL")]


def _server(client: redis.Redis) -> Iterator[Finding]:
    trips: list[float] = []
    for _ in range(5):
        asked = time.monotonic()
        client.ping()
        trips.append(time.monotonic() - asked)
    asked = time.monotonic()
    seconds, micros = client.time()
    took = time.monotonic() - asked
    now = datetime.now(UTC)
    info: dict[str, Any] = client.info()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        yield wrong(PART, f"{name} {version} is too old", f"version {OLDEST_REDIS} or later is needed")
    else:
        yield ok(PART, f"{name} {version}, answers in {statistics.median(trips) * 1000:.1f} ms")
    if statistics.median(trips) * 1000 > SLOW:
        yield warning(PART, "is slow to answer: it paces every call", "put it near the schedulers and workers")
    if info.get("role") == "slave":
        yield wrong(PART, "takes no writes: it is a replica", "give the address of the primary")
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        yield ok(PART, "never evicts a key")
    else:
        yield wrong(
            PART,
            f"evicts keys when its memory is full (maxmemory-policy {policy}): slots and tasks would vanish",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
        )
    if info.get("aof_enabled"):
        yield ok(PART, "writes an append-only file")
    else:
        yield warning(
            PART,
            "keeps nothing on disk: a restart forgets slots and tasks, and calls pause until the ledger has rebuilt them",
            "CONFIG SET appendonly yes, and the same in its configuration",
        )
    if not client.connection_pool.connection_kwargs.get("password"):
        yield warning(
            PART, "asks for no password: whoever reaches it can start calls", "set requirepass and TRUNKLINE_REDIS_URL"
        )
    else:
        yield ok(PART, "asks for a password")
    theirs = datetime.fromtimestamp(seconds + micros / 1e6, UTC)
    yield clock_finding(PART, theirs, now, timedelta(seconds=took))


def examine_workers(
    settings: Settings, redis_answers: bool, expected: int | None, ledger: Ledger | None = None
) -> list[Finding]:
    """Who answers through the broker, and what waits for those who do not.

    `expected` is how many `trunkline up` has started to dial, if it runs here.
    """
    if settings.redis_url is None or not redis_answers:
        return [unknown("workers", "cannot be asked without Redis")]
    app = make_app(settings)
    try:
        answers = app.control.inspect(timeout=PING_WORKERS).active_queues() or {}
    except Exception as error:  # kombu raises the transport's own, whichever that is
        return [unknown("workers", f"could not be asked ({type(error).__name__})", "ask again")]
    finally:
        app.close()
    dialling, delivering = (
        sorted(name for name, queues in answers.items() if of in {queue["name"] for queue in queues})
        for of in (QUEUE, WEBHOOKS_QUEUE)
    )
    return [_workers(dialling, expected), _webhook_workers(delivering, ledger.webhooks if ledger else None)]


def _workers(names: list[str], expected: int | None) -> Finding:
    if not names:
        return wrong("workers", "none answers: nothing is dialled", "start `trunkline up`, or `trunkline run worker`")
    if expected is not None and len(names) < expected:
        return warning("workers", f"{len(names)} of {expected} answer", "look at the logs in TRUNKLINE_HOME/log")
    return ok("workers", f"{len(names)} answer on the queue {QUEUE}: {', '.join(names)}")


def _webhook_workers(names: list[str], backlog: Backlog | None) -> Finding:
    wait = backlog is not None and backlog.oldest_due > LONG_DUE and _waiting(backlog)
    if not names:
        advice = "start `trunkline up`, or `trunkline run webhooks`"
        if wait:
            return wrong("webhooks", f"no worker of theirs answers, and {wait}", advice)
        return warning("webhooks", "no worker of theirs answers: they wait until one does", advice)
    answer = f"{len(names)} answer on the queue {WEBHOOKS_QUEUE}: {', '.join(names)}"
    if wait:
        return warning("webhooks", f"{answer}; {wait}", "`trunkline webhook list` shows which receivers take none")
    return ok("webhooks", answer)


def _waiting(backlog: Backlog) -> str:
    more = " or more" if backlog.waiting == MOST_COUNTED else ""
    return f"{backlog.waiting}{more} wait, one of them for {backlog.oldest_due // timedelta(minutes=1)} minutes"
