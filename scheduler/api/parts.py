"""What routes work with: the settings, the ledger, the bell, and who asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import redis
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy import Connection, Engine

from models.errors import TrunklineError
from models.settings import Settings
from models.slots import Slots
from scheduler.keys import Key
from scheduler.presence import redis_client


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One a process; thread-safe."""

    settings: Settings
    engine: Engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Committed when the block ends well."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def bell(self) -> Iterator[Slots]:
        """The slots, from a Redis that has just answered. Raises `Unavailable` before anything is written."""
        with redis_client(self.settings) as client:
            yield Slots(client)

    def wake(self) -> None:
        """Tells the leader that something changed; if nobody hears, it looks by itself within a second."""
        with suppress(TrunklineError, redis.RedisError), self.bell() as slots:
            slots.wake()


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _key(request: Request) -> Key:
    key: Key = request.state.key
    return key


def known_query(request: Request) -> None:
    """Refuses a query parameter that the route does not take. A model of parameters forbids others by itself."""
    taken = request.scope["route"].dependant.query_params
    if any(isinstance(kind := field.field_info.annotation, type) and issubclass(kind, BaseModel) for field in taken):
        return
    unknown = request.query_params.keys() - {field.alias for field in taken}
    if unknown:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "is not taken here"}
                for name in sorted(unknown)
            ]
        )


Using = Annotated[Parts, Depends(_parts)]
Asking = Annotated[Key, Depends(_key)]
