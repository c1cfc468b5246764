"""Every form of trunk that a provider may want, as the carrier sees it, on one system.

Names end in example.net and the like: Asterisk's resolver keeps `test` and `invalid` for itself.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trustme

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier, Certificate
from deploy.carrier.numbers import fictional_number
from deploy.carrier.people import area_codes
from deploy.carrier.witness import CarrierCall
from scheduler import trunks
from scheduler.trunks import Gateway, TrunkCreate
from tests.integration.loopback_dns import dns_server
from tests.integration.system import PASSWORD, USERNAME, System, until

README = Path(__file__).parents[2] / "README.md"
ANSWERS, BUSY = "01", "86"
CREDENTIALS = {"auth_type": "userpass", "auth_username": USERNAME, "auth_password": PASSWORD}


@dataclass(frozen=True, kw_only=True)
class Providers:
    """Carriers of every transport and the names they go by.

    rogue: on TLS, with a certificate for the right names by an authority that nobody trusts.
    """

    system: System
    names: dict[tuple[str, str], list[str]]
    silent: set[str]  #: names of which the DNS server says nothing
    udp: Carrier
    tcp: Carrier
    tls: Carrier
    rogue: Carrier
    authority: trustme.CA
    agent: UUID
    _count: Iterator[int] = field(default_factory=lambda: count(100))

    def trunk(self, *gateways: str, **form: Any) -> str:
        """A trunk of that form; returns a number registered on it."""
        number = f"+1203555{next(self._count):04}"
        name = f"form-{number[-4:]}"
        new = TrunkCreate.model_validate(
            {
                "name": name,
                "gateways": [Gateway.parse(each, priority=at) for at, each in enumerate(gateways, 1)],
                **CREDENTIALS,
                **form,
            }
        )
        with self.system.engine.begin() as connection:
            trunks.create(connection, new)
        self.register(number, name)
        return number

    def register(self, number: str, trunk: str) -> None:
        self.system.run(
            "INSERT INTO phone_numbers (phone_number, trunk_id) SELECT %(n)s, id FROM trunks WHERE name = %(t)s",
            n=number,
            t=trunk,
        )

    def call(self, from_number: str, digits: str = BUSY) -> Call:
        """Somebody new is called, and the call is over."""
        to = fictional_number(area_codes()[next(self._count)], digits)
        call_id = self.system.call(self.agent, from_number, to)
        until(
            lambda: self.system.value("SELECT ended_at FROM calls WHERE id = %(id)s", id=call_id), what=f"{to} is over"
        )
        status, disposition, sip_code = self.system.rows(
            "SELECT status, disposition, sip_code FROM calls WHERE id = %(id)s", id=call_id
        )[0]
        return Call(to=to, status=status, disposition=disposition, sip_code=sip_code)


@dataclass(frozen=True, kw_only=True)
class Call:
    to: str
    status: str
    disposition: str
    sip_code: int | None

    def at(self, carrier: Carrier) -> list[CarrierCall]:
        """What this carrier has seen of it."""
        return [seen for seen in witness.read(carrier.log) if seen.number.lstrip("+") == self.to.lstrip("+")]

    def seen_by(self, carrier: Carrier) -> CarrierCall:
        (seen,) = self.at(carrier)
        return seen

    @property
    def not_reached(self) -> bool:
        """It ended as it does when the carrier cannot be reached."""
        return (self.status, self.disposition, self.sip_code) == ("failed", "congestion", None)  # and nobody said so


def certificate(authority: trustme.CA, directory: Path, *names: str) -> Certificate:
    directory.mkdir()
    leaf = authority.issue_cert(*names)
    (directory / "chain.pem").write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(directory / "key.pem")
    return Certificate(chain=directory / "chain.pem", key=directory / "key.pem")


def loopback_network() -> str:
    """The first three numbers of addresses of this machine's that nobody else is using."""
    return f"127.{secrets.randbelow(200) + 10}.{secrets.randbelow(250)}"


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    home = tmp_path_factory.mktemp("forms")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "authority.pem")
    subjects = ("tls.example.net", "*.wild.example.net", "127.0.0.1")
    shown = certificate(authority, home / "trusted", *subjects)
    untrusted = certificate(trustme.CA(), home / "untrusted", *subjects)
    with ExitStack() as stack:
        names = {
            (f"{host}.example.net", "A"): ["127.0.0.1"] for host in ("plain", "tls", "any.wild", "srv.wild", "other")
        }
        silent: set[str] = set()
        resolver = stack.enter_context(dns_server(names, silent=silent))
        system = stack.enter_context(
            System(
                home / "system", challenge=True, ca_file=home / "authority.pem", nameserver=f"127.0.0.1@{resolver.port}"
            )
        )

        def carrier(name: str, **kind: Any) -> Carrier:
            return stack.enter_context(
                Carrier(
                    tree=system.tree.root,
                    directory=home / name,
                    username=USERNAME,
                    password=PASSWORD,
                    challenge=True,
                    **kind,
                )
            )

        yield Providers(
            system=system,
            names=names,
            silent=silent,
            udp=system.carrier,
            tcp=carrier("tcp", transport="TCP"),
            tls=carrier("tls", certificate=shown),
            rogue=carrier("rogue", certificate=untrusted),
            authority=authority,
            agent=system.add_agent("forms"),
        )


