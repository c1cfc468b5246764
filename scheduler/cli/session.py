"""The ledger for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from models.database import open_engine, readable_errors
from models.settings import Settings


@contextmanager
def ledger(settings: Settings) -> Iterator[Engine]:
    """Raises `Unavailable` for a Postgres that does not answer, now or later in the block."""
    engine = open_engine(settings, "trunkline-cli", pool_size=2)
    try:
        with readable_errors():
            yield engine
    finally:
        engine.dispose()


@contextmanager
def transaction(settings: Settings) -> Iterator[Connection]:
    """Committed when the block ends well. Raises `Unavailable` for a Postgres that does not answer."""
    with ledger(settings) as engine, engine.begin() as connection:
        yield connection
