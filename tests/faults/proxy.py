"""A TCP proxy that can cut, stall, refuse and delay, between one of our processes and what it talks to.

It runs on a loop in a thread of its own; its methods are for any thread and return when they are in force.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

from anyio.from_thread import BlockingPortal

Direction = Literal["sent", "answered"]
"""By our process, or to it."""

_CHUNK, _CHUNKS = 1 << 16, 1000
_NARROW = 4096  # bytes


class Proxy:
    """Forwards `127.0.0.1:port` to `target`. Made by `Proxy.open`, on a portal that outlives it."""

    def __init__(self, portal: BlockingPortal, target: tuple[str, int]) -> None:
        self._portal = portal
        self._target = target
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        # cleared: what is connected stays so, and nothing comes through
        self._passing: dict[Direction, asyncio.Event] = {"sent": asyncio.Event(), "answered": asyncio.Event()}
        self._swap: tuple[bytes, bytes] | None = None
        self._narrow = False
        self._delay = 0.0
        self._overheard: dict[Direction, list[bytes]] = {}
        self._trap: tuple[bytes, Direction, threading.Event] | None = None
        self.port = 0

    @classmethod
    def open(cls, portal: BlockingPortal, target: tuple[str, int]) -> Proxy:
        async def make() -> Proxy:
            proxy = cls(portal, target)
            proxy._pass()
            await proxy._listen()
            return proxy

        return portal.call(make)

    def close(self) -> None:
        self._portal.call(self._close)

    def cut(self) -> None:
        """Breaks every connection; new ones are taken."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Breaks every connection, and nobody listens any more."""
        self._portal.call(self._refuse)

    def stall(self, *directions: Direction) -> None:
        """Half-open: connections stay, also new ones, and not one byte comes through; in one direction if one is given."""

        def stop() -> None:
            for direction in directions or self._passing:
                self._passing[direction].clear()

        self._do(stop)

    def swap(self, old: bytes, new: bytes) -> None:
        """From now on what our process sends says `new` where it said `old`."""
        self._do(lambda: setattr(self, "_swap", (old, new)))

    def narrow(self) -> None:
        """New connections hold next to nothing back: whoever is not read from notices it soon."""
        self._do(lambda: setattr(self, "_narrow", True))

    def strand(self) -> None:
        """What is connected now hears nothing any more and is not told so; new connections are whole. `restore` cuts the old."""
        self._do(self._strand)

    def delay(self, seconds: float) -> None:
        """From now on what comes back arrives so much later, in order."""
        self._do(lambda: setattr(self, "_delay", seconds))

    def restore(self) -> None:
        """As it was; what was held comes through."""
        self._portal.call(self._restore)

    def cut_at(self, text: bytes, when: Direction = "sent") -> threading.Event:
        """Cuts the connection that carries `text` next: right after that is forwarded if our process has `sent` it, so that
        no answer comes; right before if it is an answer. The event is set then."""
        struck = threading.Event()
        self._do(lambda: setattr(self, "_trap", (text, when, struck)))
        return struck

    def overhear(self) -> Mapping[Direction, list[bytes]]:
        """What comes through from now on; it grows until `restore`."""
        heard: dict[Direction, list[bytes]] = {"sent": [], "answered": []}
        self._do(lambda: setattr(self, "_overheard", heard))
        return heard

    @property
    def connections(self) -> int:
        return len(self._pairs)

    @property
    def ports(self) -> list[int]:
        """From which the far side sees its connections come."""
        return [pair.far.get_extra_info("sockname")[1] for pair in list(self._pairs) if pair.far is not None]

    def _do(self, what: Callable[[], object]) -> None:
        async def do() -> None:
            what()

        self._portal.call(do)

    # on the loop

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    async def _restore(self) -> None:
        self._delay, self._trap, self._swap, self._narrow = 0.0, None, None, False
        self._overheard = {}
        for pair in list(self._pairs):
            if not pair.passing.is_set():
                pair.cut()
        self._pass()
        if self._server is None:
            await self._listen()

    def _pass(self) -> None:
        for passing in self._passing.values():
            passing.set()

    async def _close(self) -> None:
        self._pass()
        await self._refuse()

    def _strand(self) -> None:
        for pair in self._pairs:
            pair.passing.clear()

    def _cut(self) -> None:
        for pair in list(self._pairs):
            pair.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            await self._passing["sent"].wait()
            far_reader, pair.far = await self._connect(writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, reader, pair.far, "sent"))
                group.create_task(self._pump(pair, far_reader, writer, "answered"))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            pair.cut()
            self._pairs.discard(pair)

    async def _connect(self, near: asyncio.StreamWriter) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._narrow:
            return await asyncio.open_connection(*self._target)
        near.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _NARROW)
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # by which the far side sizes what it holds back
        far.setblocking(False)
        await asyncio.get_running_loop().sock_connect(far, self._target)
        return await asyncio.open_connection(sock=far, limit=_NARROW)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Until either side ends; then so does the other."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1 if self._narrow else _CHUNKS)

        async def read() -> None:
            with suppress(
                OSError
            ):  # whoever is killed with something unread resets the connection: an end like any other
                while data := await reader.read(_CHUNK):
                    late = self._delay if direction == "answered" else 0.0
                    await chunks.put((loop.time() + late, data))
            await chunks.put((0.0, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await chunks.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await self._passing[direction].wait()
                await pair.passing.wait()
                if self._swap and direction == "sent":
                    data = data.replace(*self._swap)
                trap = self._trap
                strikes = trap is not None and trap[1] == direction and trap[0] in data
                if data and not (strikes and direction == "answered"):
                    writer.write(data)
                    if self._overheard:
                        self._overheard[direction].append(data)
                    await writer.drain()
                if trap is not None and strikes:
                    self._trap = None
                    trap[2].set()
                if strikes or not data:
                    pair.cut()
                    return
        finally:
            reading.cancel()


class _Pair:
    """Both ends of one connection."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self._near = near
        self.far: asyncio.StreamWriter | None = None
        self.passing = asyncio.Event()
        self.passing.set()

    def cut(self) -> None:
        """At once for our process; the far side gets what was sent to it before."""
        with suppress(Exception):
            self._near.transport.abort()
        self.passing.set()
        if self.far is not None:
            with suppress(Exception):
                self.far.close()