# ---------------------------------------------------------------------------------------------
# Who calls, and whom
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plus", [True, False])
def test_the_dialled_number_has_its_plus_if_the_trunk_wants_it(providers: Providers, plus: bool) -> None:
    call = providers.call(providers.trunk(providers.udp.address, outbound_leading_plus_enabled=plus))
    assert call.seen_by(providers.udp).number == (call.to if plus else call.to[1:])


ACCOUNT = {"from_user": "acme", "from_domain": "sip.acme.example"}


@pytest.mark.parametrize(
    ("form", "from_user", "from_domain", "contact_user", "asserts"),
    [
        ({}, None, "127.0.0.1", "asterisk", False),
        ({"from_user": "acme"}, "acme", "127.0.0.1", "acme", False),
        ({"from_domain": "sip.acme.example"}, None, "sip.acme.example", "asterisk", False),
        ({"contact_user": "acme"}, None, "127.0.0.1", "acme", False),
        ({"send_pai": True}, None, "127.0.0.1", "asterisk", True),
        ({**ACCOUNT, "contact_user": "c", "send_pai": True}, "acme", "sip.acme.example", "c", True),
    ],
)
def test_the_caller_is_named_as_the_trunk_says(
    providers: Providers,
    form: dict[str, object],
    from_user: str | None,
    from_domain: str,
    contact_user: str,
    asserts: bool,
) -> None:
    number = providers.trunk(providers.udp.address, **form)
    seen = providers.call(number).seen_by(providers.udp)
    assert (seen.from_number, seen.from_domain, seen.contact_user) == (from_user or number, from_domain, contact_user)
    assert seen.asserted_number == (number if asserts else None)


def test_a_trunk_that_is_changed_is_changed_for_the_very_next_call(providers: Providers) -> None:
    number = providers.trunk(providers.udp.address)
    assert providers.call(number).seen_by(providers.udp).transport == "UDP"
    trunk = f"form-{number[-4:]}"
    providers.system.trunkline(
        *("trunk", "update", trunk, "--gateway", providers.tls.address, "--transport", "transport-tls"),
        *("--media-encryption", "sdes", "--no-leading-plus", "--from-user", "acme", "--send-pai"),
    )
    seen = providers.call(number).seen_by(providers.tls)
    assert (seen.transport, seen.profile) == ("TLS", "RTP/SAVP")
    assert (seen.number[0], seen.from_number, seen.asserted_number) == ("1", "acme", number)


# ---------------------------------------------------------------------------------------------
# Transports
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_a_call_is_answered_and_ends_over(providers: Providers, transport: str) -> None:
    carrier: Carrier = getattr(providers, transport)
    call = providers.call(providers.trunk(carrier.address, transport=f"transport-{transport}"), ANSWERS)
    seen = call.seen_by(carrier)
    assert (call.status, seen.end, seen.digest) == ("completed", "bye-sent", "right")
    assert (seen.transport, seen.profile, seen.crypto) == (transport.upper(), "RTP/AVP", None)


