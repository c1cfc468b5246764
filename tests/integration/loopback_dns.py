"""A small real DNS server on loopback, with the records that a test gives it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = Mapping[tuple[str, str], list[str]]
"""By name (with no final dot) and type: the data, as a zone file has them."""


@contextmanager
def dns_server(
    records: Records, *, answers: bool = True, silent: Collection[str] = ()
) -> Iterator[dns.asyncresolver.Resolver]:
    """A resolver that asks this server only; without `answers`, or of `silent` names, it hears the questions and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve, args=(sock, records, answers, silent), name="dns")
        thread.start()
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], sock.getsockname()[1]
        try:
            yield resolver
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"", sock.getsockname())
            thread.join()


def _serve(sock: socket.socket, records: Records, answers: bool, silent: Collection[str]) -> None:
    while True:
        wire, peer = sock.recvfrom(4096)
        if not wire:
            return
        query = dns.message.from_wire(wire)
        if answers and query.question[0].name.to_text(omit_final_dot=True).lower() not in silent:
            sock.sendto(_answer(query, records).to_wire(), peer)


def _answer(query: dns.message.Message, records: Records) -> dns.message.Message:
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    if found := records.get((name, kind)):
        # remembered for no time: a test may change its records
        response.answer.append(dns.rrset.from_text_list(question.name, 0, question.rdclass, question.rdtype, found))
    elif name not in {known for known, _ in records}:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response
