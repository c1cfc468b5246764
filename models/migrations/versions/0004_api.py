"""What the HTTP API keeps: keys, who has asked what before, webhooks to be sent, and the fields of the reference service."""

from __future__ import annotations

from models.migrations.beside import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken down: restore a backup instead")
