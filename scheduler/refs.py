"""How a thing of ours is named: by its id over HTTP, by its name on the command line."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, Table

from models.errors import NotFound
from scheduler.fields import thing_name

Ref = UUID | str


def is_named(table: Table, ref: Ref) -> ColumnElement[bool]:
    """The condition that picks the thing. Raises `Invalid` for a name that none can have."""
    if isinstance(ref, UUID):
        condition: ColumnElement[bool] = table.c.id == ref
    else:
        condition = table.c.name == thing_name(ref, field=_kind(table))
    return condition


def find(connection: Connection, query: Select[Any], table: Table, ref: Ref) -> Row[Any]:
    """The row of the thing: what `query` selects of the table, and locks. Raises `NotFound`, and `Invalid` as `is_named`."""
    row = connection.execute(query.where(is_named(table, ref))).one_or_none()
    if row is None:
        raise NotFound(_kind(table), str(ref))
    return row


def _kind(table: Table) -> str:
    return table.name.removesuffix("s")
