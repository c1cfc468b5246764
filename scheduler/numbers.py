"""Registered numbers: the caller IDs that a provider has given us, each on one trunk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import ColumnElement, Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.errors import Conflict, NotFound
from models.schema import calls, campaigns, phone_numbers, trunks
from scheduler.fields import thing_name
from scheduler.phone_numbers import e164
from scheduler.refs import Ref, find


@dataclass(frozen=True, kw_only=True)
class RegisteredNumber:
    id: UUID
    phone_number: str
    name: str | None
    trunk_id: UUID
    trunk: str
    created_at: datetime


def add(connection: Connection, phone_number: str, trunk: Ref, *, name: str | None = None) -> RegisteredNumber:
    """Registers a number on a trunk.

    Raises `Invalid` for what is no number or no name, `NotFound` for the trunk, and `Conflict`, naming the
    trunk that has the number already.
    """
    number = e164(phone_number)
    label = thing_name(name, field="name") if name is not None else None
    # the trunk stays as long as this transaction
    stays = select(trunks.c.id, trunks.c.name).with_for_update(key_share=True, read=True)
    on = find(connection, stays, trunks, trunk)
    added = connection.execute(
        insert(phone_numbers)
        .values(id=uuid_utils.compat.uuid7(), phone_number=number, name=label, trunk_id=on.id)
        .on_conflict_do_nothing(index_elements=[phone_numbers.c.phone_number])
        .returning(phone_numbers.c.id, phone_numbers.c.created_at)
    ).first()
    if added is None:
        owner = connection.execute(
            select(trunks.c.name).join(phone_numbers).where(phone_numbers.c.phone_number == number)
        ).scalar_one_or_none()
        raise Conflict(
            f"phone_number: {number} is already registered on trunk {owner!r}: a number belongs to one trunk"
        )
    return RegisteredNumber(
        id=added.id, phone_number=number, name=label, trunk_id=on.id, trunk=on.name, created_at=added.created_at
    )


def list_all(connection: Connection, trunk_ids: Collection[UUID] | None = None) -> list[RegisteredNumber]:
    """All registered numbers, or those of some trunks, by trunk."""
    return _select(connection, *([] if trunk_ids is None else [phone_numbers.c.trunk_id.in_(trunk_ids)]))


def get(connection: Connection, trunk_id: UUID, number_id: UUID) -> RegisteredNumber:
    """A number of a trunk. Raises `NotFound`, for one of another trunk too."""
    n = phone_numbers.c
    for number in _select(connection, n.id == number_id, n.trunk_id == trunk_id):
        return number
    raise NotFound("phone_number", str(number_id))


def _select(connection: Connection, *where: ColumnElement[bool]) -> list[RegisteredNumber]:
    n = phone_numbers.c
    rows = connection.execute(
        select(n.id, n.phone_number, n.name, n.trunk_id, trunks.c.name.label("trunk"), n.created_at)
        .join(trunks)
        .where(*where)
        .order_by(trunks.c.name, n.phone_number)
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
