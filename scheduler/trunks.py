"""Trunks in the ledger. Asterisk reads them from there through views: each write works at once.

Every function takes a connection inside a transaction of the caller's. Credentials go in and never
come out: the services' role may not even select them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat
from pydantic import SecretStr
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from models.errors import Conflict, Invalid, NotFound
from models.schema import attempts, phone_numbers, trunk_credentials, trunk_gateways, trunks
from models.statuses import OPEN, Status
from scheduler import numbers
from scheduler.phone_numbers import country_code
from scheduler.refs import Ref, find, is_named
from scheduler.trunk_fields import Gateway, TrunkCreate, TrunkUpdate

__all__ = [
    "Gateway",
    "Trunk",
    "TrunkCreate",
    "TrunkUpdate",
    "create",
    "delete",
    "get",
    "list_all",
    "prefixes",
    "set_active",
    "update",
]

_CREDENTIALS = ("auth_username", "auth_password")


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A trunk as it may be shown: all but its credentials."""

    id: UUID
    name: str
    provider: str | None
    description: str | None
    auth_type: str
    gateways: tuple[Gateway, ...]  #: in the order they are tried
    phone_numbers: tuple[str, ...]
    ip_identifiers: tuple[str, ...]
    allow: str
    disallow: str
    transport: str
    direct_media: bool
    rtp_symmetric: bool
    force_rport: bool
    media_encryption: str
    media_encryption_optimistic: bool
    qualify_frequency: int
    inbound_enabled: bool
    outbound_leading_plus_enabled: bool
    is_active: bool
    max_concurrent_calls: int
    max_calls_per_second: float
    allowed_prefixes: tuple[str, ...] | None
    from_user: str | None
    from_domain: str | None
    contact_user: str | None
    send_pai: bool
    created_at: datetime
    updated_at: datetime


def create(connection: Connection, new: TrunkCreate) -> Trunk:
    """Raises `Invalid` for fields that do not go together, `Conflict` for a name or a number that is taken."""
    _check_together(new.model_dump())
    if new.auth_type == "userpass":
        for field in _CREDENTIALS:
            if getattr(new, field) is None:
                raise Invalid(field, "is missing: auth_type userpass needs both auth_username and auth_password")
    if connection.execute(select(trunks.c.id).where(trunks.c.name == new.name)).first():
        raise _taken(new.name)
    try:
        trunk_id = connection.execute(
            trunks.insert().values(id=uuid_utils.compat.uuid7(), **_columns(new.model_dump())).returning(trunks.c.id)
        ).scalar_one()
    except IntegrityError as error:  # somebody else's was quicker
        raise _taken(new.name) from error
    _write_gateways(connection, trunk_id, new.gateways)
    _write_credentials(connection, trunk_id, new)
    for number in sorted(
        new.phone_numbers, key=lambda one: one.phone_number
    ):  # two who want the same ones wait in turn
        numbers.add(connection, number.phone_number, trunk_id, name=number.name)
    return get(connection, trunk_id)


def get(connection: Connection, trunk: Ref) -> Trunk:
    """Raises `NotFound`."""
    found = _select(connection, is_named(trunks, trunk))
    if not found:
        raise NotFound("trunk", str(trunk))
    return found[0]


def list_all(connection: Connection, *, is_active: bool | None = None) -> list[Trunk]:
    """All trunks by name, or those that are on, or off."""
    return _select(connection, *([] if is_active is None else [trunks.c.is_active.is_(is_active)]))


