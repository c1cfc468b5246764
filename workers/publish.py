"""Puts attempts into the workers' queue, and webhooks into that of theirs. Ids only, after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from models.settings import Settings
from workers.app import QUEUE, WEBHOOKS_QUEUE, make_app
from workers.tasks import DELIVER, ORIGINATE

# kombu tries again in three places, one in the other: 35 s were measured for one task at a Redis that hangs
_ONCE = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry_on_timeout": False, "max_retries": 0}
MOST_A_TASK = 16
SINGLY_UP_TO = 4
"""So few are published one a task, so that idle workers share them; more go together, which costs less a call."""


class _Publisher:
    """Keeps one producer. Not thread-safe.

    Raises kombu's OperationalError when the broker does not take a task at once, or within 2 s: the leader may not be
    held up for longer, or it loses its role.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        self._app.conf.broker_transport_options |= _ONCE

    def _publish(self, task: str, queue: str, ids: Sequence[UUID], size: int) -> None:
        with self._app.producer_or_acquire() as producer:
            for at in range(0, len(ids), size):
                some = [str(id) for id in ids[at : at + size]]
                self._app.send_task(task, args=[some], queue=queue, producer=producer, ignore_result=True, retry=False)


class Publisher(_Publisher):
    """Attempts. Those that the broker does not take the ledger still shows as queued: the leader's sweep publishes them again."""

    def __call__(self, attempt_ids: Sequence[UUID]) -> None:
        self._publish(ORIGINATE, QUEUE, attempt_ids, 1 if len(attempt_ids) <= SINGLY_UP_TO else MOST_A_TASK)


class WebhookPublisher(_Publisher):
    """Deliveries, of one receiver at a time: one task. What it raises at is not on its way, and may be released."""

    def __call__(self, delivery_ids: Sequence[UUID]) -> None:
        self._publish(DELIVER, WEBHOOKS_QUEUE, delivery_ids, max(1, len(delivery_ids)))
