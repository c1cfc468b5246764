"""Idempotency-Key: who asks again because no answer came gets the answer of the first time, and nothing is made twice.

The answer is not kept: it follows from the thing that was made, whose id is. A key is kept in the transaction that makes the
thing, so that a request that was refused leaves it free. It is its API key's own, and is forgotten after a day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.errors import Invalid
from models.schema import deleted_campaigns, idempotency_keys

KEPT_FOR = timedelta(days=1)
_FIELD = "Idempotency-Key"
_LONGEST = 255


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked, by whom, under which key."""

    api_key_id: UUID
    key: str
    sha256: bytes

    @classmethod
    def of(cls, api_key_id: UUID, key: str, what: str, body: Mapping[str, Any]) -> Asked:
        """`what` is the request's line, `body` what it holds, a file by its hash. Raises `Invalid` for a key that is none."""
        if not 1 <= len(key) <= _LONGEST or not key.isascii() or not key.isprintable():
            raise Invalid(_FIELD, f"must be 1 to {_LONGEST} printable ASCII characters")
        text = json.dumps([what, body], sort_keys=True, default=str)
        return cls(api_key_id=api_key_id, key=key, sha256=hashlib.sha256(text.encode()).digest())


def thing_for(connection: Connection, asked: Asked, new_id: UUID) -> UUID:
    """`new_id` if this is asked for the first time, which is kept from the commit on; otherwise the id of that time.

    Two that ask at once take turns: the second waits for the first one's commit. Raises `Invalid` where the key was used for
    something else.
    """
    i = idempotency_keys.c
    row = connection.execute(
        insert(idempotency_keys)
        .values(api_key_id=asked.api_key_id, key=asked.key, sha256=asked.sha256, thing_id=new_id)
        .on_conflict_do_update(index_elements=[i.api_key_id, i.key], set_={"sha256": i.sha256})  # nobody forgets it now
        .returning(i.thing_id, i.sha256)
    ).one()
    return _thing(asked, row)


def known_thing(connection: Connection, asked: Asked) -> UUID | None:
    """The id of the time before, if there was one; keeps nothing. Raises as `thing_for`."""
    row = connection.execute(
        select(idempotency_keys.c.thing_id, idempotency_keys.c.sha256).where(_is_of(asked))
    ).one_or_none()
    return None if row is None else _thing(asked, row)


def forget(connection: Connection, asked: Asked, thing_id: UUID) -> None:
    """The key is free again: nothing was made under it."""
    connection.execute(delete(idempotency_keys).where(_is_of(asked), idempotency_keys.c.thing_id == thing_id))


def forget_old(connection: Connection) -> None:
    """For the leader, every hour: keys, and the deleted campaigns that they may name."""
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < func.now() - KEPT_FOR))
    gone = deleted_campaigns.c
    connection.execute(delete(deleted_campaigns).where(gone.emptied_at < func.now() - KEPT_FOR))


def _is_of(asked: Asked) -> ColumnElement[bool]:
    return and_(idempotency_keys.c.api_key_id == asked.api_key_id, idempotency_keys.c.key == asked.key)


def _thing(asked: Asked, row: Row[UUID, bytes]) -> UUID:
    if row.sha256 != asked.sha256:
        raise Invalid(_FIELD, "was used before with another body: use a new key for a new request")
    thing_id: UUID = row.thing_id
    return thing_id
