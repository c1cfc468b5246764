"""What is heard of a node and not written yet; it outlives the connection to the database.

    closed ──open──▶ down ──Up──▶ up, not whole ──the ledger is told──▶ whole
                      ▲               │                                  │
                      └─────Down──────┴───────────────Down───────────────┘

While Postgres is away nobody reads here, and events wait in the link's bounded queue. When that overflows the link is
ended: a gap like any other, and what was heard before it is kept.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta

from asterisk.connection import AmiMessage
from asterisk.events import Interpreter
from asterisk.link import Down, Link, Up
from models.settings import Node
from models.sightings import Sighting

_BATCH = 500


class Ears:
    """Not thread-safe. `open` and `close` may be called twice, and again."""

    def __init__(self, node: Node) -> None:
        self.link = Link(node)
        self.is_up = False
        self.whole_since: datetime | None = None  #: by the ledger's clock, once that was told; None after a gap
        self.why_down = "not connected yet"
        self.unwritten: list[Sighting] = []  #: whoever has written them clears it, and only then reads on
        self._interpreter = Interpreter()
        self._opened = ExitStack()
        self.is_open = False

    def open(self) -> None:
        if not self.is_open:
            self._opened.enter_context(self.link)
            self.is_open = True

    def close(self) -> None:
        """Hears no more; what was heard can still be read."""
        self._opened.close()
        self.is_open = False

    def read(self, wait: timedelta = timedelta(0)) -> bool:
        """Reads the next batch, as soon as there is something; whether more waits behind it."""
        heard = self.link.take(at_most=_BATCH, wait=wait)
        for item in heard:
            match item:
                case Up():
                    self._begin_anew(is_up=True)
                case Down(reason):
                    self._begin_anew(is_up=False)
                    self.why_down = reason
                case AmiMessage():
                    sighting = self._interpreter.read(item)
                    if sighting:
                        self.unwritten.append(sighting)
        return len(heard) == _BATCH

    def _begin_anew(self, *, is_up: bool) -> None:
        self.is_up, self.whole_since, self._interpreter = is_up, None, Interpreter()
