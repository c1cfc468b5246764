"""Claim, send, write down: what the task `deliver` does with the deliveries it was given.

Whatever happens to this process in between, none is lost: the claim has set when each is due again, and what was delivered is
removed only then. A receiver that is slow costs this worker one thread and nobody else anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import anyio
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from standardwebhooks import Webhook

from models import executions, webhooks
from models.database import reason
from models.executions import Transition
from models.points import Point, reached
from models.settings import Settings
from models.statuses import Status
from models.webhooks import Delivery, Failure
from workers.receivers import post, trusted

logger = structlog.get_logger(__name__)

_AWAY = (OperationalError, InternalError, NoConnectionFree)
_FAULT = Failure(error="could not be sent: trunkline's own log says why")
_STAYS_SECONDS = 5.0  # with one receiver that has more; then the others have their turn


@dataclass(frozen=True, kw_only=True)
class Message:
    """What goes over the wire."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Deliverer:
    """Thread-safe; one a process."""

    def __init__(self, settings: Settings, engine: Engine, *, jitter: Callable[[], float] = random.random) -> None:
        self._to_private = settings.webhooks_to_private_addresses
        self._engine = engine
        self._context = trusted(settings.ca_file)
        self._jitter = jitter

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Sends what of these is due, and then what else their receiver is to be told, as long as it takes it.

        Where the ledger does not answer nothing more is sent: what is still due is published again.
        """
        until = time.monotonic() + _STAYS_SECONDS
        try:
            while ids:
                with self._engine.begin() as connection:
                    claimed = webhooks.claim(connection, ids, self._jitter)
                if claimed:
                    reached(Point.WEBHOOKS_CLAIMED)
                with self._engine.begin() as connection:
                    keys = {url: webhooks.secrets_of(connection, url) for url in {one.url for one in claimed}}
                    messages = [_message(connection, delivery, keys[delivery.url]) for delivery in claimed]
                outcomes = anyio.run(self._send, messages) if messages else []
                if outcomes:
                    reached(Point.WEBHOOKS_POSTED)
                ids = self._finish(list(zip(claimed, outcomes, strict=True)), more=time.monotonic() < until)
        except _AWAY as error:
            why = reason(error.orig if isinstance(error, DBAPIError) else error)
            logger.warning("not_delivered", deliveries=len(ids), error=why)

    async def _send(self, messages: Sequence[Message | Failure | None]) -> list[Failure | None]:
        """All at once; what came of each."""
        outcomes = [message if isinstance(message, Failure) else None for message in messages]

        async def send(at: int, message: Message) -> None:
            try:
                outcomes[at] = await post(
                    message.url, message.headers, message.body, context=self._context, to_private=self._to_private
                )
            except Exception as error:  # one that cannot be sent holds up no other, and is given up in its time
                logger.exception("webhook_fault", delivery=message.headers["webhook-id"], error=type(error).__name__)
                outcomes[at] = _FAULT

        async with anyio.create_task_group() as group:
            for at, message in enumerate(messages):
                if isinstance(message, Message):
                    group.start_soon(send, at, message)
        return outcomes

    def _finish(self, outcomes: Sequence[tuple[Delivery, Failure | None]], *, more: bool) -> Sequence[UUID]:
        """Writes down what came of them; returns what their receiver is to be told next, nothing if it has failed."""
        failures = [(delivery, failure) for delivery, failure in outcomes if failure is not None]
        for delivery, failure in failures:
            logger.info("webhook_failed", delivery=str(delivery.id), tries=delivery.tries + 1, error=failure.error)
        receivers = {delivery.receiver for delivery, _ in outcomes}
        with self._engine.begin() as connection:
            webhooks.delivered(connection, [delivery.id for delivery, failure in outcomes if failure is None])
            webhooks.failed(connection, failures)
            if failures or not more or len(receivers) != 1:
                return []
            (receiver,) = receivers
            return webhooks.lease(connection, receiver).get(receiver, [])


def _message(connection: Connection, delivery: Delivery, keys: Sequence[str]) -> Message | Failure | None:
    """What is to be posted: the call as it was at the transition. None where the call was deleted: there is nothing to tell."""
    at = Transition(status=Status(delivery.status), at=delivery.at)
    try:
        for execution in executions.of_calls(connection, [delivery.call_id], as_of=at):
            return sign(delivery, execution.model_dump_json(), keys, datetime.now(UTC))
    except (ValueError, LookupError, TypeError) as error:  # one call that cannot be shown holds up no other
        logger.exception("webhook_fault", delivery=str(delivery.id), error=type(error).__name__)
        return _FAULT
    return None


def sign(delivery: Delivery, body: str, keys: Sequence[str], now: datetime) -> Message:
    """By the Standard Webhooks convention: a signature of each key, one of which the receiver knows."""
    id = str(delivery.id)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(id, now, body) for key in keys),
    }
    return Message(url=delivery.url, headers=headers, body=body.encode())
