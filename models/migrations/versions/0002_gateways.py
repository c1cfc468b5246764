"""Several gateways a trunk, their health, and what each attempt learned of its call."""

from __future__ import annotations

from models.migrations.beside import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken down: restore a backup instead")
