"""A DNS server for one test module: it knows the names it is told and nothing else."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers over UDP on loopback. `add` may be called while it runs, and again: nothing it says may be remembered."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._sets: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        """As Asterisk's resolver wants it."""
        return f"127.0.0.1@{self._socket.getsockname()[1]}"

    def add(self, name: str, kind: str, *values: str) -> None:
        """The records of one kind that a name has: `add("sip.test", "A", "127.0.0.2")`."""
        found = dns.rrset.from_text(dns.name.from_text(name), 0, "IN", kind, *values)
        self._sets[found.name, found.rdtype] = found

    def _serve(self) -> None:
        while True:
            asked, whom = self._socket.recvfrom(4096)
            if not asked:
                return
            try:
                query = dns.message.from_wire(asked)
            except dns.exception.DNSException:
                continue
            self._socket.sendto(self._answer(query).to_wire(), whom)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=True)
        (question,) = query.question
        found = self._sets.get((question.name, question.rdtype))
        if found is not None:
            answer.answer.append(found)
        elif not any(name.is_subdomain(question.name) for name, _ in self._sets):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as farewell:
            farewell.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