def update(connection: Connection, trunk: Ref, change: TrunkUpdate) -> Trunk:
    """Changes what was given and nothing else. A gateway that stays keeps its id, and so its calls.

    Raises `NotFound`, `Conflict` for a name that is taken, and `Invalid`: a field that cannot be empty,
    or fields that would not go together.
    """
    trunk_id, _ = _lock(connection, trunk)
    given = change.model_dump(include=change.model_fields_set)
    for field, new in given.items():
        if new is None and field not in _CREDENTIALS and field != "gateways" and not trunks.c[field].nullable:
            raise Invalid(field, "must have a value")
    old = connection.execute(select(trunks).where(trunks.c.id == trunk_id)).mappings().one()
    after = {**old, **given}
    _check_together(after)
    if after["auth_type"] == "userpass":
        there = _has_credentials(connection, trunk_id)
        for field in _CREDENTIALS:
            if given.get(field) is None and (field in given or not there):
                raise Invalid(field, "is missing: auth_type userpass needs both auth_username and auth_password")
    try:
        connection.execute(
            trunks.update().where(trunks.c.id == trunk_id).values({**_columns(given), "updated_at": func.now()})
        )
    except IntegrityError as error:
        raise _taken(after["name"]) from error
    if change.gateways:
        _write_gateways(connection, trunk_id, change.gateways)
    if after["auth_type"] == "ip-based":
        connection.execute(trunk_credentials.delete().where(trunk_credentials.c.trunk_id == trunk_id))
    else:
        _write_credentials(connection, trunk_id, change)
    return get(connection, trunk_id)


def set_active(connection: Connection, trunk: Ref, active: bool) -> None:
    """Switches a trunk on or off; off stops the very next call. Raises `NotFound`."""
    trunk_id, _ = _lock(connection, trunk)
    connection.execute(trunks.update().where(trunks.c.id == trunk_id).values(is_active=active, updated_at=func.now()))


def delete(connection: Connection, trunk: Ref) -> int:
    """Removes a trunk with its gateways, credentials and numbers; returns how many numbers it had.

    Raises `NotFound`, and `Conflict` while attempts are open on it (an end that is seen later could not
    be told from somebody else's) or somebody is still to be called from one of its numbers.
    """
    trunk_id, name = _lock(connection, trunk)
    still = connection.execute(
        select(func.count()).select_from(attempts).where(attempts.c.trunk_id == trunk_id, _holds_a_slot())
    ).scalar_one()
    if still:
        raise Conflict(
            f"trunk: {name!r} has {still} open {'call' if still == 1 else 'calls'}:"
            " switch it off, and delete it when they are over"
        )
    registered = select(phone_numbers.c.phone_number).where(phone_numbers.c.trunk_id == trunk_id)
    theirs = connection.execute(registered).scalars().all()
    numbers.refuse_if_awaited(connection, theirs)
    connection.execute(trunks.delete().where(trunks.c.id == trunk_id))
    return len(theirs)


def prefixes(connection: Connection, trunk_id: UUID) -> tuple[str, ...]:
    """What the numbers called through a trunk have to start with; see `phone_numbers.allowed`."""
    own = connection.execute(select(trunks.c.allowed_prefixes).where(trunks.c.id == trunk_id)).scalar_one_or_none()
    if own is not None:
        return tuple(own)
    registered = connection.execute(select(phone_numbers.c.phone_number).where(phone_numbers.c.trunk_id == trunk_id))
    return tuple(sorted({country_code(number) for number in registered.scalars()}))


def _select(connection: Connection, *where: ColumnElement[bool]) -> list[Trunk]:
    rows = connection.execute(select(trunks).where(*where).order_by(trunks.c.name)).mappings().all()
    ids = [row["id"] for row in rows]
    gateways: dict[UUID, list[Gateway]] = {trunk_id: [] for trunk_id in ids}
    g = trunk_gateways.c
    for gateway in connection.execute(
        select(g.trunk_id, g.gateway_address, g.port, g.priority).where(g.trunk_id.in_(ids)).order_by(g.priority, g.id)
    ):
        gateways[gateway.trunk_id].append(
            Gateway(gateway_address=gateway.gateway_address, port=gateway.port, priority=gateway.priority)
        )
    theirs: dict[UUID, list[str]] = {trunk_id: [] for trunk_id in ids}
    n = phone_numbers.c
    for number in connection.execute(
        select(n.trunk_id, n.phone_number).where(n.trunk_id.in_(ids)).order_by(n.phone_number)
    ):
        theirs[number.trunk_id].append(number.phone_number)
    return [
        Trunk(
            **{
                **row,
                "ip_identifiers": tuple(row["ip_identifiers"]),
                "allowed_prefixes": None if row["allowed_prefixes"] is None else tuple(row["allowed_prefixes"]),
            },
            gateways=tuple(gateways[row["id"]]),
            phone_numbers=tuple(theirs[row["id"]]),
        )
        for row in rows
    ]


