"""How many calls may be up at once, and are: told from the ledger, so that it answers without Redis."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from models.nodes import DEAF_AFTER
from models.statements import statement


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    max: int  #: what the trunks that are on carry, and no more than the nodes that are heard
    current: int  #: slots in use


def concurrency(connection: Connection) -> Concurrency:
    most = connection.exec_driver_sql(statement("most_calls"), {"deaf_after": DEAF_AFTER}).scalar_one()
    held = connection.exec_driver_sql(statement("open_attempts")).all()
    return Concurrency(max=most, current=len(held))
