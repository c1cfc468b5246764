"""The tasks, by the names that Flower shows; what they do is in plain functions beside them."""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import cache
from uuid import UUID

from celery import shared_task

from asterisk.pool import AmiPool
from models.database import open_engine
from models.settings import read_settings
from models.slots import Slots, connect
from workers.originate import Originator

ORIGINATE = "originate"
_FROZEN_AFTER = timedelta(seconds=3)  # in a claim: less than what a pause waits, and the leader, for its locks
_STATEMENT_TIMEOUT_MS = 10_000  # a thread that waits for the ledger takes no other task


_making = threading.Lock()


@cache
def _make_originator() -> Originator:
    """This process's, made at its first task: nothing of it survives a fork."""
    settings = read_settings()
    url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    return Originator(
        settings,
        open_engine(
            settings,
            "trunkline-worker",
            pool_size=settings.worker_threads,
            statement_timeout_ms=_STATEMENT_TIMEOUT_MS,
            frozen_after=_FROZEN_AFTER,
        ),
        AmiPool(settings.nodes),
        Slots(connect(url)),
    )


def _originator() -> Originator:
    with _making:
        return _make_originator()


@shared_task(name=ORIGINATE, ignore_result=True)
def originate(attempt_ids: list[str]) -> None:
    _originator().originate([UUID(id) for id in attempt_ids])
