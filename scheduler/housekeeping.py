"""What the leader does every second beside granting, each a small statement on its own.

- publishes again what stayed queued (a message may be lost), withdraws what stayed queued for 30 s;
- pauses the campaigns of agents that are down (`scheduler.agent_watch`);
- folds the counts of `campaign_status`, completes campaigns whose calls are all final;
- audits the slots against the ledger, removes uploads whose loader died, makes the next partition.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection

from models import ledger, repairs
from models.explanations import Ending, Verdict, explain
from models.outcome import Disposition
from models.points import Point, reached
from models.repairs import Repair
from models.slots import CANCEL_LINGERS, LeaderSlots, held_keys, line_key, rate_key
from models.statements import statement
from models.statuses import Status
from scheduler.agent_watch import pause_for_dead_agents
from scheduler.loads import remove_dead_loads

logger = structlog.get_logger(__name__)

_EVERY = 1.0  # seconds
_AUDIT_EVERY = 5.0
_HOURLY = 3600.0
_UNCLAIMED_FOR = timedelta(seconds=5)
_FREED_WITHIN = timedelta(seconds=2)
_KEEP_CEL = timedelta(days=7)
_MOST_AT_ONCE = 10_000
STOPPED = explain(Ending(why=Disposition.CANCELED))


def cancel_scheduled(connection: Connection, campaign_id: UUID) -> int:
    """One step of canceling what a stopped campaign had still to call; returns how many, 0 when there are no more."""
    with connection.begin():
        rows = connection.exec_driver_sql(
            statement("cancel_scheduled"), {"campaign": campaign_id, "most": _MOST_AT_ONCE, "explanation": STOPPED}
        )
        return rows.rowcount


class Housekeeping:
    """Writes through the connection that holds the leader's role."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next = self._next_audit = self._next_hourly = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def audit_is_due(self, now: float) -> bool:
        return now >= self._next_audit

    def keep(self, now: float) -> list[UUID]:
        """Returns the attempts whose slots are to be freed."""
        self._next = now + _EVERY
        void = [*self._withdraw_void_grants(), *pause_for_dead_agents(self._connection)]
        with self._connection.begin():
            self._connection.exec_driver_sql(statement("fold_counts"))
        with self._connection.begin():
            self._complete_campaigns()
            stopped = list(self._connection.exec_driver_sql(statement("stopped_campaigns")).scalars())
        for campaign_id in stopped:  # what came back after the stop, or was left by a stop that died
            cancel_scheduled(self._connection, campaign_id)
        for name in remove_dead_loads(self._connection):
            logger.warning("dead_upload_removed", campaign=name)
        if now >= self._next_hourly:
            self._next_hourly = now + _HOURLY
            self.ensure_event_partitions()
        if void:
            logger.warning("grants_taken_back", attempts=len(void))
        return void

    def _complete_campaigns(self) -> None:
        done = list(self._connection.exec_driver_sql(statement("lock_done_campaigns")).scalars())
        if done:
            for name in self._connection.exec_driver_sql(statement("complete_campaigns"), {"ids": done}).scalars():
                logger.info("campaign_completed", campaign=name)

    def _withdraw_void_grants(self) -> list[UUID]:
        with self._connection.begin():
            void = self._connection.exec_driver_sql(
                statement("void_grants"), {"void_after": ledger.VOID_AFTER}
            ).scalars()
            withdrawn = ledger.withdraw(
                self._connection,
                list(void),
                of={Status.QUEUED},
                explanation=explain(Ending(why=Verdict.UNCLAIMED)),
            )
            repairs.count(self._connection, {Repair.GRANT_VOIDED: len(withdrawn)})
            return withdrawn

    def rebuild(self, slots: LeaderSlots) -> None:
        """Makes the slots what the ledger says. Raises SlotsError."""
        holders, suspect_rates = self.holders(), self._suspect_rates()
        reached(Point.LEADER_REBUILDS)
        slots.rebuild(holders, suspect_rates)
        with self._connection.begin():
            repairs.count(self._connection, {Repair.SLOTS_REBUILT: 1})
        logger.info("slots_rebuilt", held=len(holders))

    def audit(self, slots: LeaderSlots, now: float) -> None:
        """Mends what Redis and the ledger disagree on. Raises SlotsError."""
        self._next_audit = now + _AUDIT_EVERY
        with self._connection.begin():
            self._connection.exec_driver_sql(statement("forget_old_cel"), {"keep": _KEEP_CEL, "most": _MOST_AT_ONCE})
        holders = self.holders()
        reached(Point.LEADER_AUDITS)
        mended = slots.audit(holders)
        let_go = self._let_go(mended.young)
        slots.free(let_go, linger=CANCEL_LINGERS)
        counts = {
            Repair.LEASE_PUT_BACK: mended.put_back,
            Repair.LEASE_FREED: mended.freed + len(let_go),
            Repair.LEASE_EXPIRED: mended.expired,
        }
        if any(counts.values()):
            logger.warning("slots_mended", **{repair.name.lower(): times for repair, times in counts.items()})
            with self._connection.begin():
                repairs.count(self._connection, counts)

    def _let_go(self, held: Sequence[UUID]) -> list[UUID]:
        """Which of these attempts hold no slot in the ledger, and have not just ended."""
        if not held:
            return []
        with self._connection.begin():
            return list(
                self._connection.exec_driver_sql(
                    statement("let_go"), {"ids": list(held), "since": _FREED_WITHIN}
                ).scalars()
            )

    def holders(self) -> Sequence[tuple[UUID, str]]:
        """The attempts that hold a slot, with its keys."""
        with self._connection.begin():
            return [
                (
                    row.id,
                    held_keys(trunk_id=row.trunk_id, node=row.node, campaign_id=row.campaign_id, agent_id=row.agent_id),
                )
                for row in self._connection.exec_driver_sql(statement("open_attempts"))
            ]

    def _suspect_rates(self) -> list[str]:
        """The rates that were used in the last second: Redis may have forgotten it."""
        with self._connection.begin():
            since = UUID(int=(int(time.time() * 1000) - 60_000) << 80)  # version 7: ids are in the order of time
            trunks = self._connection.exec_driver_sql(statement("just_granted_trunks"), {"since": since}).scalars()
            return [key for trunk_id in trunks for key in (rate_key("trunk", trunk_id), line_key(trunk_id))]

    def unclaimed(self, unclaimed_for: timedelta = _UNCLAIMED_FOR) -> list[UUID]:
        """Attempts to be published again; at once all that are queued when Redis, or a leader before us, may have lost them."""
        with self._connection.begin():
            again = list(
                self._connection.exec_driver_sql(
                    statement("sweep_lost"), {"unclaimed_for": unclaimed_for, "void_after": ledger.VOID_AFTER}
                ).scalars()
            )
            repairs.count(self._connection, {Repair.TASK_PUBLISHED_AGAIN: len(again)})
        if again:
            logger.warning("published_again", attempts=len(again))
        return again

    def ensure_event_partitions(self) -> None:
        """Before anything is written: what has gone to the default partition cannot be parted from it any more."""
        with self._connection.begin():
            self._connection.exec_driver_sql("SELECT ensure_event_partitions()")
