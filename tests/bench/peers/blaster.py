"""A raw AMI script: as many Originates as there are slots, and the next at every end. It knows nothing else.

A process of its own, without a library: `asyncio` and bytes. It is told what to send, ready to be written, on stdin.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.bench.peers.wire import LOGIN, action

if TYPE_CHECKING:  # the script itself is to import nothing of ours
    from asterisk.pool import Originate
    from tests.bench.peers.ground import Ground

_WITHIN = 300.0  # seconds


def run(ground: Ground, orders: Sequence[Originate], slots: int) -> float:
    """Returns when all calls are over; how many seconds of CPU the script took from its login on."""
    host, port = ground.ami
    work = {
        "host": host,
        "port": port,
        "slots": slots,
        "actions": [(str(order.attempt_id), action("Originate", order.headers())) for order in orders],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.peers.blaster"],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        timeout=_WITHIN,
        check=True,
    )
    return float(done.stdout)


class _Blaster(asyncio.Protocol):
    def __init__(self, actions: list[tuple[bytes, bytes]], slots: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = actions[::-1]
        self._slots = slots
        self._up: set[bytes] = set()
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(LOGIN.encode())
        self._send()

    def data_received(self, data: bytes) -> None:
        *messages, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for message in messages:
            if message.startswith(b"Event: "):  # of an end: no other is told to this user
                _, _, rest = message.partition(b"\r\nUniqueid: ")
                self._up.discard(rest[:36])
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("Asterisk has hung up"))

    def _send(self) -> None:
        actions = []
        while self._left and len(self._up) < self._slots:
            id, line = self._left.pop()
            self._up.add(id)
            actions.append(line)
        if actions:
            self._transport.write(b"".join(actions))
        elif not self._up and not self.over.done():
            self.over.set_result(None)


async def _blast() -> None:
    work = json.loads(sys.stdin.read())
    actions = [(id.encode(), line.encode()) for id, line in work["actions"]]
    began = time.process_time()
    _, blaster = await asyncio.get_running_loop().create_connection(
        lambda: _Blaster(actions, work["slots"]), work["host"], work["port"]
    )
    await blaster.over
    print(time.process_time() - began)  # noqa: T201 - to the bench that has started it


if __name__ == "__main__":
    asyncio.run(_blast())
