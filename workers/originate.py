"""Claim, send once, return: what the task `originate` does with the attempts it was given.

Whatever happens to this process in between, nobody is called twice: before the claim's commit
nothing was sent; after it nobody else can claim; and what was claimed but not sent is found by the
listener, which looks it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Engine

from asterisk.marks import mark_family
from asterisk.pool import AmiError, AmiPool, MaybeSent, Originate, Refused
from models import ledger
from models.agents import parse_connect
from models.ledger import Claim
from models.outcome import Disposition
from models.settings import Settings
from models.slots import Away, Slots
from models.statuses import Status

logger = structlog.get_logger(__name__)

FRESH_FOR = timedelta(milliseconds=100)
"""A grant older than this takes a rate token again: its own was for another moment."""


class Originator:
    """Thread-safe; one a process."""

    def __init__(self, settings: Settings, engine: Engine, pool: AmiPool, slots: Slots) -> None:
        self._settings = settings
        self._engine = engine
        self._pool = pool
        self._slots = slots

    def originate(self, attempt_ids: Sequence[UUID]) -> int:
        """Dials what can be claimed of these attempts; returns how many Asterisk took.

        What cannot be claimed and is still queued (its trunk is off, its campaign paused, its grant
        void) is given back at once.
        """
        with self._engine.begin() as connection:
            claims = ledger.claim(connection, attempt_ids)
        claimed = {claim.id for claim in claims}
        unclaimed = [id for id in attempt_ids if id not in claimed]
        if unclaimed:
            self._give_back(
                unclaimed, Status.QUEUED, "Not dialled: its trunk, its campaign or its grant was off by then."
            )
        in_time = [claim for claim in claims if claim.age <= FRESH_FOR or self._has_token(claim)]
        late = [claim.id for claim in claims if claim not in in_time]
        if late:
            self._give_back(late, Status.INITIATED, "Not dialled: its turn in the trunk's calls a second had passed.")
        if not in_time:
            return 0
        results = self._pool.originate_many([(claim.node, self._order(claim)) for claim in in_time])
        for claim, result in zip(in_time, results, strict=True):
            if isinstance(result, AmiError):
                self._not_taken(claim, result)
        return sum(not isinstance(result, AmiError) for result in results)

    def _has_token(self, claim: Claim) -> bool:
        try:
            return self._slots.take_rate_token(claim.trunk_id, claim.max_calls_per_second)
        except Away:
            return False

    def _order(self, claim: Claim) -> Originate:
        agent = parse_connect(claim.connect)
        return Originate(
            attempt_id=claim.id,
            endpoint=str(claim.gateway_id),
            context="trunkline-agent",
            exten=agent.kind.value,
            ring_timeout=self._settings.ring_timeout,
            longest_call=self._settings.longest_call,
            caller_id=claim.from_number,
            variables=agent.variables,
            mark_family=mark_family(datetime.now(UTC)),
        )

    def _not_taken(self, claim: Claim, error: AmiError) -> None:
        logger.warning("originate_failed", attempt=str(claim.id), node=claim.node, error=str(error))
        if isinstance(error, MaybeSent):
            return  # Asterisk may be dialling: the listener sees it, or looks it up
        placed_wrong = isinstance(error, Refused) and "does not exist" not in error.message  # else: it is booting
        self._give_back(
            [claim.id],
            Status.INITIATED,
            f"Not dialled: {error}",
            disposition=Disposition.NOT_PLACED if placed_wrong else None,
            delay=ledger.PLACE_AGAIN_AFTER,
        )

    def _give_back(
        self,
        attempt_ids: Sequence[UUID],
        status: Status,
        explanation: str,
        *,
        disposition: Disposition | None = None,
        delay: timedelta = timedelta(0),
    ) -> None:
        """What we know we never sent goes back to `scheduled`, and its slots are freed."""
        with self._engine.begin() as connection:
            withdrawn = ledger.withdraw(
                connection,
                attempt_ids,
                of={status},
                at=datetime.now(UTC),
                explanation=explanation,
                disposition=disposition,
                delay=delay,
            )
        try:
            self._slots.free(withdrawn)
        except Away as error:
            logger.warning("slots_not_freed", attempts=len(withdrawn), error=str(error))
