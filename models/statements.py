"""The hand-written SQL, one statement a file in `sql/`, loaded by name."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def statement(name: str) -> str:
    """The text of `sql/NAME.sql`; parameters are psycopg's, `%(name)s`."""
    return (resources.files("models") / "sql" / f"{name}.sql").read_text()
