"""A receiver of webhooks: a real HTTP server on loopback, which keeps what it is sent and answers as the test wants."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True, kw_only=True)
class Got:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def status(self) -> str:
        return str(json.loads(self.body)["status"])

    def verified(self, secret: str) -> Any:
        """What it says, where it is signed with this secret; raises if it is not."""
        return Webhook(secret).verify(self.body, dict(self.headers))


@dataclass(kw_only=True)
class Receiver:
    """`answer` is the status of the next answers; while `open` is not set, none comes."""

    port: int
    scheme: str = "http"
    answer: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    got: list[Got] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/calls"

    @property
    def ids(self) -> set[str]:
        return {got.id for got in self.got}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:  # whoever asked has gone: the test knows
        pass


@contextmanager
def receiver(*, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """One that answers 204 at once, over TLS where it is given a context."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.got.append(Got(path=self.path, headers={k.lower(): v for k, v in self.headers.items()}, body=body))
            state.open.wait(60)
            self.send_response(state.answer)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", port), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        state = Receiver(port=server.server_address[1], scheme="https" if context else "http")
        state.open.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            state.open.set()
            server.shutdown()
            thread.join()
