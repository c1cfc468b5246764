"""Registered numbers: the caller IDs that a provider has given us, each on one trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.errors import Conflict, NotFound
from models.schema import calls, campaigns, phone_numbers, trunks
from scheduler.phone_numbers import e164
from scheduler.refs import Ref, is_named


@dataclass(frozen=True, kw_only=True)
class RegisteredNumber:
    id: UUID
    phone_number: str
    trunk: str
    created_at: datetime


def add(connection: Connection, phone_number: str, trunk: Ref) -> str:
    """Registers a number on a trunk; returns it as it is kept.

    Raises `Invalid` for what is no number, `NotFound` for the trunk, and `Conflict`, naming the trunk
    that has the number already.
    """
    number = e164(phone_number)
    # the trunk stays as long as this transaction
    trunk_id = connection.execute(
        select(trunks.c.id).where(is_named(trunks, trunk, kind="trunk")).with_for_update(key_share=True, read=True)
    ).scalar_one_or_none()
    if trunk_id is None:
        raise NotFound("trunk", str(trunk))
    added = connection.execute(
        insert(phone_numbers)
        .values(id=uuid_utils.compat.uuid7(), phone_number=number, trunk_id=trunk_id)
        .on_conflict_do_nothing(index_elements=[phone_numbers.c.phone_number])
        .returning(phone_numbers.c.id)
    ).first()
    if added is None:
        owner = connection.execute(
            select(trunks.c.name).join(phone_numbers).where(phone_numbers.c.phone_number == number)
        ).scalar_one_or_none()
        raise Conflict(f"phone_number: it is already registered on trunk {owner!r}: a number belongs to one trunk")
    return number


def list_all(connection: Connection) -> list[RegisteredNumber]:
    """All registered numbers by trunk."""
    rows = connection.execute(
        select(
            phone_numbers.c.id, phone_numbers.c.phone_number, trunks.c.name.label("trunk"), phone_numbers.c.created_at
        )
        .join(trunks)
        .order_by(trunks.c.name, phone_numbers.c.phone_number)
    )
    return [RegisteredNumber(**row) for row in rows.mappings()]


def remove(connection: Connection, phone_number: str) -> str:
    """Returns the number as it was kept.

    Raises `Invalid` for what is no number, `NotFound` if it is not registered, and `Conflict` while
    somebody is still to be called from it.
    """
    number = e164(phone_number)
    refuse_if_awaited(connection, [number])
    if not connection.execute(delete(phone_numbers).where(phone_numbers.c.phone_number == number)).rowcount:
        raise NotFound("phone_number", number)
    return number


def refuse_if_awaited(connection: Connection, numbers: Sequence[str]) -> None:
    """Raises `Conflict` while a campaign that is not over, or a single call, is to go out from one of the numbers.

    Their calls would wait for ever.
    """
    going_on = campaigns.c.status.not_in(["completed", "stopped"])
    campaign = connection.execute(
        select(campaigns.c.name).where(going_on, campaigns.c.from_numbers.overlap(list(numbers))).limit(1)
    ).scalar()
    if campaign is not None:
        raise Conflict(f"phone_number: campaign {campaign!r} calls from it: stop it first")
    waiting = connection.execute(
        select(func.count()).where(
            calls.c.campaign_id.is_(None), calls.c.status == "scheduled", calls.c.from_number.in_(numbers)
        )
    ).scalar_one()
    if waiting:
        raise Conflict(
            f"phone_number: {waiting} single {'call waits' if waiting == 1 else 'calls wait'} to go out from it"
        )
