"""A DNS server on loopback that tells Asterisk of one address a name.

A name that stands for several addresses makes Asterisk send a second INVITE by itself, within the same attempt: after
silence, a refused connection or certificate, a 503 or the carrier's own 408, even when the phone has rung (RFC 3263,
4.3; `check_request_status` in res_pjsip_session.c, which no option turns off). That may ring a phone twice, and takes
no turn in the trunk's calls a second. With one address there is nothing to go on with, and failover is trunkline's
alone: a new attempt, by another gateway.

    Asterisk (libunbound) ──▶ here ──▶ the hosts file, else the machine's servers or TRUNKLINE_NAMESERVER
                          ◀── one record of those, for a second ◀──

What is left of an answer: of addresses one at random; of SRV the one that RFC 2782 would try first, by priority and
then by lot and weight; of NAPTR the first of each service, since a trunk's transport asks for one service only; no IPv6
address where there is an IPv4 one; the CNAMEs on the way.

**An answer comes soon or not at all** (SERVFAIL, and Asterisk ends the attempt as congestion: another gateway's turn).
Asterisk's transaction times out while it still waits for a name, and when the name is found after all, its INVITE leaves
although the attempt is long over and the call may be up through another gateway (seen with 22.10). When nobody
answers here, names are not found either; but libunbound waits for up to half a minute before it asks again, and an
attempt that was waiting for a name when this came back after 6 s and more may be sent late in that way.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
import structlog
from dns.rdatatype import AAAA, NAPTR, SOA, SRV, A, RdataType
from dns.rdtypes.IN.NAPTR import NAPTR as Naptr

from models.errors import Unavailable
from models.logs import configure
from models.settings import NAMES_PORT, Settings
from scheduler.gateway_names import DNS_SECONDS, HOSTS, asking, in_hosts

_ADDRESS = "127.0.0.1"
_LONGEST_TTL = 1  #: seconds; the calls of the next one may go to another of equals
_PATIENCE_SECONDS = 1.5  #: NAPTR, SRV and address in turn are well within Asterisk's timer B (6.4 s)
_SERVER_SECONDS = 1.0  #: for one server of several
_IDLE_SECONDS = 10.0  #: of a TCP connection
_MOST_QUESTIONS = 256
_MOST_CONNECTIONS = 64
_PAYLOAD = 1232  #: bytes of UDP that nothing fragments
_PLAIN_PAYLOAD = 512  #: without EDNS

_Found = dns.message.QueryMessage | dns.exception.DNSException | OSError

logger = structlog.get_logger(__name__)


def question_in(wire: bytes) -> dns.message.Message | None:
    """The message in a packet; None for an answer, and for what is no DNS at all: nothing is said to that."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
    except dns.exception.DNSException:
        return None
    return None if message.flags & dns.flags.QR else message


def one_record(query: dns.message.QueryMessage, found: dns.message.QueryMessage) -> dns.message.QueryMessage:
    """The reply to `query` that says one record of what was found. Raises `DNSException` for an answer that makes no sense."""
    reply = _reply(query, found.rcode())
    chain = found.resolve_chaining()
    for rrset in (*chain.cnames, chain.answer):
        if rrset is not None:
            reply.answer.append(_first(rrset))
    if chain.answer is None:
        # says for how long there is none
        reply.authority = [_first(rrset) for rrset in found.authority if rrset.rdtype == SOA]
    return reply


def _first(rrset: dns.rrset.RRset) -> dns.rrset.RRset:
    """What of these records is told, and for how long. Kinds that lead to no address stay whole."""
    records = rrset.processing_order()
    if rrset.rdtype in (A, AAAA, SRV):
        records = records[:1]
    elif rrset.rdtype == NAPTR:
        by_service: dict[tuple[bytes, bytes], Naptr] = {}
        for record in records:
            if isinstance(record, Naptr):
                by_service.setdefault((record.service.lower(), record.flags.lower()), record)
        records = list(by_service.values())
    return dns.rrset.from_rdata_list(rrset.name, min(rrset.ttl, _LONGEST_TTL), records)


