"""The ledger: trunks, campaigns, calls, attempts, their events and counts, and what Asterisk reads."""

from __future__ import annotations

from models.migrations.beside import run_sql_beside
from models.statuses import legal_events

revision = "0001"
down_revision = None


def upgrade() -> None:
    pairs = ", ".join(f"'{pair}'" for pair in legal_events())
    run_sql_beside(__file__, {"/*LEGAL_EVENTS*/": f"ARRAY[{pairs}]"})


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken down: restore a backup instead")
