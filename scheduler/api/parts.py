"""What routes work with: the settings, the ledger, the bell, and who asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Event
from typing import Annotated

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy import Connection, Engine

from models.settings import Settings
from models.slots import Slots
from scheduler.keys import Key
from scheduler.presence import bell, glance, wake


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One a process; thread-safe."""

    settings: Settings
    engine: Engine
    ending: Event = field(default_factory=Event)  #: set once the process is about to end: what takes long gives up

    def transaction(self) -> AbstractContextManager[Connection]:
        """Committed when the block ends well."""
        return self.engine.begin()

    def bell(self) -> AbstractContextManager[Slots]:
        """As `presence.bell`."""
        return bell(self.settings)

    def glance(self) -> AbstractContextManager[Slots | None]:
        """As `presence.glance`."""
        return glance(self.settings)

    def wake(self) -> None:
        """As `presence.wake`."""
        wake(self.settings)


def repeated(names: Iterable[str]) -> list[str]:
    """Those that stand there more than once, where the framework would take the last."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _key(request: Request) -> Key:
    key: Key = request.state.key
    return key


def known_query(request: Request) -> None:
    """Refuses a query parameter that the route does not take, or that is given twice: no route takes several of a name.

    A model of parameters forbids others by itself.
    """
    if given_twice := repeated(name for name, _ in request.query_params.multi_items()):
        raise RequestValidationError(
            [{"type": "twice", "loc": ("query", name), "msg": "is given twice"} for name in given_twice]
        )
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
