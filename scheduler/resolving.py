"""Calls whose fate cannot be known, and what an operator decides on them: call again, or leave.

the nodes are asked which of them are up   (whoever talks is not called again, and keeps the slot)
  → campaigns, attempts and calls locked, and those written that are unknown still
  → their slots freed, the leader woken

A call that is made again may be the second one that the person gets: that its Asterisk has no channel says nothing of
what the carrier still has up from before that Asterisk died. This is why it is an operator's to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row

from asterisk.pool import AmiError, AmiPool
from asterisk.reconcile import longest_attempt
from models import ledger
from models.database import NEVER_IDLE, open_engine, readable_errors
from models.errors import Conflict, NotFound
from models.settings import Settings
from models.slots import Away, Slots
from models.statements import statement
from models.statuses import CampaignStatus, Status
from scheduler.campaigns import campaign_id
from scheduler.presence import open_redis
from scheduler.refs import Ref


class Decision(StrEnum):
    CALL_AGAIN = "call-again"
    LEAVE = "leave"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What was done with unknown calls."""

    called_again: int = 0
    left: int = 0
    still_up: int = 0  #: left alone, since they are up: their end will be seen
    not_known: int = 0  #: left alone, since they may be up: their node does not answer
    ask_again_at: datetime | None = None  #: from then on none of these can be up any more, whatever the node says


def resolve(
    settings: Settings, decision: Decision, *, campaign: Ref | None = None, calls: Sequence[UUID] | None = None
) -> Resolved:
    """Carries out an operator's decision on the unknown calls of a campaign, or on some calls, of campaigns or single.

    `call again` has them dialled as soon as there is a slot; a campaign that was completed runs again. `leave` keeps them
    unknown, and releases their slots. May be asked for again, and with the other decision.

    Raises NotFound; Conflict for one of `calls` that is not unknown, and for calling again in a campaign that is stopped;
    Unavailable when Postgres does not answer.
    """
    engine = open_engine(settings, "trunkline-operator", pool_size=1, options=NEVER_IDLE)
    slots = Slots(open_redis(settings))
    try:
        with readable_errors():
            unknown = _find(engine, decision, campaign, calls)
            live, silent = _ask(settings, unknown)
            longest = longest_attempt(settings)
            over_at = {row.id: row.initiated_at + longest for row in unknown if row.node in silent}
            with engine.begin() as connection:
                now = ledger.now(connection)
                not_known = [id for id, at in over_at.items() if at > now and decision is Decision.CALL_AGAIN]
                ids = {row.id for row in unknown} - live - set(not_known)
                resolved = _write(connection, decision, [row for row in unknown if row.id in ids])
    finally:
        engine.dispose()
    with suppress(Away):  # the leader looks by itself, and its audit frees them
        slots.free(resolved)
    slots.wake()
    again = decision is Decision.CALL_AGAIN
    return Resolved(
        called_again=len(resolved) if again else 0,
        left=0 if again else len(resolved),
        still_up=len(live),
        not_known=len(not_known),
        ask_again_at=max((over_at[id] for id in not_known), default=None),
    )


def _find(engine: Engine, decision: Decision, campaign: Ref | None, calls: Sequence[UUID] | None) -> list[Row[Any]]:
    """The unknown calls that are meant. Raises as `resolve` does."""
    with engine.begin() as connection:
        of_campaign = campaign_id(connection, campaign) if campaign is not None else None
        for call_id in calls or ():
            status = connection.exec_driver_sql(
                "SELECT status FROM calls WHERE id = %(id)s AND (%(of)s::uuid IS NULL OR campaign_id = %(of)s::uuid)",
                {"id": call_id, "of": of_campaign},
            ).scalar_one_or_none()
            if status is None:
                raise NotFound("call", str(call_id))
            if status != Status.UNKNOWN:
                raise Conflict(f"call: {call_id} is {status}, and only an unknown one is to be decided on")
        rows = connection.exec_driver_sql(
            statement("unknown_calls"),
            {"campaign": of_campaign, "calls": list(calls) if calls is not None else None},
        ).all()
        if decision is Decision.CALL_AGAIN:
            _lock_campaigns(connection, rows)  # refused before any node is asked
    return list(rows)


def _ask(settings: Settings, unknown: Sequence[Row[Any]]) -> tuple[set[UUID], set[str]]:
    """Which attempts have a channel now, and which nodes do not say."""
    live: set[UUID] = set()
    silent: set[str] = set()
    with AmiPool(settings.nodes) as pool:
        for node in sorted({row.node for row in unknown}):
            try:
                channels = pool.channels(node)
            except AmiError:
                silent.add(node)
            else:
                live |= {row.id for row in unknown if row.node == node and str(row.id) in channels}
    return live, silent


def _write(connection: Connection, decision: Decision, unknown: Sequence[Row[Any]]) -> list[UUID]:
    ids = [row.id for row in unknown]
    if decision is Decision.LEAVE:
        return ledger.leave(connection, ids)
    completed = [row.id for row in _lock_campaigns(connection, unknown) if row.status == CampaignStatus.COMPLETED]
    again = ledger.call_again(connection, ids)
    called = {row.campaign_id for row in unknown if row.id in set(again)}
    connection.exec_driver_sql(
        "UPDATE campaigns SET status = 'running', ended_at = NULL, updated_at = now() WHERE id = ANY (%(ids)s::uuid[])",
        {"ids": [id for id in completed if id in called]},
    )
    return again


def _lock_campaigns(connection: Connection, unknown: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """The campaigns of these calls; nobody completes or stops one from now on. Raises Conflict for one that is stopped."""
    campaigns = connection.exec_driver_sql(
        statement("lock_campaigns"), {"ids": list({row.campaign_id for row in unknown if row.campaign_id})}
    ).all()
    for campaign in campaigns:
        if campaign.status == CampaignStatus.STOPPED:
            raise Conflict(
                f"campaign: {campaign.name!r} is stopped, and none of its calls is made any more: leaving them"
                " releases their slots"
            )
    return campaigns