def test_audio_is_encrypted_if_the_trunk_says_so(providers: Providers) -> None:
    number = providers.trunk(providers.tls.address, transport="transport-tls", media_encryption="sdes")
    call = providers.call(number, ANSWERS)
    seen = call.seen_by(providers.tls)
    assert (call.status, seen.end) == ("completed", "bye-sent")
    assert (seen.profile, seen.crypto) == ("RTP/SAVP", "AES_CM_128_HMAC_SHA1_80")


@pytest.mark.parametrize("host", ["127.0.0.1", "tls.example.net", "any.wild.example.net"])
def test_a_certificate_for_the_gateway_by_a_trusted_authority_is_accepted(providers: Providers, host: str) -> None:
    call = providers.call(providers.trunk(f"{host}:{providers.tls.port}", transport="transport-tls"))
    assert (call.status, call.seen_by(providers.tls).transport) == ("busy", "TLS")


def test_a_certificate_for_another_name_is_refused_and_no_call_is_sent(providers: Providers) -> None:
    call = providers.call(providers.trunk(f"other.example.net:{providers.tls.port}", transport="transport-tls"))
    assert call.not_reached
    assert call.at(providers.tls) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "tls.example.net"])
def test_a_certificate_by_a_stranger_is_refused_and_no_call_is_sent(providers: Providers, host: str) -> None:
    call = providers.call(providers.trunk(f"{host}:{providers.rogue.port}", transport="transport-tls"))
    assert call.not_reached
    assert call.at(providers.rogue) == []


# ---------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------


def test_a_gateway_may_be_a_name(providers: Providers) -> None:
    call = providers.call(providers.trunk(f"plain.example.net:{providers.udp.port}"))
    assert call.seen_by(providers.udp).request_uri == f"sip:{call.to}@plain.example.net:{providers.udp.port}"


def test_a_name_that_nobody_has_is_not_reached(providers: Providers) -> None:
    assert providers.call(providers.trunk(f"nobody.example.net:{providers.udp.port}")).not_reached


@pytest.mark.parametrize(
    ("transport", "service", "host"),
    [("udp", "_sip._udp", "plain"), ("tcp", "_sip._tcp", "plain"), ("tls", "_sips._tcp", "srv.wild")],
)
def test_a_name_without_a_port_is_found_by_its_srv_record(
    providers: Providers, transport: str, service: str, host: str
) -> None:
    carrier: Carrier = getattr(providers, transport)
    providers.names[f"{service}.{host}.example.net", "SRV"] = [f"10 10 {carrier.port} plain.example.net."]
    call = providers.call(providers.trunk(f"{host}.example.net", transport=f"transport-{transport}"))
    assert (call.status, call.seen_by(carrier).transport) == ("busy", transport.upper())


def test_the_transport_is_the_trunks_whatever_a_naptr_record_prefers(providers: Providers) -> None:
    providers.names["naptr.example.net", "NAPTR"] = [
        '10 10 "s" "SIPS+D2T" "" _sips._tcp.naptr.example.net.',
        '20 10 "s" "SIP+D2U" "" _sip._udp.naptr.example.net.',
    ]
    providers.names["_sips._tcp.naptr.example.net", "SRV"] = [f"10 10 {providers.tls.port} tls.example.net."]
    providers.names["_sip._udp.naptr.example.net", "SRV"] = [f"10 10 {providers.udp.port} plain.example.net."]
    call = providers.call(providers.trunk("naptr.example.net"))
    assert (call.status, call.seen_by(providers.udp).transport) == ("busy", "UDP")


def test_a_certificate_has_to_be_for_the_gateway_and_not_for_where_its_srv_record_points(providers: Providers) -> None:
    providers.names["_sips._tcp.pointer.example.net", "SRV"] = [f"10 10 {providers.tls.port} tls.example.net."]
    call = providers.call(providers.trunk("pointer.example.net", transport="transport-tls"))
    assert call.not_reached
    assert call.at(providers.tls) == []