def _lock(connection: Connection, trunk: Ref) -> tuple[UUID, str]:
    """Its id and its name."""
    found = find(connection, select(trunks.c.id, trunks.c.name).with_for_update(), trunks, trunk)
    return found.id, found.name


def _check_together(fields: Mapping[str, Any]) -> None:
    if fields["media_encryption"] == "sdes" and fields["transport"] != "transport-tls":
        raise Invalid("media_encryption", "sdes needs TLS: set transport to transport-tls, or media_encryption to no")
    if fields["auth_type"] == "ip-based":
        for field in _CREDENTIALS:
            if fields.get(field) is not None:
                raise Invalid(field, "does not go with auth_type ip-based: leave it out, or use auth_type userpass")
    addresses = [(gateway["gateway_address"].lower(), gateway["port"]) for gateway in fields.get("gateways") or ()]
    if len(set(addresses)) != len(addresses):
        raise Invalid("gateways", "must be different: one is there twice")
    numbered = [number["phone_number"] for number in fields.get("phone_numbers") or ()]
    if len(set(numbered)) != len(numbered):
        raise Invalid("phone_numbers", "must be different: one is there twice")


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are columns of `trunks`, with lists as psycopg wants them."""
    return {field: list(new) if isinstance(new, tuple) else new for field, new in fields.items() if field in trunks.c}


def _write_gateways(connection: Connection, trunk_id: UUID, gateways: Sequence[Gateway]) -> None:
    g = trunk_gateways.c
    there = {
        (row.gateway_address, row.port): row.id
        for row in connection.execute(select(g.id, g.gateway_address, g.port).where(g.trunk_id == trunk_id))
    }
    for gateway in gateways:
        gateway_id = there.pop((gateway.gateway_address, gateway.port), None)
        if gateway_id is None:
            connection.execute(
                trunk_gateways.insert().values(id=uuid_utils.compat.uuid7(), trunk_id=trunk_id, **gateway.model_dump())
            )
        else:
            connection.execute(trunk_gateways.update().where(g.id == gateway_id).values(priority=gateway.priority))
    connection.execute(trunk_gateways.delete().where(g.id.in_(there.values())))


def _has_credentials(connection: Connection, trunk_id: UUID) -> bool:
    c = trunk_credentials.c
    return connection.execute(select(c.trunk_id).where(c.trunk_id == trunk_id)).first() is not None


def _write_credentials(connection: Connection, trunk_id: UUID, fields: TrunkCreate | TrunkUpdate) -> None:
    new = {
        field: secret.get_secret_value()
        for field in _CREDENTIALS
        if isinstance(secret := getattr(fields, field), SecretStr)
    }
    if not new:
        return
    if _has_credentials(connection, trunk_id):
        c = trunk_credentials.c
        connection.execute(trunk_credentials.update().where(c.trunk_id == trunk_id).values(new))
    else:
        connection.execute(trunk_credentials.insert().values(trunk_id=trunk_id, **new))


def _holds_a_slot() -> ColumnElement[bool]:
    """As `open_attempts.sql` has it."""
    a = attempts.c
    return or_(
        a.status.in_(sorted(OPEN)),
        and_(a.status == Status.UNKNOWN, a.hold_until > func.now()),
        and_(a.status == Status.WITHDRAWN, a.hold_until.is_not(None)),
        a.hands_over,
    )


def _taken(name: str) -> Conflict:
    return Conflict(f"name: there is already a trunk {name!r}: choose another name, or change that one")
