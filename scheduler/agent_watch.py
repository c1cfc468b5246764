"""A campaign whose agent is down pauses itself instead of burning its list.

    calls answered that do not reach the agent ──▶ agent_health counts them, in a row (models/ledger)
    three in a row ──▶ nothing more is granted (sql/running_campaigns), and within a second each of its
                       running campaigns is paused, with the reason, and what was queued goes back
    campaign resume ──▶ the count begins anew

Calls that were on their way by then are lost to it: their phones ring already, and who answers hears
the fallback. Claims in a worker's hand go through as well: nobody waits for this pause to have returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row

from models import ledger
from models.explanations import Ending, Verdict, explain
from models.statements import statement
from models.statuses import CampaignStatus, Status

logger = structlog.get_logger(__name__)

UNREACHED_LIMIT = 3
"""So many calls in a row that were answered and did not reach it: the agent is down."""


def pause_for_dead_agents(connection: Connection) -> list[UUID]:
    """Pauses the running campaigns of agents that are down; returns the attempts whose slots are to be freed."""
    with connection.begin():
        # locked: from here on no claim of theirs goes through
        down = connection.exec_driver_sql(statement("campaigns_of_dead_agents"), {"limit": UNREACHED_LIMIT}).all()
        queued = [attempt_id for campaign in down for attempt_id in _pause(connection, campaign)]
        return ledger.withdraw(
            connection,
            queued,
            of={Status.QUEUED},
            explanation=explain(Ending(why=Verdict.AGENT_DOWN)),
        )


def _pause(connection: Connection, campaign: Row[tuple[object, ...]]) -> Sequence[UUID]:
    """Returns what is queued of it."""
    reason = (
        f"Its agent {campaign.agent} is down: {campaign.failures} calls in a row were answered and did not reach"
        f" {campaign.connect}. See that it runs there, then resume the campaign."
    )
    connection.exec_driver_sql(
        "UPDATE campaigns SET status = %(paused)s, pause_reason = %(reason)s, updated_at = now() WHERE id = %(id)s",
        {"paused": CampaignStatus.PAUSED.value, "reason": reason, "id": campaign.id},
    )
    logger.warning("campaign_paused", campaign=campaign.name, agent=campaign.agent, failures=campaign.failures)
    return (
        connection.exec_driver_sql(
            statement("campaign_attempts"), {"campaign": campaign.id, "statuses": [Status.QUEUED.value]}
        )
        .scalars()
        .all()
    )
