"""Claim, send, write down: what the task `deliver` does with the deliveries it was given.

Whatever happens to this process in between, none is lost: the claim has set when each is due again, and what was delivered is
removed only then. A receiver that is slow costs this worker one thread and nobody else anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import anyio
import structlog
from sqlalchemy import Connection, Engine
from standardwebhooks import Webhook

from models import executions, webhooks
from models.settings import Settings
from models.webhooks import Delivery, Failure
from workers.receivers import post, trusted

logger = structlog.get_logger(__name__)

_STAYS_SECONDS = 5.0  # with one receiver that has more; then the others have their turn


class Deliverer:
    """Thread-safe; one a process."""

    def __init__(self, settings: Settings, engine: Engine, *, jitter: Callable[[], float] = random.random) -> None:
        self._to_private = settings.webhooks_to_private_addresses
        self._engine = engine
        self._context = trusted(settings.ca_file)
        self._jitter = jitter

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Sends what of these is due, and then what else their receiver has to be told, as long as it takes it."""
        until = time.monotonic() + _STAYS_SECONDS
        while ids:
            with self._engine.begin() as connection:
                claimed = webhooks.claim(connection, ids, self._jitter)
                messages = self._write(connection, claimed)
            outcomes = anyio.run(self._send, messages) if messages else {}
            ids = self._finish(claimed, outcomes, more=time.monotonic() < until)

    def _write(self, connection: Connection, claimed: Sequence[Delivery]) -> dict[Delivery, tuple[dict[str, str], str]]:
        """Headers and body of each; none of a call that is deleted."""
        found = executions.of_calls(connection, [delivery.call_id for delivery in claimed])
        keys = {url: webhooks.secrets_of(connection, url) for url in {delivery.url for delivery in claimed}}
        return {
            delivery: sign(delivery, keys[delivery.url], executions.as_of(found[delivery.call_id], delivery.status))
            for delivery in claimed
            if delivery.call_id in found
        }
