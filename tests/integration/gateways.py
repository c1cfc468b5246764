"""Servers that stand for a carrier's gateway where SIPp cannot: they answer OPTIONS as a test tells them to."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme

from scheduler.gateway_names import Names
from scheduler.probe import Viewpoint

Reply = Callable[[bytes], list[bytes]]
"""From a request to what is sent back, a datagram or a write each."""


def header(request: bytes, name: str) -> str:
    found = re.search(rf"^{name}: (.*)\r$", request.decode(), re.MULTILINE)
    assert found is not None
    return found[1]


def answer(request: bytes, *, status: str = "200 OK", received: str = "203.0.113.9") -> bytes:
    via = header(request, "Via").replace(";rport", f";rport=40000;received={received}")
    same = "".join(f"{name}: {header(request, name)}\r\n" for name in ("From", "To", "Call-ID", "CSeq"))
    return f"SIP/2.0 {status}\r\nVia: {via}\r\n{same}Content-Length: 0\r\n\r\n".encode()


@contextmanager
def udp_server(reply: Reply) -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                request, peer = sock.recvfrom(65535)
                if not request:
                    return
                for datagram in reply(request):
                    sock.sendto(datagram, peer)

        thread = threading.Thread(target=serve, name="udp-server")
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"", sock.getsockname())
            thread.join()


@contextmanager
def stream_server(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A carrier over TCP, or TLS with `context`; an empty reply closes the connection."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not stop.is_set():
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    connection.settimeout(10)
                    with context.wrap_socket(connection, server_side=True) if context else connection as talk:
                        while (request := talk.recv(65535)) and (replies := reply(request)):
                            for data in replies:
                                talk.sendall(data)

        thread = threading.Thread(target=serve, name="stream-server")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


@contextmanager
def closed_port(kind: socket.SocketKind) -> Iterator[int]:
    """A port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_DGRAM:
            sock.connect(("127.0.0.1", 9))  # hears nobody else from now on, so the kernel refuses for it
        yield sock.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class TlsCarrier:
    """Whose certificate, for which name, is for the test to say; `trusting` trusts its authority."""

    def __init__(self, directory: Path, *names: str) -> None:
        self._authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(self.context)
        self._file = directory / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self._file))

    def trusting(self, names: Names) -> Viewpoint:
        return Viewpoint(authorities=self._file, names=names)