@pytest.fixture(scope="module")
def twin(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    """Like the carrier on UDP, on the same port of another address."""
    with Carrier(
        tree=providers.system.tree.root,
        directory=tmp_path_factory.mktemp("twin"),
        username=USERNAME,
        password=PASSWORD,
        challenge=True,
        host=loopback_network() + ".3",
        port=providers.udp.port,
    ) as carrier:
        yield carrier


@pytest.mark.parametrize("digits", ["53", "08", "55", ANSWERS])  # 503, 408, and 503 after it rang
def test_an_attempt_is_one_invite_to_one_address_however_many_a_name_has(
    providers: Providers, twin: Carrier, digits: str
) -> None:
    """Asterisk would send a second one by itself, if it knew of a second address (RFC 3263, 4.3)."""
    providers.names[f"both-{digits}.example.net", "A"] = [providers.udp.host, twin.host]
    number = providers.trunk(f"both-{digits}.example.net:{twin.port}")
    call = providers.call(number, digits)
    (seen,) = [*call.at(providers.udp), *call.at(twin)]
    assert (seen.digest, seen.status) == ("right", call.sip_code or 200)
    assert (seen.ringing_at is not None) == (digits in ("55", ANSWERS))
    assert providers.system.value("SELECT count(*) FROM attempts WHERE from_number = %(n)s", n=number) == 1


def test_the_addresses_of_a_name_take_turns(providers: Providers, twin: Carrier) -> None:
    providers.names["turns.example.net", "A"] = [providers.udp.host, twin.host]
    number = providers.trunk(f"turns.example.net:{twin.port}")

    def next_call() -> tuple[int, int]:
        call = providers.call(number)
        assert call.status == "busy"  # asked for credentials by one, and given to the same
        return len(call.at(providers.udp)), len(call.at(twin))

    for seen in ((1, 0), (0, 1)):
        until(lambda seen=seen: next_call() == seen, within=60, what=f"a call is seen so: {seen}")  # type: ignore[misc]


@pytest.mark.parametrize(("digits", "status"), [("53", "busy"), ("55", "failed")])  # 503; 503 after it rang
def test_after_an_address_of_a_name_comes_the_next_gateway_and_only_if_it_did_not_ring(
    providers: Providers, tmp_path: Path, digits: str, status: str
) -> None:
    network = loopback_network()
    with ExitStack() as stack:
        port = 0
        failing = []
        for last in (1, 2):
            failing.append(
                stack.enter_context(
                    Carrier(
                        tree=providers.system.tree.root,
                        directory=tmp_path / str(last),
                        username=USERNAME,
                        password=PASSWORD,
                        challenge=True,
                        host=f"{network}.{last}",
                        port=port,
                        always=digits,
                    )
                )
            )
            port = failing[0].port
        providers.names[f"failing-{digits}.example.net", "A"] = [carrier.host for carrier in failing]
        number = providers.trunk(f"failing-{digits}.example.net:{port}", providers.udp.address)
        call = providers.call(number)
        (refused,) = [seen for carrier in failing for seen in call.at(carrier)]
    assert (call.status, refused.status) == (status, 503)
    delivered = call.at(providers.udp)
    assert len(delivered) == (status == "busy")
    assert refused.sip_call_id not in {seen.sip_call_id for seen in delivered}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_dead_target_of_a_srv_record_ends_its_attempt_and_the_next_gateway_may_name_the_second(
    providers: Providers, transport: str
) -> None:
    carrier: Carrier = getattr(providers, transport)
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    name = f"two-{transport}.example.net"
    with socket.socket(socket.AF_INET, kind) as dead:  # bound, and neither reads nor listens
        dead.bind(("127.0.0.1", 0))
        targets = [
            f"{at} 10 {port} plain.example.net." for at, port in ((10, dead.getsockname()[1]), (20, carrier.port))
        ]
        providers.names[f"_sip._{transport}.{name}", "SRV"] = targets
        call = providers.call(providers.trunk(name, transport=f"transport-{transport}"))
        assert (call.status, call.disposition) == (
            "failed",
            "gateway-unreachable" if transport == "udp" else "congestion",
        )
        assert call.at(carrier) == []
        call = providers.call(providers.trunk(name, carrier.address, transport=f"transport-{transport}"))
    assert (call.status, call.seen_by(carrier).end) == ("busy", "final")


def test_asterisk_asks_our_name_server_and_neither_the_hosts_file_nor_others(providers: Providers) -> None:
    configuration = (providers.system.stack.home / "asterisk/etc/resolver_unbound.conf").read_text()
    assert re.findall(r"^(\w+) *= *(.*)$", configuration, re.MULTILINE) == [
        ("hosts", ""),
        ("resolv", ""),
        ("nameserver", f"127.0.0.1@{option(providers.system.parts['names'].argv, '--port', '')}"),
    ]


def test_a_name_that_is_not_found_in_time_ends_the_attempt_before_its_transaction_does(providers: Providers) -> None:
    """Found later, its INVITE would leave for an attempt that is over."""
    providers.silent.add("slow.example.net")
    number = providers.trunk(f"slow.example.net:{providers.udp.port}")
    try:
        call = providers.call(number)
        assert call.not_reached  # and not `gateway-unreachable`, as Asterisk's timer has it
    finally:
        providers.silent.clear()
    providers.names["slow.example.net", "A"] = [providers.udp.host]
    until(lambda: providers.call(number).status == "busy", what="the name is found again")
    assert call.at(providers.udp) == []


def test_while_the_name_server_is_away_no_name_is_found_and_the_next_gateway_is_an_address(
    providers: Providers,
) -> None:
    number = providers.trunk(f"plain.example.net:{providers.udp.port}", providers.udp.address)
    providers.system.kill("names")
    try:
        until(lambda: providers.call(number).status == "busy", what="the address is called")
        call = providers.call(number)
        assert call.seen_by(providers.udp).request_uri == f"sip:{call.to}@{providers.udp.address}"
    finally:
        providers.system.start("names")
    by_name = providers.trunk(f"plain.example.net:{providers.udp.port}")
    until(lambda: providers.call(by_name).status == "busy", within=120, what="names are found again")


def test_the_check_of_a_trunk_asks_and_trusts_the_same(providers: Providers) -> None:
    providers.names["_sips._tcp.srv.wild.example.net", "SRV"] = [f"10 10 {providers.tls.port} plain.example.net."]
    for gateway, status in (("srv.wild.example.net", 0), (f"tls.example.net:{providers.rogue.port}", 1)):
        number = providers.trunk(gateway, transport="transport-tls")
        providers.system.trunkline("trunk", "check", f"form-{number[-4:]}", status=status)


# ---------------------------------------------------------------------------------------------
# Requests that come in
# ---------------------------------------------------------------------------------------------


def reply(providers: Providers, method: str, *, source: str, user: str = "") -> str:
    """The status line that answers a request sent from `source` to our Asterisk."""
    port = int(re.findall(r"bind = 127\.0\.0\.1:(\d+)", _pjsip_conf(providers))[0])
    token = secrets.token_hex(8)
    uri = f"sip:{user and user + '@'}127.0.0.1:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as provider:
        provider.bind((source, 0))
        provider.settimeout(10)
        here = f"{source}:{provider.getsockname()[1]}"
        request = (
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{token};rport\r\n"
            f"From: <sip:provider@{source}>;tag={token}\r\nTo: <{uri}>\r\nContact: <sip:provider@{here}>\r\n"
            f"Call-ID: {token}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        provider.sendto(request.encode(), ("127.0.0.1", port))
        status = provider.recv(65535).decode().partition("\r\n")[0]
        if method == "INVITE":
            ack = re.sub(r"^INVITE|(?<=CSeq: 1 )INVITE", "ACK", request)
            provider.sendto(ack.encode(), ("127.0.0.1", port))
        return status


def _pjsip_conf(providers: Providers) -> str:
    return (providers.system.stack.home / "asterisk/etc/pjsip.conf").read_text()


def test_requests_from_a_providers_addresses_are_known_and_those_of_others_are_not(providers: Providers) -> None:
    address, network, stranger = "127.9.9.9", "127.9.8.0/24", "127.9.7.1"
    assert reply(providers, "OPTIONS", source=address) == "SIP/2.0 401 Unauthorized"
    number = providers.trunk(providers.udp.address, ip_identifiers=(address, network))
    for source in (address, "127.9.8.77"):
        assert reply(providers, "OPTIONS", source=source) == "SIP/2.0 200 OK"
        # inbound calls are not supported: refused at once, and no channel is made
        assert reply(providers, "INVITE", source=source, user=number) == "SIP/2.0 404 Not Found"
    for method in ("OPTIONS", "INVITE"):
        assert reply(providers, method, source=stranger) == "SIP/2.0 401 Unauthorized"
    providers.system.trunkline("trunk", "disable", f"form-{number[-4:]}")
    assert reply(providers, "OPTIONS", source=address) == "SIP/2.0 401 Unauthorized"


# ---------------------------------------------------------------------------------------------
# The README's examples
# ---------------------------------------------------------------------------------------------


def examples() -> list[list[str]]:
    """The words of every `trunkline trunk create` in the README's section on providers."""
    section = re.search(r"^### Providers$(.*?)^#{2,3} ", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    block = "\n".join(line[4:] for line in section[1].splitlines() if line.startswith("    "))
    commands = [shlex.split(command) for command in block.replace("\\\n", " ").splitlines()]
    assert all(words[:3] == ["trunkline", "trunk", "create"] for words in commands), commands
    return [words[1:] for words in commands]


def options(words: Sequence[str], name: str) -> list[str]:
    return [value for option, value in pairwise(words) if option == name]


def option(words: Sequence[str], name: str, default: str) -> str:
    return (options(words, name) or [default])[0]


@pytest.fixture(scope="module")
def readme_carriers(
    providers: Providers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Carrier]]:
    """By form and transport, on SIP's own ports: the README's addresses name them, or none."""
    home = tmp_path_factory.mktemp("readme")
    (username,) = {name for words in examples() for name in options(words, "--username")}
    hosts = {gateway.partition(":")[0] for words in examples() for gateway in options(words, "--gateway")}
    shown = certificate(providers.authority, home / "certificate", *sorted(hosts))
    network = loopback_network()
    with ExitStack() as stack:
        yield {
            (form, transport): stack.enter_context(
                Carrier(
                    tree=providers.system.tree.root,
                    directory=home / f"{form}-{transport}",
                    username=username,
                    password=PASSWORD,
                    challenge=form == "userpass",
                    host=f"{network}.{1 if form == 'userpass' else 2}",
                    port=5061 if transport == "tls" else 5060,
                    certificate=shown if transport == "tls" else None,
                )
            )
            for form in ("userpass", "ip-based")
            for transport in ("udp", "tls")
        }


def test_there_is_an_example_of_each_form_for_each_provider() -> None:
    forms = [(option(words, "--provider", "any other"), option(words, "--auth-type", "")) for words in examples()]
    wanted = {(name, form) for name in ("Twilio", "Plivo", "Telnyx", "any other") for form in ("userpass", "ip-based")}
    assert set(forms) >= wanted


@pytest.mark.parametrize("words", examples(), ids=lambda words: words[2])
def test_an_example_of_the_readme_makes_a_trunk_that_calls(
    providers: Providers, readme_carriers: dict[tuple[str, str], Carrier], words: list[str]
) -> None:
    form = option(words, "--auth-type", "")
    transport = option(words, "--transport", "transport-udp").removeprefix("transport-")
    carrier = readme_carriers[form, transport]
    for gateway in options(words, "--gateway"):
        providers.names[gateway.partition(":")[0], "A"] = [carrier.host]
    providers.system.trunkline(*words, text=f"{PASSWORD}\n")
    number = f"+1203556{next(providers._count):04}"
    providers.system.trunkline("number", "add", number, "--trunk", words[2])
    call = providers.call(number, ANSWERS)
    seen = call.seen_by(carrier)
    assert (call.status, seen.transport) == ("completed", transport.upper())
    assert seen.request_uri.partition("@")[2].split(";")[0] == options(words, "--gateway")[0]
    assert seen.digest == ("right" if form == "userpass" else "none")
    assert seen.profile == ("RTP/SAVP" if "sdes" in words else "RTP/AVP")
    assert seen.number.startswith("+") == ("--no-leading-plus" not in words)
    assert seen.from_number == option(words, "--from-user", number)
    assert seen.from_domain == option(words, "--from-domain", "127.0.0.1")
    assert seen.asserted_number == (number if "--send-pai" in words else None)
