"""Deleting a campaign: it is gone at once, and what it had is removed piece by piece.

    campaign ──delete──▶ deleted_campaigns ──remove_deleted──▶ no calls, attempts, rejected rows ──▶ emptied
               one row                       the leader, every second

Ten million calls in one transaction would hold back every clean-up of Postgres for minutes; a leader that is killed in the
middle leaves the rest to the next one. `call_events` stay: they hold ids and statuses, of nobody in particular.
"""

from __future__ import annotations

import time
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, update

from models.errors import Conflict, WrongState
from models.schema import campaigns, deleted_campaigns
from models.statements import statement
from models.statuses import CampaignStatus
from scheduler.campaigns import lock
from scheduler.loads import remove_piece
from scheduler.refs import Ref

_DELETABLE = (CampaignStatus.READY, CampaignStatus.COMPLETED, CampaignStatus.STOPPED)
_A_TURN = 0.1  # seconds of the leader's, which has calls to grant
_PIECE = 1000  # calls, each with its attempts


def delete_campaign(connection: Connection, campaign: Ref) -> None:
    """Nobody finds it from the commit on, and its name is free.

    Raises `NotFound`; `Conflict` for one that is loading, running or paused, or of which an attempt is not over for certain.
    """
    row = lock(connection, campaign)
    if row.status not in _DELETABLE:
        raise WrongState(
            f"campaign: {row.name!r} is {row.status} and cannot be deleted: stop it first",
            state=row.status,
            needed=" or ".join(_DELETABLE),
        )
    undecided = connection.exec_driver_sql(statement("undecided_attempts"), {"campaign": row.id}).scalar_one()
    if undecided:
        calls = "1 call" if undecided == 1 else f"{undecided} calls"
        raise Conflict(
            f"campaign: is {row.status}, with {calls} still up or not known to be over: try again when they are"
        )
    connection.execute(insert(deleted_campaigns).values(id=row.id))
    connection.execute(delete(campaigns).where(campaigns.c.id == row.id))


def remove_deleted(connection: Connection) -> list[UUID]:
    """Removes what deleted campaigns had, for a moment, and says which have nothing left.

    Commits as it goes; what is left is for the next call. The connection must not be in a transaction.
    """
    d = deleted_campaigns.c
    with connection.begin():
        left = list(connection.execute(select(d.id).where(d.emptied_at.is_(None)).order_by(d.deleted_at)).scalars())
    emptied: list[UUID] = []
    deadline = time.monotonic() + _A_TURN
    while left and time.monotonic() < deadline:
        with connection.begin():
            if remove_piece(connection, left[0], _PIECE):
                continue
            connection.execute(update(deleted_campaigns).where(d.id == left[0]).values(emptied_at=func.now()))
        emptied.append(left.pop(0))
    return emptied
