"""Claim, send once, return: what the task `originate` does with the attempts it was given.

Whatever happens to this process in between, nobody is called twice: before the claim's commit
nothing was sent; after it nobody else can claim; and what was claimed but not sent is found by the
listener, which looks it up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from asterisk.ami import TooLate, Unwritable
from asterisk.marks import mark_family
from asterisk.pool import Accepted, AmiError, AmiPool, MaybeSent, Originate, Refused
from models import contexts, ledger, nodes
from models.agents import DEFAULT_FALLBACK, check_sound, parse_connect
from models.database import reason
from models.errors import Invalid
from models.explanations import Ending, Verdict, explain
from models.ledger import Claim
from models.outcome import Disposition
from models.points import Point, reached
from models.settings import Settings
from models.slots import Away, Slots, pace
from models.statuses import Status

logger = structlog.get_logger(__name__)

_HELD_UP = timedelta(milliseconds=50)
"""Later than this after its turn nothing is sent: what waited in a frozen process must not leave all at once."""

_AWAY = (OperationalError, InternalError, NoConnectionFree)
"""What the ledger's absence looks like; everything else is a fault of ours, and shows."""

_TURN_PASSED = explain(Ending(why=Verdict.TURN_PASSED))


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
        void) is given back at once. Where the ledger does not answer nothing is sent, whether or not the
        claim was committed: the leader publishes again what is still queued, and the listener looks up the rest.
        """
        reached(Point.WORKER_TOOK, attempt_ids)
        try:
            with self._engine.begin() as connection:
                claims = ledger.claim(connection, attempt_ids)
                claimed = {claim.id for claim in claims}
                reached(Point.WORKER_CLAIMS, claimed)
        except _AWAY as error:
            logger.warning("not_claimed", attempts=len(attempt_ids), error=_why(error))
            return 0
        reached(Point.WORKER_CLAIMED, claimed)
        unclaimed = [id for id in attempt_ids if id not in claimed]
        if unclaimed:
            self._give_back_unclaimed(unclaimed)
        turns = self._turns(claims)
        late = [claim.id for claim, turn in zip(claims, turns, strict=True) if turn is None]
        if late:
            self._give_back(late, Status.INITIATED, _TURN_PASSED)
        orders: list[tuple[Claim, Originate]] = []
        for claim, turn in zip(claims, turns, strict=True):
            if turn is not None:
                try:
                    orders.append((claim, self._order(claim, turn)))
                except Invalid as error:  # one agent that cannot be read holds up no other call
                    self._give_back(
                        [claim.id],
                        Status.INITIATED,
                        explain(Ending(why=Verdict.REFUSED, error=str(error))),
                        disposition=Disposition.NOT_PLACED,
                        delay=ledger.PLACE_AGAIN_AFTER,
                    )
        if not orders:
            return 0
        results = self._pool.originate_many([(claim.node, order) for claim, order in orders])
        reached(Point.WORKER_SENT, claimed)
        outcomes = [(claim, result) for (claim, _), result in zip(orders, results, strict=True)]
        self._see_to_failed([(claim, result) for claim, result in outcomes if isinstance(result, AmiError)])
        self._see_to_ailing(
            {claim.node for claim, result in outcomes if claim.node_ails and isinstance(result, Accepted)}
        )
        return sum(not isinstance(result, AmiError) for result in results)

    def _turns(self, claims: Sequence[Claim]) -> list[timedelta | None]:
        """How long each has to wait in its trunk's line; None where it is to be given back."""
        try:
            return (
                self._slots.turns([(claim.trunk_id, claim.max_calls_per_second) for claim in claims]) if claims else []
            )
        except Away:
            return [None] * len(claims)

    def _order(self, claim: Claim, turn: timedelta) -> Originate:
        agent = parse_connect(claim.connect)
        longest = self._settings.longest_call
        if claim.max_call_seconds is not None:
            longest = min(longest, timedelta(seconds=claim.max_call_seconds))
        send_at = time.monotonic() + turn.total_seconds()
        return Originate(
            attempt_id=claim.id,
            endpoint=str(claim.gateway_id),
            context="trunkline-agent",
            exten=agent.kind.value,
            ring_timeout=self._settings.ring_timeout,
            longest_call=longest,
            caller_id=claim.from_number,
            variables={
                **agent.variables,
                "TL_LONGEST": str(math.ceil(longest.total_seconds())),
                "TL_FALLBACK": check_sound(claim.fallback, field="fallback") if claim.fallback else DEFAULT_FALLBACK,
            },
            mark_family=mark_family(claim.id),
            send_at=send_at,
            too_late_at=send_at + _HELD_UP.total_seconds(),
            line=str(claim.trunk_id),
            spacing=timedelta(microseconds=pace(claim.max_calls_per_second)[0]),
        )

    def _see_to_failed(self, failed: Sequence[tuple[Claim, AmiError]]) -> None:
        """Gives back what never left, and puts down to a node what it did not take."""
        by_node: dict[tuple[str, bool, str], list[UUID]] = {}
        for claim, error in failed:
            logger.warning("originate_failed", attempt=str(claim.id), node=claim.node, error=str(error))
            if isinstance(error, TooLate):
                self._give_back([claim.id], Status.INITIATED, _TURN_PASSED)
            elif isinstance(error, Unwritable) or (isinstance(error, Refused) and not error.is_nodes):
                self._give_back(
                    [claim.id],
                    Status.INITIATED,
                    explain(Ending(why=Verdict.REFUSED, error=str(error))),
                    disposition=Disposition.NOT_PLACED,
                    delay=ledger.PLACE_AGAIN_AFTER,
                )
            else:
                by_node.setdefault((claim.node, isinstance(error, MaybeSent), str(error)), []).append(claim.id)
        for (node, maybe_sent, sentence), ids in by_node.items():
            self._not_taken(node, ids, sentence, maybe_sent=maybe_sent)

    def _not_taken(self, node: str, attempt_ids: Sequence[UUID], error: str, *, maybe_sent: bool) -> None:
        """One that may have been sent is left alone: Asterisk may be dialling, the listener sees it or looks it up."""
        withdrawn: list[UUID] = []
        try:
            with self._engine.begin() as connection:
                if not maybe_sent:
                    has_other = any(other.name != node for other in nodes.live_nodes(connection))
                    withdrawn = ledger.withdraw(
                        connection,
                        attempt_ids,
                        of={Status.INITIATED},
                        explanation=explain(Ending(why=Verdict.BOOTING, error=error)),
                        delay=timedelta(0) if has_other else ledger.PLACE_AGAIN_AFTER,
                    )
                nodes.not_taken(connection, node, attempt_ids, error)
        except _AWAY as away:
            logger.warning("not_given_back", attempts=len(attempt_ids), error=_why(away))
            return
        if withdrawn:
            reached(Point.WORKER_GAVE_BACK)
            self._free(withdrawn)

    def _see_to_ailing(self, taking: Collection[str]) -> None:
        """Nodes of which something bad was known have taken an Originate; asked only then, so that a call costs nothing by it."""
        if not taking:
            return
        try:
            with self._engine.begin() as connection:
                news = nodes.taken(connection, sorted(taking))
        except _AWAY as error:
            logger.warning("not_noted", nodes=sorted(taking), error=_why(error))
            return
        if news:
            self._slots.wake()

    def _give_back_unclaimed(self, attempt_ids: Sequence[UUID]) -> None:
        """Each with what our own rows say against it."""
        try:
            with self._engine.connect() as connection:
                around = contexts.of_attempts(connection, attempt_ids)
        except _AWAY as error:  # they are queued still, and void before long
            logger.warning("not_given_back", attempts=len(attempt_ids), error=_why(error))
            return
        said: dict[str, list[UUID]] = {}
        for id, context in around.items():
            why = (
                Verdict.TRUNK_OFF if context.trunk_active is False
                else Verdict.CAMPAIGN_WAITS if context.campaign_waits
                else Verdict.VOID
            )  # fmt: skip
            said.setdefault(explain(Ending(why=why), context), []).append(id)
        for sentence, ids in said.items():
            self._give_back(ids, Status.QUEUED, sentence)

    def _give_back(
        self,
        attempt_ids: Sequence[UUID],
        status: Status,
        explanation: str,
        *,
        disposition: Disposition | None = None,
        delay: timedelta = timedelta(0),
    ) -> None:
        """What we know we never sent goes back to `scheduled`, and its slots are freed; if not now, then after a look-up."""
        try:
            with self._engine.begin() as connection:
                withdrawn = ledger.withdraw(
                    connection,
                    attempt_ids,
                    of={status},
                    explanation=explanation,
                    disposition=disposition,
                    delay=delay,
                )
        except _AWAY as error:
            logger.warning("not_given_back", attempts=len(attempt_ids), error=_why(error))
            return
        reached(Point.WORKER_GAVE_BACK)
        self._free(withdrawn)

    def _free(self, attempt_ids: Sequence[UUID]) -> None:
        try:
            self._slots.free(attempt_ids)
        except Away as error:
            logger.warning("slots_not_freed", attempts=len(attempt_ids), error=str(error))


def _why(error: Exception) -> str:
    return reason(error.orig if isinstance(error, DBAPIError) else error)
