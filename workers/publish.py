"""Puts attempts into the workers' queue, and webhooks into that of theirs. Ids only, after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from models.settings import Settings
from workers.app import WEBHOOKS_QUEUE, make_app
from workers.tasks import DELIVER, ORIGINATE

# kombu tries again in three places, one in the other: 35 s were measured for one task at a Redis that hangs
_ONCE = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry_on_timeout": False, "max_retries": 0}
MOST_A_TASK = 16
SINGLY_UP_TO = 4
"""So few are published one a task, so that idle workers share them; more go together, which costs less a call."""


class Publisher:
    """Keeps one producer. Not thread-safe.

    Raises kombu's OperationalError when the broker does not take a task at once, or within 2 s: the leader may not be
    held up for longer, or it loses its role. The ledger still shows those attempts as queued, and the leader's sweep
    publishes them again.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        self._app.conf.broker_transport_options |= _ONCE

    def __call__(self, attempt_ids: Sequence[UUID]) -> None:
        size = 1 if len(attempt_ids) <= SINGLY_UP_TO else MOST_A_TASK
        with self._app.producer_or_acquire() as producer:
            for at in range(0, len(attempt_ids), size):
                ids = [str(id) for id in attempt_ids[at : at + size]]
                self._app.send_task(ORIGINATE, args=[ids], producer=producer, ignore_result=True, retry=False)


class WebhookPublisher:
    """As `Publisher`, for deliveries, each task of one receiver. What it raises at is not on its way, and may be released."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        self._app.conf.broker_transport_options |= _ONCE

    def __call__(self, delivery_ids: Sequence[UUID]) -> None:
        with self._app.producer_or_acquire() as producer:
            ids = [str(id) for id in delivery_ids]
            self._app.send_task(
                DELIVER, args=[ids], queue=WEBHOOKS_QUEUE, producer=producer, ignore_result=True, retry=False
            )
