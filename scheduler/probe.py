"""A look at one gateway from this machine: its name, its port, its TLS, and whether it answers OPTIONS.

    name ──▶ targets ──▶ TCP or TLS: connect ──▶ TLS: handshake, certificate, host name ──▶ OPTIONS ──▶ answer

At most three targets are tried, each step has a bound, and so has the whole. Nothing that a peer does or
sends raises: it becomes a finding. A finding is for people: a carrier that ignores OPTIONS is dialled all
the same, and nothing here decides about dialling.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from models.addresses import SipBind
from models.settings import Settings
from scheduler.gateway_names import DNS_SECONDS, Names, NoName, Target, asking
from scheduler.sip_options import Answer, NotSip, Options, Stream

ANSWER_SECONDS = 5.0
_T1, _T2 = 0.5, 4.0  # RFC 3261, 17.1.2.2: when an OPTIONS over UDP is sent again
_CONNECT_SECONDS = 3.0
_PROBE_SECONDS = 20.0
_MOST_TARGETS = 3
_MOST_BYTES = 1_000_000  # of a stream in which no answer was found
_DATAGRAM = 65_535


class Finding(StrEnum):
    """The words of `gateway_probes`."""

    ANSWERED = "answered"
    SILENT = "silent"
    NO_NAME = "no-name"
    REFUSED = "refused"
    TLS_FAILED = "tls-failed"


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """What is to be looked at, in the trunk's words."""

    host: str  #: an IPv6 address in brackets
    port: int | None  #: None: by SRV, else the transport's own
    transport: str  #: UDP, TCP or TLS

    def __str__(self) -> str:
        return self.host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """From where this machine looks, and whom it trusts: the same as its Asterisk."""

    authorities: Path | None = None  #: certificates in PEM; None: the machine's own
    source: str | None = None  #: the address to send from; None: whatever the route says
    names: Names = field(default_factory=Names)

    @classmethod
    def of(cls, settings: Settings) -> Viewpoint:
        embedded = settings.home / "asterisk" / "ca.crt"
        bind = SipBind.parse(settings.sip_bind)
        source = None if bind.is_loopback or bind.is_every_address else bind.host
        names = Names(asking(settings.nameserver) if settings.nameserver else None)
        return cls(authorities=embedded if embedded.is_file() else None, source=source, names=names)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was found of one gateway."""

    finding: Finding
    detail: str  #: a sentence
    targets: tuple[Target, ...] = ()  #: what its address leads to
    target: Target | None = None  #: the one that the finding is about
    connected: bool = False  #: over TCP or TLS: its port took the connection
    tls: str | None = None  #: what was agreed on, where TLS holds
    status: int | None = None  #: of the answer to OPTIONS
    rtt_ms: float | None = None
    sent_from: str | None = None  #: our address as this machine has it
    seen_as: str | None = None  #: our address as the gateway saw it


async def probe(gateway: Gateway, viewpoint: Viewpoint) -> Probe:
    """Looks once; returns within `_PROBE_SECONDS` and never raises for what it meets."""
    looks: list[Probe] = []
    targets: list[Target] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_PROBE_SECONDS):
            try:
                async with asyncio.timeout(2 * DNS_SECONDS):
                    targets = await viewpoint.names.targets(gateway.host, gateway.port, gateway.transport)
            except NoName as error:
                return Probe(finding=Finding.NO_NAME, detail=str(error))
            except TimeoutError:
                why = f"No DNS server answers for {gateway.host} in time: check this machine's DNS, and the name."
                return Probe(finding=Finding.NO_NAME, detail=why)
            for target in targets[:_MOST_TARGETS]:
                looks.append(replace(await _look(gateway, target, viewpoint), targets=tuple(targets), target=target))
                if looks[-1].finding is Finding.ANSWERED:
                    return looks[-1]
    if not looks:
        return Probe(finding=Finding.SILENT, detail=_silence(gateway, targets[0]), targets=tuple(targets))
    return looks[0]


async def _look(gateway: Gateway, target: Target, viewpoint: Viewpoint) -> Probe:
    kind = socket.SOCK_DGRAM if gateway.transport == "UDP" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET6 if ":" in target.address else socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            if viewpoint.source:
                with suppress(OSError):  # another machine's, or of the other family
                    sock.bind((viewpoint.source, 0))
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (target.address, target.port))
            sent_from = str(sock.getsockname()[0])
            if gateway.transport == "UDP":
                return replace(await _ask_by_datagram(sock, gateway, target), sent_from=sent_from)
            return replace(await _ask_by_stream(sock, gateway, target, viewpoint), sent_from=sent_from)
    except TimeoutError:
        detail = f"No {gateway.transport} connection to {target} within {_CONNECT_SECONDS:.0f} s: check address, port and firewalls."
        return Probe(finding=Finding.SILENT, detail=detail)
    except ConnectionRefusedError:
        detail = f"Nothing listens at {target} over {gateway.transport}: check the port and the transport."
        return Probe(finding=Finding.REFUSED, detail=detail)
    except OSError as error:
        why = error.strerror or type(error).__name__
        detail = (
            f"No way from this machine to {target} ({why}): check the address, and this machine's routes and firewall."
        )
        return Probe(finding=Finding.REFUSED, detail=detail)


async def _ask_by_datagram(sock: socket.socket, gateway: Gateway, target: Target) -> Probe:
    """The socket is connected: what others send does not arrive, and a refusal (ICMP) does."""
    loop = asyncio.get_running_loop()
    options = Options.to(gateway.host, gateway.port, transport="UDP", local=sock.getsockname()[:2])
    began, again, other = loop.time(), _T1, False
    while (now := loop.time()) < began + ANSWER_SECONDS:
        await loop.sock_sendall(sock, bytes(options))
        until, again = min(now + again, began + ANSWER_SECONDS), min(2 * again, _T2)
        while loop.time() < until:
            try:
                async with asyncio.timeout_at(until):
                    datagram = await loop.sock_recv(sock, _DATAGRAM)
            except TimeoutError:
                break
            if answer := options.answered_by(datagram):
                return _answered(answer, loop.time() - began)
            other = True
            await asyncio.sleep(0)  # a flood must not keep everybody else from their turn
    return Probe(finding=Finding.SILENT, detail=_silence(gateway, target, other=other))


async def _ask_by_stream(sock: socket.socket, gateway: Gateway, target: Target, viewpoint: Viewpoint) -> Probe:
    loop = asyncio.get_running_loop()
    options = Options.to(gateway.host, gateway.port, transport=gateway.transport, local=sock.getsockname()[:2])
    tls = None
    try:
        if gateway.transport == "TLS":
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=_trust(viewpoint.authorities),
                server_hostname=gateway.host.removeprefix("[").removesuffix("]"),
                ssl_handshake_timeout=_CONNECT_SECONDS,
            )
            tls = _agreed(writer)
        else:
            reader, writer = await asyncio.open_connection(sock=sock)
    except (ssl.SSLError, OSError) as error:
        why = _tls_failure(error, gateway, viewpoint)
        return Probe(finding=Finding.TLS_FAILED, detail=f"No TLS with {target}: {why}.", connected=True)
    began, stream, taken, answer = loop.time(), Stream(), 0, None
    try:
        with suppress(TimeoutError, NotSip, OSError):
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(bytes(options))
                while answer is None and taken < _MOST_BYTES and (data := await reader.read(_DATAGRAM)):
                    taken += len(data)
                    answer = next(filter(None, map(options.answered_by, stream.feed(data))), None)
                    await asyncio.sleep(0)  # a flood must not keep everybody else from their turn
    finally:
        writer.transport.abort()
    if answer is None:
        detail = _silence(gateway, target, other=taken > 0)
        return Probe(finding=Finding.SILENT, detail=detail, connected=True, tls=tls)
    return replace(_answered(answer, loop.time() - began), connected=True, tls=tls)


def _trust(authorities: Path | None) -> ssl.SSLContext:
    """As `transport-tls` of Asterisk's: TLS 1.2, certificate and host name checked."""
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _agreed(writer: asyncio.StreamWriter) -> str:
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    until = str((connection.getpeercert() or {}).get("notAfter", ""))
    day = f"{datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC):%Y-%m-%d}" if until else "an unknown day"
    return f"{connection.version()}, certificate valid until {day}"


