"""A client of the running API, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from sqlalchemy import Engine

from scheduler import keys

_PATIENCE = 60.0


def make_key(engine: Engine, scope: str = "admin", name: str | None = None) -> str:
    """A new key, straight from the ledger."""
    with engine.begin() as connection:
        made = connection.exec_driver_sql("SELECT count(*) FROM api_keys").scalar_one()
        return keys.create(connection, name or f"test {made}", scope)


@contextmanager
def client(api_url: str, key: str | None) -> Iterator[httpx.Client]:
    """One that asks with this key; without one where it is None."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=api_url, headers=headers, timeout=_PATIENCE) as made:
        yield made
