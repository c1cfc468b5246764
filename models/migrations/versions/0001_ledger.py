"""The ledger: trunks, campaigns, calls, attempts, their events and counts, and what Asterisk reads."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from models.statuses import legal_events

revision = "0001"
down_revision = None


def upgrade() -> None:
    sql = Path(__file__).with_suffix(".sql").read_text()
    pairs = ", ".join(f"'{pair}'" for pair in legal_events())
    # psycopg itself, without parameters: several statements at once, and % is only a character
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(sql.replace("/*LEGAL_EVENTS*/", f"ARRAY[{pairs}]"))


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken down: restore a backup instead")
