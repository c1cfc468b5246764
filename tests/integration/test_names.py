"""The name server that Asterisk asks, over real sockets, in front of a real server with many records."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from deploy.names import NameServer
from deploy.part import free_port
from tests.integration.loopback_dns import dns_server

pytestmark = pytest.mark.anyio

BOUND = 10.0
NAMES = {
    ("gw.example.net", "A"): ["192.0.2.1", "192.0.2.2"],
    ("gw.example.net", "AAAA"): ["2001:db8::1", "2001:db8::2"],
    ("six.example.net", "AAAA"): ["2001:db8::1", "2001:db8::2"],
    ("silent.example.net", "A"): ["192.0.2.9"],
    ("long.example.net", "TXT"): [f'"{"x" * 200}{at}"' for at in range(30)],
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def silent() -> set[str]:
    return {"silent.example.net"}


@pytest.fixture(scope="module")
def upstream(silent: set[str]) -> Iterator[str]:
    with dns_server(NAMES, silent=silent) as resolver:
        yield f"127.0.0.1@{resolver.port}"


@asynccontextmanager
async def serving(upstream: str, hosts: Path = Path("/nowhere")) -> AsyncIterator[NameServer]:
    server = NameServer(port=free_port(), nameserver=upstream, hosts=hosts)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def port(server: NameServer) -> int:
    return int(server.address.partition("@")[2])


async def ask(server: NameServer, name: str, kind: str, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    ask_by = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await ask_by(query, "127.0.0.1", timeout=BOUND, port=port(server))


def data(reply: dns.message.Message) -> list[str]:
    assert reply.rcode() == dns.rcode.NOERROR
    return [str(record) for rrset in reply.answer for record in rrset]


@pytest.mark.parametrize("tcp", [False, True])
async def test_one_address_is_told_and_no_ipv6_beside_it(upstream: str, tcp: bool) -> None:
    async with serving(upstream) as server:
        (told,) = data(await ask(server, "GW.example.net", "A", tcp=tcp))
        assert told in NAMES["gw.example.net", "A"]
        assert data(await ask(server, "gw.example.net", "AAAA", tcp=tcp)) == []
        (told,) = data(await ask(server, "six.example.net", "AAAA", tcp=tcp))
        assert told in NAMES["six.example.net", "AAAA"]


async def test_what_nobody_has_is_said_so_and_a_server_that_is_away_is_a_failure(upstream: str) -> None:
    async with serving(upstream) as server:
        assert (await ask(server, "nobody.example.net", "A")).rcode() == dns.rcode.NXDOMAIN
        assert data(await ask(server, "six.example.net", "SRV")) == []
    async with serving("127.0.0.1@1") as server:
        assert (await ask(server, "gw.example.net", "A")).rcode() == dns.rcode.SERVFAIL


async def test_a_question_that_is_not_answered_is_given_up_for_everybody_who_asks_it(
    upstream: str, silent: set[str]
) -> None:
    """Asterisk asks again when it hears of a failure, and its transaction has begun long ago."""
    async with serving(upstream) as server:
        for _ in range(3):
            assert (await ask(server, "silent.example.net", "A")).rcode() == dns.rcode.SERVFAIL
        silent.clear()  # from here on it is answered
        try:
            async with asyncio.timeout(BOUND):  # the one who asks later gets what was found meanwhile
                while not (reply := await ask(server, "silent.example.net", "A")).answer:
                    pass
            assert data(reply) == ["192.0.2.9"]
        finally:
            silent.add("silent.example.net")


async def test_what_is_too_long_for_a_datagram_comes_over_tcp(upstream: str) -> None:
    async with serving(upstream) as server:
        short = await ask(server, "long.example.net", "TXT")
        assert short.flags & dns.flags.TC
        assert sorted(data(await ask(server, "long.example.net", "TXT", tcp=True))) == sorted(
            NAMES["long.example.net", "TXT"]
        )


async def test_the_hosts_file_goes_first_and_has_one_address_a_name_too(upstream: str, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("198.51.100.1 gw.example.net\n198.51.100.2 other gw.example.net\n2001:db8::9 gw.example.net\n")
    async with serving(upstream, hosts) as server:
        (told,) = data(await ask(server, "gw.example.net", "A"))
        assert told in ("198.51.100.1", "198.51.100.2")
        assert data(await ask(server, "gw.example.net", "AAAA")) == []
        assert data(await ask(server, "gw.example.net", "NAPTR")) == []


async def test_nothing_that_is_sent_to_it_keeps_it_from_answering(upstream: str) -> None:
    loop = asyncio.get_running_loop()
    question = dns.message.make_query("gw.example.net", "A").to_wire()
    update = dns.message.make_query("gw.example.net", "A")
    update.set_opcode(dns.opcode.NOTIFY)
    rubbish = [b"", b"\0", question[:11], question[:-1], question + b"more", b"\xff" * 512, b"\0" * 65000]
    rubbish += [dns.message.make_response(dns.message.make_query(".", "NS")).to_wire(), update.to_wire()]
    async with serving(upstream) as server:
        sender, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port(server))
        )
        for wire in rubbish:
            sender.sendto(wire)
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(struct.pack("!H", len(wire)) + wire)
            writer.write_eof()
            async with asyncio.timeout(BOUND):
                await reader.read()
            writer.close()
        for kind in ("ANY", "AXFR"):
            assert (await ask(server, "gw.example.net", kind)).rcode() == dns.rcode.SERVFAIL
        refused = dns.message.make_query("gw.example.net", "A", rdclass="CH")
        reply = await dns.asyncquery.udp(refused, "127.0.0.1", timeout=BOUND, port=port(server))
        assert reply.rcode() == dns.rcode.REFUSED
        assert len(data(await ask(server, "gw.example.net", "A"))) == 1
        sender.close()


async def test_it_is_heard_on_loopback_only_and_may_be_started_and_stopped_twice(upstream: str) -> None:
    async with serving(upstream) as server:
        await server.start()
        assert server.address.startswith("127.0.0.1@")
        await server.stop()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port(server))
