"""What is known of nodes that take no calls, of calls that kill their workers, and of what was put right."""

from __future__ import annotations

from models.migrations.beside import run_sql_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken down: restore a backup instead")
