"""The tasks, by the names that Flower shows; what they do is in plain functions beside them."""

from __future__ import annotations

import secrets
import threading
from functools import cache
from uuid import UUID

import structlog
from celery import shared_task

from asterisk.pool import AmiPool
from models.database import NEVER_IDLE, open_engine
from models.settings import read_settings
from models.slots import Slots, connect
from workers.originate import Originator
from workers.webhooks import Deliverer

logger = structlog.get_logger(__name__)

ORIGINATE, DELIVER = "originate", "deliver"
_STATEMENT_TIMEOUT_MS = 10_000  # a thread that waits for the ledger takes no other task
_WEBHOOK_CONNECTIONS = 8  # of the ledger, which its threads share: most of the time they wait for receivers

_making = threading.Lock()


@cache
def _make_originator() -> Originator:
    """This process's, made at its first task: nothing of it survives a fork."""
    settings = read_settings()
    url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    return Originator(
        settings,
        # a name of its own: who claimed an attempt is known by it, and whether that one still lives
        open_engine(
            settings,
            f"trunkline-worker {secrets.token_hex(4)}",
            pool_size=settings.worker_threads,
            statement_timeout_ms=_STATEMENT_TIMEOUT_MS,
            options=NEVER_IDLE,
        ),
        AmiPool(settings.nodes),
        Slots(connect(url)),
    )


def _originator() -> Originator:
    with _making:
        return _make_originator()


@cache
def _make_deliverer() -> Deliverer:
    settings = read_settings()
    engine = open_engine(
        settings,
        "trunkline-webhooks",
        pool_size=_WEBHOOK_CONNECTIONS,
        statement_timeout_ms=_STATEMENT_TIMEOUT_MS,
        options=NEVER_IDLE,
    )
    return Deliverer(settings, engine)


def _deliverer() -> Deliverer:
    with _making:
        return _make_deliverer()


@shared_task(name=ORIGINATE, ignore_result=True)
def originate(attempt_ids: object = None, *_: object, **__: object) -> None:
    """Dials the attempts of these ids."""
    if ids := _ids(attempt_ids, ORIGINATE):
        _originator().originate(ids)


@shared_task(name=DELIVER, ignore_result=True)
def deliver(delivery_ids: object = None, *_: object, **__: object) -> None:
    """Sends the webhooks of these ids, all to one receiver."""
    if ids := _ids(delivery_ids, DELIVER):
        _deliverer().deliver(ids)


def _ids(given: object, task: str) -> list[UUID]:
    """What is not a list of ids has not been published by us: said in one line, and forgotten."""
    try:
        ids = [UUID(id) for id in given] if isinstance(given, list) else []
    except (ValueError, AttributeError, TypeError):  # UUID of something that is no text
        ids = []
    if not ids:
        logger.error("task_refused", task=task)
    return ids
