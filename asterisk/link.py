"""The listener's connection, for its one thread: events come out of a bounded queue, in order.

The asyncio side runs in a thread of its own and does nothing but parse. When the queue is full the
link is ended: what was missed is then a gap that is looked up, instead of memory that grows.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Self
from uuid import UUID

from anyio.from_thread import start_blocking_portal

from asterisk.connection import AmiConnection, AmiMessage, Refused, Timings
from models.settings import Node

MOST_WAITING = 20_000
"""Events; an answered call makes about eight."""

_ASKING = Timings(action=timedelta(seconds=4))
"""Who asks holds a role, which is lost in 6 s of saying nothing to Postgres."""


@dataclass(frozen=True, slots=True)
class Up:
    """From here on every event is heard."""


@dataclass(frozen=True, slots=True)
class Down:
    """What comes after this is after a gap."""

    reason: str


class Link:
    """Open it with `with`, again if need be; what it heard before can be taken later. For one thread; raises `AmiError`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._inbox: queue.SimpleQueue[AmiMessage | Up | Down] = queue.SimpleQueue()  # events are bounded in `_heard`
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name=f"ami-{self._node.name}"))
        self._connection = AmiConnection(
            host=self._node.host,
            port=self._node.port,
            login=self._node.listener,
            on_event=self._heard,
            on_up=lambda: self._inbox.put(Up()),
            on_down=lambda reason: self._inbox.put(Down(reason)),
            timings=_ASKING,
        )
        self._stack.callback(self._portal.call, self._connection.stop)
        self._portal.call(self._connection.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _heard(self, event: AmiMessage) -> bool:
        if self._inbox.qsize() >= MOST_WAITING:
            return False
        self._inbox.put(event)
        return True

    def take(self, *, at_most: int, wait: timedelta) -> list[AmiMessage | Up | Down]:
        """What was heard, in order: as soon as there is something, or nothing after `wait`."""
        taken: list[AmiMessage | Up | Down] = []
        try:
            taken.append(self._inbox.get(timeout=wait.total_seconds()))
            while len(taken) < at_most:
                taken.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return taken

    def channels(self) -> dict[UUID, str]:
        """The attempts that have a channel now, with its state (`Down`, `Ringing`, `Up`, ...)."""
        found: dict[UUID, str] = {}
        for row in self._portal.call(self._connection.collect, "CoreShowChannels"):
            try:
                found[UUID(row.get("Uniqueid"))] = row.get("ChannelStateDesc")
            except ValueError:
                continue  # an agent's leg, or somebody else's call
        return found

    def startup(self) -> str:
        """Asterisk's own word for when it started; another one means that it has forgotten its calls."""
        answer = self._portal.call(self._connection.action, "CoreStatus", {})
        return f"{answer.get('CoreStartupDate')} {answer.get('CoreStartupTime')}"

    def version(self) -> str:
        """Asterisk's own, such as `22.10.1`."""
        return self._portal.call(self._connection.action, "CoreSettings", {}).get("AsteriskVersion")

    def marked(self, marks: Mapping[UUID, str]) -> set[UUID]:
        """For which of these attempts, each with the family of its mark, Asterisk's own database says that it made a channel.

        All are asked for at once: one after the other they could take longer than one answer may.
        """
        return self._portal.call(self._marked, marks)

    async def _marked(self, marks: Mapping[UUID, str]) -> set[UUID]:
        found = await asyncio.gather(
            *(self._has_mark(family, attempt_id) for attempt_id, family in marks.items()), return_exceptions=True
        )
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return {attempt_id for attempt_id, is_there in zip(marks, found, strict=True) if is_there}

    async def _has_mark(self, family: str, attempt_id: UUID) -> bool:
        try:
            await self._connection.collect("DBGet", {"Family": family, "Key": str(attempt_id)})
        except Refused as refusal:
            if refusal.message != "Database entry not found":
                raise
            return False
        return True
