"""What a look at a gateway finds, against a real SIPp, real sockets, real TLS and a real DNS server.

SIPp stands for the carrier over UDP. Over TCP and TLS, and for what no carrier would do, plain sockets of
`gateways` do.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.carrier.carrier import Carrier
from scheduler import probe as probing
from scheduler.gateway_names import Names
from scheduler.probe import Finding, Gateway, Probe, Viewpoint, probe
from tests.integration.gateways import (
    Reply,
    TlsCarrier,
    answer,
    closed_port,
    header,
    silent_port,
    stream_server,
    udp_server,
)
from tests.integration.loopback_dns import dns_server


@pytest.fixture(scope="module")
def carrier(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    directory = tmp_path_factory.mktemp("carrier")
    with Carrier(tree=tree, directory=directory, username="u", password=secrets.token_hex(8)) as carrier:
        yield carrier


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ANSWER_SECONDS", 0.8)


def look(host: str, port: int | None, transport: str = "UDP", viewpoint: Viewpoint | None = None) -> Probe:
    return asyncio.run(probe(Gateway(host=host, port=port, transport=transport), viewpoint or Viewpoint()))


# UDP


def test_a_carrier_answers_and_is_measured(carrier: Carrier) -> None:
    found = look(carrier.host, carrier.port)
    assert (found.finding, found.status) == (Finding.ANSWERED, 200)
    assert found.rtt_ms is not None
    assert 0 < found.rtt_ms < 5000
    assert str(found.target) == carrier.address
    assert "200" in found.detail


def test_any_status_is_an_answer_and_says_how_it_sees_us() -> None:
    with udp_server(lambda request: [answer(request, status="403 Forbidden")]) as port:
        found = look("127.0.0.1", port)
    assert (found.finding, found.status, found.seen_as) == (Finding.ANSWERED, 403, "203.0.113.9")


def test_a_lost_request_is_sent_again() -> None:
    asked: list[bytes] = []

    def lose_the_first(request: bytes) -> list[bytes]:
        asked.append(request)
        return [answer(request)] if len(asked) > 1 else []

    with udp_server(lose_the_first) as port:
        found = look("127.0.0.1", port)
    assert found.finding is Finding.ANSWERED
    assert len(set(asked)) == 1, "the same request, so that the carrier sees one transaction"


@pytest.mark.usefixtures("_impatient")
def test_a_port_that_says_nothing_is_silent() -> None:
    with silent_port() as port:
        found = look("127.0.0.1", port)
    assert (found.finding, found.rtt_ms) == (Finding.SILENT, None)
    assert "ignore" in found.detail


def test_a_port_where_nothing_listens_refuses() -> None:
    with closed_port(socket.SOCK_DGRAM) as port:
        found = look("127.0.0.1", port)
    assert found.finding is Finding.REFUSED
    assert str(port) in found.detail


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "reply",
    [
        lambda request: [b"\0" * 60_000, b"SIP/2.0 200 OK\r\n\r\n", request],
        lambda request: [answer(request).replace(header(request, "Call-ID").encode(), b"another")],
        lambda request: [answer(request).replace(b"z9hG4bK", b"z9hG4bKx")],
        lambda request: [answer(request).replace(b"OPTIONS", b"INVITE")],
        lambda request: [b"x" * 1000] * 300,
    ],
    ids=["garbage", "call-id", "branch", "cseq", "flood"],
)
def test_what_is_no_answer_to_us_is_silence_with_a_hint(reply: Reply) -> None:
    with udp_server(reply) as port:
        found = look("127.0.0.1", port)
    assert found.finding is Finding.SILENT
    assert "no answer to SIP OPTIONS" in found.detail


def test_garbage_before_the_answer_does_not_hide_it() -> None:
    with udp_server(
        lambda request: [b"garbage", b"", answer(request).replace(b"1 OPTIONS", b"7 OPTIONS"), answer(request)]
    ) as port:
        assert look("127.0.0.1", port).finding is Finding.ANSWERED


@pytest.mark.usefixtures("_impatient")
def test_an_answer_from_another_address_is_not_believed() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway,
    ):
        liar.bind(("127.0.0.2", 0))
        gateway.bind(("127.0.0.1", 0))

        def lie() -> None:
            request, peer = gateway.recvfrom(65535)
            liar.sendto(answer(request), peer)

        thread = threading.Thread(target=lie, name="liar")
        thread.start()
        found = look("127.0.0.1", gateway.getsockname()[1])
        thread.join()
    assert found.finding is Finding.SILENT


# TCP and TLS


def test_a_carrier_over_tcp_answers_after_keep_alives_and_in_pieces() -> None:
    def in_pieces(request: bytes) -> list[bytes]:
        whole = answer(request)
        return [b"\r\n\r\n", b"OPTIONS sip:us SIP/2.0\r\nContent-Length: 4\r\n\r\nbody", whole[:20], whole[20:]]

    with stream_server(in_pieces) as port:
        found = look("127.0.0.1", port, "TCP")
    assert (found.finding, found.connected, found.seen_as) == (Finding.ANSWERED, True, "203.0.113.9")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "data", [[], [b"HTTP/1.1 400 Bad Request\r\n\r\n"], [b"x" * 100_000]], ids=["closes", "http", "huge"]
)
def test_a_tcp_port_that_does_not_speak_sip_is_silent_but_connected(data: list[bytes]) -> None:
    with stream_server(lambda _: data) as port:
        found = look("127.0.0.1", port, "TCP")
    assert (found.finding, found.connected) == (Finding.SILENT, True)


def test_tcp_where_nothing_listens_is_refused() -> None:
    with closed_port(socket.SOCK_STREAM) as port:
        found = look("127.0.0.1", port, "TCP")
    assert (found.finding, found.connected) == (Finding.REFUSED, False)


@pytest.fixture
def sip_names() -> Iterator[Names]:
    with dns_server({("sip.example.test", "A"): ["127.0.0.1"]}) as resolver:
        yield Names(resolver)


def test_a_trusted_certificate_for_the_name_holds(tmp_path: Path, sip_names: Names) -> None:
    carrier = TlsCarrier(tmp_path, "sip.example.test")
    with stream_server(lambda request: [answer(request)], carrier.context) as port:
        found = look("sip.example.test", port, "TLS", carrier.trusting(sip_names))
        by_address = look("127.0.0.1", port, "TLS", carrier.trusting(sip_names))
    assert by_address.finding is Finding.TLS_FAILED, "the certificate does not name the address"
    assert found.finding is Finding.ANSWERED, found.detail
    assert found.tls is not None
    assert found.tls.startswith("TLSv1.2, certificate valid until ")


def test_a_certificate_of_an_authority_that_nobody_trusts_fails(tmp_path: Path, sip_names: Names) -> None:
    carrier = TlsCarrier(tmp_path, "sip.example.test")
    with stream_server(lambda request: [answer(request)], carrier.context) as port:
        found = look("sip.example.test", port, "TLS", Viewpoint(names=sip_names))
    assert (found.finding, found.connected, found.tls) == (Finding.TLS_FAILED, True, None)
    assert "not trusted" in found.detail


def test_a_certificate_for_another_name_fails(tmp_path: Path, sip_names: Names) -> None:
    carrier = TlsCarrier(tmp_path, "other.example.test")
    with stream_server(lambda request: [answer(request)], carrier.context) as port:
        found = look("sip.example.test", port, "TLS", carrier.trusting(sip_names))
    assert found.finding is Finding.TLS_FAILED
    assert "not for sip.example.test" in found.detail


def test_a_port_that_speaks_no_tls_fails_the_handshake() -> None:
    with stream_server(lambda _: [b"SIP/2.0 400 Bad Request\r\n\r\n"]) as port:
        found = look("127.0.0.1", port, "TLS")
    assert found.finding is Finding.TLS_FAILED
    assert "speaks TLS" in found.detail


def test_a_port_that_never_handshakes_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        found = look("127.0.0.1", mute.getsockname()[1], "TLS")
    assert (found.finding, found.connected) == (Finding.TLS_FAILED, True)


# Names


def test_srv_leads_to_the_carrier_and_the_next_is_tried_when_the_first_refuses(carrier: Carrier) -> None:
    with closed_port(socket.SOCK_DGRAM) as port:
        records = {
            ("_sip._udp.example.test", "SRV"): [
                f"20 0 {carrier.port} second.example.test.",
                f"10 0 {port} first.example.test.",
            ],
            ("first.example.test", "A"): ["127.0.0.1"],
            ("second.example.test", "A"): ["127.0.0.1"],
        }
        with dns_server(records) as resolver:
            found = look("example.test", None, viewpoint=Viewpoint(names=Names(resolver)))
    assert [target.port for target in found.targets] == [port, carrier.port]
    assert found.finding is Finding.ANSWERED
    assert str(found.target) == carrier.address


@pytest.mark.parametrize(("transport", "port"), [("UDP", 5060), ("TCP", 5060), ("TLS", 5061)])
def test_a_name_without_srv_has_the_transports_own_port(transport: str, port: int) -> None:
    with dns_server({("example.test", "A"): ["192.0.2.7", "192.0.2.8"]}) as resolver:
        targets = asyncio.run(Names(resolver).targets("example.test", None, transport))
    assert sorted(map(str, targets)) == [f"192.0.2.7:{port}", f"192.0.2.8:{port}"]


@pytest.mark.parametrize(("transport", "service"), [("UDP", "_sip._udp"), ("TCP", "_sip._tcp"), ("TLS", "_sips._tcp")])
def test_each_transport_has_an_srv_name_of_its_own_and_a_port_rules_it_out(transport: str, service: str) -> None:
    records = {
        (f"{service}.example.test", "SRV"): ["10 1 5080 a.example.test.", "10 9 5081 six.example.test."],
        ("a.example.test", "A"): ["192.0.2.7"],
        ("six.example.test", "AAAA"): ["2001:db8::7"],
        ("example.test", "A"): ["192.0.2.9"],
    }
    with dns_server(records) as resolver:
        by_srv = asyncio.run(Names(resolver).targets("example.test", None, transport))
        by_port = asyncio.run(Names(resolver).targets("example.test", 5099, transport))
    assert list(map(str, by_srv)) == ["[2001:db8::7]:5081", "192.0.2.7:5080"], "by weight"
    assert list(map(str, by_port)) == ["192.0.2.9:5099"]


@pytest.mark.parametrize(
    "records",
    [
        {},
        {("_sip._udp.example.test", "SRV"): ["10 0 5060 gone.example.test."]},
        {("_sip._udp.example.test", "SRV"): ["0 0 0 ."], ("example.test", "A"): ["127.0.0.1"]},
        {("example.test", "TXT"): ["no address"]},
    ],
    ids=["no such name", "SRV to nowhere", "decidedly no service", "no address"],
)
def test_a_name_that_leads_nowhere_is_no_name_with_what_to_do(records: dict[tuple[str, str], list[str]]) -> None:
    with dns_server(records) as resolver:
        found = look("example.test", None, viewpoint=Viewpoint(names=Names(resolver)))
    assert found.finding is Finding.NO_NAME
    assert ": " in found.detail


def test_a_dns_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.gateway_names.DNS_SECONDS", 0.3)
    with dns_server({}, answers=False) as resolver:
        found = look("example.test", 5060, viewpoint=Viewpoint(names=Names(resolver)))
    assert found.finding is Finding.NO_NAME
    assert "No DNS server answers" in found.detail


def test_the_hosts_file_goes_before_dns(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# 192.0.2.1 gw\n::1 gw\n192.0.2.5  other GW # gw.example\nnonsense gw\n")
    with dns_server({("gw", "A"): ["192.0.2.9"]}, answers=False) as resolver:
        targets = asyncio.run(Names(resolver, hosts=hosts).targets("gw", 5060, "UDP"))
    assert list(map(str, targets)) == ["192.0.2.5:5060", "[::1]:5060"]
