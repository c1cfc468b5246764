"""Whoever may be at an agent's address: servers that take Asterisk's connection and then do what a test needs."""

from __future__ import annotations

import socket
import socketserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

Does = Callable[[socket.socket], None]
"""What is done with a connection; it is closed afterwards."""


def closes(connection: socket.socket) -> None:
    """As docker, a proxy and a socket unit do for a server that is not there."""


def keeps_still(seconds: float) -> Does:
    """Takes what comes and says nothing, until the peer leaves or for so long."""

    def listen(connection: socket.socket) -> None:
        end = time.monotonic() + seconds
        with suppress(OSError):  # a timeout, or a peer that has reset it
            while (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(4096):
                    return

    return listen


@contextmanager
def listening(does: Does, *, port: int = 0) -> Iterator[str]:
    """Yields its URI, for an agent's --connect."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            does(self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, request_queue_size = True, True, 100

    with Server(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"audiosocket://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
