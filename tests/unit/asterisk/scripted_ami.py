"""An AMI server that does what a test tells it: answer, stay silent, cut, hang, cut its bytes anywhere, send events.

Everything a test waits for is a named condition with a bound (`Signals.until`); nothing here sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Self

BOUND = 10.0  # seconds; only a failing test waits that long


class Signals:
    """Something that changes, and a way to wait until it has changed enough."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND):
            while not holds():
                await self._news.wait()


class Received:
    """One action as it came in."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    @property
    def name(self) -> str:
        return self.get("Action").lower()

    def get(self, header: str) -> str:
        return next((value for value in self.all(header)), "")

    def all(self, header: str) -> list[str]:
        split = (line.partition(": ") for line in self.lines)
        return [value for name, _, value in split if name.lower() == header.lower()]


class Peer:
    """One connection of a client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.frozen = False  # reads on, says nothing any more and keeps the connection: half open

    def send(self, data: bytes) -> None:
        if not self.frozen and not self.writer.is_closing():
            self.writer.write(data)

    def message(self, *lines: str) -> None:
        self.send(render(*lines))

    def cut(self) -> None:
        self.writer.transport.abort()


Reply = Callable[[Peer, Received], Awaitable[None] | None]


def render(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def accept(peer: Peer, action: Received) -> None:
    peer.message("Response: Success", f"ActionID: {action.get('ActionID')}", "Message: done")


def silent(peer: Peer, action: Received) -> None:
    pass


def cut(peer: Peer, action: Received) -> None:
    peer.cut()


def refuse(message: str) -> Reply:
    def reply(peer: Peer, action: Received) -> None:
        peer.message("Response: Error", f"ActionID: {action.get('ActionID')}", f"Message: {message}")

    return reply


def rows(event: str, each: Iterable[Sequence[str]], *, complete: str | None) -> Reply:
    """A list answer; without `complete` it never ends."""

    def reply(peer: Peer, action: Received) -> None:
        mine = f"ActionID: {action.get('ActionID')}"
        peer.message("Response: Success", mine, "EventList: start", "Message: will follow")
        for row in each:
            peer.message(f"Event: {event}", mine, *row)
        if complete is not None:
            peer.message(f"Event: {complete}", mine, "EventList: Complete")

    return reply


class ScriptedAmi(Signals):
    """The server. `replies` says by lower-case action name what happens; what it does not name is accepted."""

    def __init__(self, *, booted: bool = True) -> None:
        super().__init__()
        self.users = {"dialer": "xyzzy-secret"}
        self.booted = booted
        self.replies: dict[str, Reply] = {}
        self.received: list[Received] = []
        self.raw = b""
        self.peers: list[Peer] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            peer.cut()
        await self.until(lambda: all(peer.writer.is_closing() for peer in self.peers))
        await self._server.wait_closed()

    def actions(self, name: str) -> list[Received]:
        return [action for action in self.received if action.name == name.lower()]

    async def got(self, name: str, count: int = 1) -> list[Received]:
        await self.until(lambda: len(self.actions(name)) >= count)
        return self.actions(name)

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    def boot(self) -> None:
        self.booted = True
        self.peer.message("Event: FullyBooted", "Status: Fully Booted")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        self.peers.append(peer)
        peer.send(b"Asterisk Call Manager/11.0.0\r\n")
        self.tell()
        try:
            while True:
                data = await reader.readuntil(b"\r\n\r\n")
                self.raw += data
                action = Received(data.decode().strip().split("\r\n"))
                self.received.append(action)
                self.tell()
                done = self.replies.get(action.name, self._login if action.name == "login" else accept)(peer, action)
                if done is not None:
                    await done
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if not peer.frozen:
                peer.cut()
            self.tell()

    def _login(self, peer: Peer, action: Received) -> None:
        if self.users.get(action.get("Username")) != action.get("Secret"):
            refuse("Authentication failed")(peer, action)
            return
        data = render("Response: Success", f"ActionID: {action.get('ActionID')}", "Message: Authentication accepted")
        if self.booted:
            data += render("Event: FullyBooted", "Status: Fully Booted")
        peer.send(data)
