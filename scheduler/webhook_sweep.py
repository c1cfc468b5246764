"""Publishes webhooks that are due, a task a receiver, and forgets those that were given up long ago.

    wait for the role ──▶ every quarter of a second: lease what is due, publish it ──▶ ...
           ▲                                    │
           └──────── role or database lost ◀────┘

It runs beside the leader, in a thread and on a connection of its own, and decides nothing: it may be late or gone, and calls
go out as before. A receiver has one task at a time, which stays with it while it takes what it is sent; so one that is down
or slow has a worker's thread and a few messages, however much waits for it. What a lost message carried is published again
when its lease ends. One process at a time holds the role.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from sqlalchemy import Connection

from models import roles, webhooks
from models.points import Point, reached
from models.roles import WEBHOOKS
from models.settings import Settings

logger = structlog.get_logger(__name__)

Publish = Callable[[Sequence[UUID]], None]

_ROUND_SECONDS = 0.25
_RETRY_AFTER = 1.0
_FORGET_EVERY = 60.0  # seconds


class WebhookSweep:
    """`run` returns when `stop` is set. `publish` sends the ids of deliveries, all of one receiver, to the workers."""

    def __init__(self, settings: Settings, publish: Publish) -> None:
        self._settings = settings
        self._publish = publish

    def run(self, stop: threading.Event) -> None:
        roles.serve(self._settings, WEBHOOKS, stop, lambda role: self._serve(role.connection, stop))

    def _serve(self, connection: Connection, stop: threading.Event) -> None:
        forget_at = time.monotonic()
        while not stop.wait(_ROUND_SECONDS):
            with connection.begin():
                leased = list(webhooks.lease(connection).values())
            if leased:
                reached(Point.WEBHOOKS_LEASED)
            while leased:
                try:
                    self._publish(leased[-1])
                except Exception as error:  # the next would wait as long for the same broker
                    logger.warning("not_published", receivers=len(leased), error=f"{type(error).__name__}: {error}")
                    with connection.begin():
                        webhooks.release(connection, [id for ids in leased for id in ids])
                    stop.wait(_RETRY_AFTER)
                    break
                leased.pop()
            if time.monotonic() >= forget_at:
                forget_at = time.monotonic() + _FORGET_EVERY
                with connection.begin():
                    webhooks.forget_old(connection)
