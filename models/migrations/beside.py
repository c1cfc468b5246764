"""Runs the SQL file that lies beside a migration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alembic import op


def run_sql_beside(migration: str, replacements: Mapping[str, str] | None = None) -> None:
    """`migration` is the module's `__file__`; each key of `replacements` stands in the text for its value."""
    sql = Path(migration).with_suffix(".sql").read_text()
    for placeholder, value in (replacements or {}).items():
        sql = sql.replace(placeholder, value)
    # psycopg itself, without parameters: several statements at once, and % is only a character
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(sql)
