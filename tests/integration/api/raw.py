"""A client that says what it likes, as slowly as it likes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

_PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]  #: names in lower case
    body: bytes

    @property
    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        found = json.loads(self.body)
        assert found["status"] == self.status
        return found


class Raw:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, text: str | bytes) -> None:
        self._socket.sendall(text.encode() if isinstance(text, str) else text)

    def answer(self, method: str = "GET") -> Answer:
        response = HTTPResponse(self._socket, method=method)
        response.begin()
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )

    def trickle_until_closed(self, byte: bytes, *, within: float) -> None:
        """Sends a byte again and again; fails the test if the other end puts up with that for so long."""
        deadline = time.monotonic() + within
        self._socket.settimeout(0.05)
        while time.monotonic() < deadline:
            try:
                if byte:
                    self._socket.sendall(byte)
                if self._socket.recv(4096) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
        raise AssertionError(f"still connected after {within} s")


@contextmanager
def connected(url: str, *, receive_buffer: int | None = None) -> Iterator[Raw]:
    at = urlsplit(url)
    with socket.socket() as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(_PATIENCE)
        sock.connect((at.hostname, at.port))
        yield Raw(sock)


def head(line: str, key: str | None = None, **headers: object) -> str:
    """The head of a request."""
    lines = [f"{line} HTTP/1.1", "Host: test"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines) + "\r\n\r\n"
