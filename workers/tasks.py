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

logger = structlog.get_logger(__name__)

ORIGINATE = "originate"
_STATEMENT_TIMEOUT_MS = 10_000  # a thread that waits for the ledger takes no other task

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


@shared_task(name=ORIGINATE, ignore_result=True)
def originate(attempt_ids: object = None, *_: object, **__: object) -> None:
    """What is not a list of ids has not been published by us: said in one line, and forgotten."""
    try:
        ids = [UUID(id) for id in attempt_ids] if isinstance(attempt_ids, list) else []
    except (ValueError, AttributeError, TypeError):  # UUID of something that is no text
        ids = []
    if not ids:
        logger.error("task_refused", task=ORIGINATE)
        return
    _originator().originate(ids)
