"""Keys of the HTTP API: shown once when they are made, kept as a hash, looked up anew at every request.

A key is 256 random bits, so there is nothing to guess and nothing to slow down: SHA-256 is enough (a password would need more).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, RowMapping, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.errors import Conflict, Invalid, NotFound
from models.schema import api_keys
from scheduler.fields import thing_name

PREFIX = "trunkline_"  #: what scanners for leaked secrets know a key by
_USE_NOTED_EVERY = timedelta(minutes=1)
_SHOWN = [column for column in api_keys.c if column.name != "sha256"]


class Scope(StrEnum):
    """What a key may do; each includes those before it."""

    READ = "read"
    CALL = "call"  #: calls and batches
    ADMIN = "admin"  #: trunks, numbers and agents too

    def includes(self, other: Scope) -> bool:
        return list(Scope).index(self) >= list(Scope).index(other)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key as it may be shown: without itself."""

    id: UUID
    name: str
    scope: Scope
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def create(connection: Connection, name: str, scope: str) -> str:
    """Returns the key, which nobody can be shown again. Raises `Invalid`, and `Conflict` for a name that is taken."""
    thing_name(name, field="name")
    if scope not in set(Scope):
        raise Invalid("scope", f"must be one of {', '.join(Scope)}")
    key = PREFIX + secrets.token_urlsafe(32)
    made = connection.execute(
        insert(api_keys)
        .values(id=uuid_utils.compat.uuid7(), name=name, scope=scope, sha256=sha256_of(key))
        .on_conflict_do_nothing(index_elements=[api_keys.c.name])
        .returning(api_keys.c.id)
    ).first()
    if made is None:
        raise Conflict(f"name: there is already a key {name!r}: choose another name")
    return key


def find(connection: Connection, key: str) -> Key | None:
    """Whose key this is; None for one that was never made, or is revoked. Notes when it was used, to the minute."""
    k = api_keys.c
    is_to_be_noted = or_(k.last_used_at.is_(None), k.last_used_at < func.now() - _USE_NOTED_EVERY)
    asked = select(*_SHOWN, is_to_be_noted.label("is_to_be_noted"))
    row = connection.execute(asked.where(k.sha256 == sha256_of(key), k.revoked_at.is_(None))).mappings().one_or_none()
    if row is None:
        return None
    if row["is_to_be_noted"]:
        connection.execute(update(api_keys).where(k.id == row["id"], is_to_be_noted).values(last_used_at=func.now()))
    return _key(row)


def list_all(connection: Connection) -> list[Key]:
    """All keys by name, those that are revoked too."""
    rows = connection.execute(select(*_SHOWN).order_by(api_keys.c.name))
    return [_key(row) for row in rows.mappings()]


def revoke(connection: Connection, name: str) -> None:
    """From its next request on the key is refused. Revoking it again changes nothing. Raises `NotFound`."""
    thing_name(name, field="name")
    revoked = connection.execute(
        update(api_keys)
        .where(api_keys.c.name == name)
        .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
    )
    if not revoked.rowcount:
        raise NotFound("key", name)


def _key(row: RowMapping) -> Key:
    return Key(**{column.name: row[column.name] for column in _SHOWN} | {"scope": Scope(row["scope"])})


def sha256_of(key: str) -> bytes:
    """What the ledger knows a key by."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
