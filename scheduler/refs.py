"""How a thing of ours is named: by its id over HTTP, by its name on the command line."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, Table

from scheduler.fields import thing_name

Ref = UUID | str


def is_named(table: Table, ref: Ref, *, kind: str) -> ColumnElement[bool]:
    """The condition that picks the thing. Raises `Invalid` for a name that none can have."""
    if isinstance(ref, UUID):
        condition: ColumnElement[bool] = table.c.id == ref
    else:
        condition = table.c.name == thing_name(ref, field=kind)
    return condition