def _tls_failure(error: ssl.SSLError | OSError, gateway: Gateway, viewpoint: Viewpoint) -> str:
    match error:
        case ssl.SSLCertVerificationError(verify_code=62 | 64):  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
            return f"the certificate is not for {gateway.host}; use the name that the provider gives for TLS, not an address"
        case ssl.SSLCertVerificationError():
            whom = "the machine's authorities" if viewpoint.authorities is None else str(viewpoint.authorities)
            return (
                f"the certificate is not trusted ({error.verify_message}): whom we trust is in {whom};"
                " tell the provider, or add its authority"
            )
        case ssl.SSLError():
            return f"nothing is agreed on ({error.reason or 'unexpected end'}); check that this port speaks TLS 1.2"
        case _:
            return "the handshake is not answered; check that this port speaks TLS"


def _answered(answer: Answer, seconds: float) -> Probe:
    said = f"{answer.status} {answer.reason}".strip()
    return Probe(
        finding=Finding.ANSWERED,
        detail=f"OPTIONS answered with {said} in {1000 * seconds:.1f} ms.",
        status=answer.status,
        rtt_ms=1000 * seconds,
        seen_as=answer.seen_as,
    )


def _silence(gateway: Gateway, target: Target, *, other: bool = False) -> str:
    if other:
        return f"What {target} says over {gateway.transport} is no answer to SIP OPTIONS: check the port and the transport."
    return (
        f"No answer to OPTIONS from {target} over {gateway.transport}: many carriers ignore it; if calls get no answer"
        " either, check address, port, transport and firewalls."
    )
