"""Campaigns as the HTTP API shows them, where they are called batches: page by page, and the calls of one likewise.

A page starts after the last thing of the one before, on an index: what is added or removed meanwhile moves nothing, and the
last page of ten million comes as fast as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select

from models.errors import Invalid, NotFound
from models.schema import agents, calls, campaign_status, campaigns
from models.statements import statement
from models.statuses import CampaignStatus, Status
from scheduler.campaigns import campaign_id
from scheduler.refs import find

_MOST_LOOKED_AT = 20_000
_AS_IN_THE_LEDGER = (
    "name", "agent_id", "pause_reason", "created_at", "updated_at", "scheduled_at", "started_at", "ended_at",
    "max_concurrent_calls", "file_name", "rejected", "duplicate", "suppressed", "webhook_url", "retry_config",
    "bypass_call_guardrails",
)  # fmt: skip
_COUNTED = [status for status in Status if status is not Status.WITHDRAWN]


@dataclass(frozen=True, kw_only=True)
class CallsPage:
    """Calls, and where the next page goes on; None at the end."""

    ids: Sequence[UUID]
    next: UUID | None


def get(connection: Connection, batch_id: UUID) -> dict[str, Any]:
    """A batch with its counts. Raises `NotFound`."""
    rows = _shown(connection, [batch_id])
    if not rows:
        raise NotFound("campaign", str(batch_id))
    return rows[0]


def page(
    connection: Connection, *, agent_id: UUID | None = None, before: UUID | None = None, limit: int
) -> list[dict[str, Any]]:
    """Batches, the newest first: their ids are in the order of time. Raises `NotFound` where there is no such agent."""
    query = select(campaigns.c.id).order_by(campaigns.c.id.desc()).limit(limit)
    if agent_id is not None:
        find(connection, select(agents.c.id), agents, agent_id)
        query = query.where(campaigns.c.agent_id == agent_id)
    if before is not None:
        query = query.where(campaigns.c.id < before)
    return _shown(connection, list(connection.execute(query).scalars()))


def calls_page(
    connection: Connection, batch_id: UUID, *, status: Status | None, after: UUID | None, limit: int
) -> CallsPage:
    """Calls by phone number, after a call. It may have fewer than `limit`, or none, and still be followed by others.

    Raises `NotFound`, and `Invalid` where `after` is no call of the batch.
    """
    campaign_id(connection, batch_id)
    number: str | None = ""
    if after is not None:
        of = calls.select().with_only_columns(calls.c.phone_number)
        number = connection.scalar(of.where(calls.c.id == after, calls.c.campaign_id == batch_id))
    if number is None:
        raise Invalid("cursor", "must be the `next_cursor` of a page of this batch")
    look = limit + 1 if status is None else _MOST_LOOKED_AT
    values = {"campaign": batch_id, "after": number, "status": status, "look": look, "most": limit + 1}
    row = connection.exec_driver_sql(statement("page_of_calls"), values).one()
    if len(row.ids) > limit:
        return CallsPage(ids=row.ids[:limit], next=row.ids[limit - 1])
    return CallsPage(ids=row.ids, next=row.last if row.looked == look else None)


def _shown(connection: Connection, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    own = [column for column in campaigns.c if column.name != "updated_at"]
    counts = [column for column in campaign_status.c if column.name not in {own_one.name for own_one in own}]
    rows = connection.execute(
        select(*own, *counts)
        .join(campaign_status, campaign_status.c.campaign_id == campaigns.c.id)
        .where(campaigns.c.id.in_(ids))
        .order_by(campaigns.c.id.desc())
    ).mappings()
    return [_batch(row) for row in rows]


def _batch(row: RowMapping) -> dict[str, Any]:
    waits = row["status"] == CampaignStatus.READY and row["scheduled_at"] is not None
    return {
        "batch_id": row["id"],
        "from_phone_numbers": row["from_numbers"],
        "total_contacts": row["rows"],
        "valid_contacts": row["accepted"],
        "execution_status": {status.value: row[status.value.replace("-", "_")] for status in _COUNTED},
        **{name: row[name] for name in _AS_IN_THE_LEDGER},
        "status": "scheduled" if waits else row["status"],
    }