def _reply(query: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.QueryMessage:
    reply = dns.message.make_response(query, recursion_available=True, our_payload=_PAYLOAD)
    assert isinstance(reply, dns.message.QueryMessage)
    reply.set_rcode(rcode)
    return reply


class NameServer:
    """Answers over UDP and TCP on loopback, `port`, from `start` to `stop`, in one event loop.

    `nameserver` is asked, ADDRESS or ADDRESS@PORT; the machine's own when None. Starting or stopping twice does no harm.
    """

    def __init__(self, *, port: int = NAMES_PORT, nameserver: str | None = None, hosts: Path = HOSTS) -> None:
        self._port, self._nameserver, self._hosts = port, nameserver, hosts
        self._known = _Known(1000)
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._lookups: dict[tuple[dns.name.Name, RdataType], tuple[asyncio.Task[_Found], float]] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """As `nameserver` in resolver_unbound.conf has it."""
        return f"{_ADDRESS}@{self._port}"

    async def start(self) -> None:
        """Raises OSError when it cannot listen there."""
        if self._tcp is not None:
            return
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(_ADDRESS, self._port)
        )
        self._tcp = await asyncio.start_server(self._accept, _ADDRESS, self._port)  # last: who connects finds both

    async def stop(self) -> None:
        """Leaves what is being asked without an answer."""
        tcp, self._tcp = self._tcp, None
        udp, self._udp = self._udp, None
        if tcp is not None:
            tcp.close()
        if udp is not None:
            udp.close()
        tasks = [*self._questions, *self._connections, *(lookup for lookup, _ in self._lookups.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hear(self, wire: bytes, peer: tuple[str, int]) -> None:
        """A datagram. One too many is dropped: it is asked again."""
        if len(self._questions) < _MOST_QUESTIONS:
            _hold(self._questions, self._answer_datagram(wire, peer))

    async def _answer_datagram(self, wire: bytes, peer: tuple[str, int]) -> None:
        reply = await self._answer(wire, over_tcp=False)
        if reply is not None and self._udp is not None:
            self._udp.sendto(reply, peer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tcp is None or len(self._connections) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        _hold(self._connections, self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    reply = await self._answer(wire, over_tcp=True)
                    if reply is None:
                        return
                    writer.write(len(reply).to_bytes(2, "big") + reply)
                    await writer.drain()
        except TimeoutError:
            writer.transport.abort()  # it does not read either
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()

    async def _answer(self, wire: bytes, *, over_tcp: bool) -> bytes | None:
        """The reply as it is sent; None for what is no question."""
        query = question_in(wire)
        if query is None:
            return None
        reply = await self._reply_to(query)
        size = 65535 if over_tcp else max(_PLAIN_PAYLOAD, min(query.payload, _PAYLOAD))
        return reply.to_wire(max_size=size, prefer_truncation=True)

    async def _reply_to(self, query: dns.message.Message) -> dns.message.Message:
        if not isinstance(query, dns.message.QueryMessage) or query.opcode() != dns.opcode.QUERY:
            refusal = dns.message.make_response(query)
            refusal.set_rcode(dns.rcode.NOTIMP)
            return refusal
        if query.edns > 0:
            return _reply(query, dns.rcode.BADVERS)
        if len(query.question) != 1 or query.question[0].rdclass != dns.rdataclass.IN:
            return _reply(query, dns.rcode.REFUSED)
        name, kind = query.question[0].name, query.question[0].rdtype
        try:
            if addresses := in_hosts(name.to_text(omit_final_dot=True), self._hosts):
                return _of_hosts(query, addresses)
            if kind == AAAA:
                ipv4, ipv6 = await asyncio.gather(self._find(name, A), self._find(name, AAAA))
                return _reply(query, dns.rcode.NOERROR) if ipv4.resolve_chaining().answer else one_record(query, ipv6)
            return one_record(query, await self._find(name, kind))
        except (dns.exception.DNSException, OSError):
            return _reply(query, dns.rcode.SERVFAIL)

    async def _find(self, name: dns.name.Name, kind: RdataType) -> dns.message.QueryMessage:
        """Everything that the servers have of this kind.

        Raises TimeoutError when that takes too long. It is asked for to the end all the same: the next question finds it.
        """
        question = name, kind
        if question not in self._lookups:
            lookup = asyncio.create_task(self._look_up(name, kind))
            self._lookups[question] = lookup, asyncio.get_running_loop().time() + _PATIENCE_SECONDS
            lookup.add_done_callback(lambda _: self._lookups.pop(question, None))
        lookup, until = self._lookups[question]
        async with asyncio.timeout_at(until):
            found = await asyncio.shield(lookup)
        if isinstance(found, Exception):
            raise found
        return found

    async def _look_up(self, name: dns.name.Name, kind: RdataType) -> _Found:
        try:
            # made anew: the machine's list may change while this runs
            resolver = asking(self._nameserver) if self._nameserver else dns.asyncresolver.Resolver()
            resolver.cache, resolver.timeout = self._known, _SERVER_SECONDS
            answer = await resolver.resolve(name, kind, lifetime=DNS_SECONDS, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            nothing: dns.message.QueryMessage = error.kwargs["responses"][name]
            return nothing
        except (dns.exception.DNSException, OSError) as error:
            logger.warning("no_answer", name=str(name), kind=dns.rdatatype.to_text(kind), reason=type(error).__name__)
            return error
        return answer.response


def _of_hosts(query: dns.message.QueryMessage, addresses: list[str]) -> dns.message.QueryMessage:
    """Of a name in the hosts file nothing else is known than its addresses there, IPv4 first."""
    reply, question = _reply(query, dns.rcode.NOERROR), query.question[0]
    family = AAAA if ":" in addresses[0] else A
    if question.rdtype == family:
        same = [address for address in addresses if (":" in address) == (family == AAAA)]
        reply.answer = [_first(dns.rrset.from_text_list(question.name, 0, question.rdclass, family, same))]
    return reply


class _Known(dns.resolver.LRUCache):
    """What was answered, for as long as it says that it holds; that there is nothing only if it says how long (RFC 2308, 5)."""

    def put(self, key: dns.resolver.CacheKey, value: dns.resolver.Answer) -> None:
        if value.rrset is not None or any(rrset.rdtype == SOA for rrset in value.response.authority):
            super().put(key, value)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.hear(data, addr)


def _hold(tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _serve(server: NameServer) -> None:
    """Until SIGTERM or SIGINT; prints where it is asked."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await server.start()
        print(server.address, flush=True)
        await stop.wait()
    finally:
        await server.stop()


def run_names(settings: Settings, port: int) -> None:
    """The DNS server that an Asterisk on this machine asks. Needs neither Postgres nor Redis."""
    configure(settings.log_level)
    try:
        asyncio.run(_serve(NameServer(port=port, nameserver=settings.nameserver)))
    except OSError as error:
        raise Unavailable(f"no DNS server can be had at 127.0.0.1:{port}: {error.strerror or error}") from error
