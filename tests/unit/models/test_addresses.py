"""The four address settings: what each text means, and that a wrong one is refused in a line that names its variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.addresses import RtpPorts, SipBind, is_local, local_networks
from models.errors import Invalid
from models.settings import GivenSettings, Settings, read_settings


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1", "127.0.0.1", 5060, True),
        ("127.0.0.2:0", "127.0.0.2", 0, True),
        ("0.0.0.0:5070", "0.0.0.0", 5070, False),
        (" 203.0.113.5:5060 ", "203.0.113.5", 5060, False),
    ],
)
def test_a_bind_is_an_address_and_a_port(text: str, host: str, port: int, loopback: bool) -> None:
    bind = SipBind.parse(text)
    assert (bind.host, bind.port, bind.is_loopback) == (host, port, loopback)


@pytest.mark.parametrize(
    ("text", "first", "last", "calls"),
    [
        ("10000-10799", 10_000, 10_799, 400),
        ("10000-20000", 10_000, 19_999, 5000),  # as Asterisk's own examples have it
        ("10001-10004", 10_002, 10_003, 1),
        (" 1024 - 65535 ", 1024, 65_535, 32_256),
    ],
)
def test_a_range_is_a_pair_of_ports_a_call(text: str, first: int, last: int, calls: int) -> None:
    ports = RtpPorts.parse(text)
    assert (ports.first, ports.last, ports.calls) == (first, last, calls)
    assert RtpPorts.parse(str(ports)) == ports


def test_local_are_the_private_networks_unless_others_are_named_and_loopback_always() -> None:
    assert local_networks("") == ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    assert local_networks("192.168.7.9/24, 100.64.0.0/10") == ("127.0.0.0/8", "192.168.7.0/24", "100.64.0.0/10")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("sip_bind", text) for text in ("", "5060", "sip.example.com:5060", "0.0.0.0:", "0.0.0.0:x", "1.2.3.4:5060:1")),
        *(("sip_bind", text) for text in ("[::]:5060", "::", "0.0.0.0:80", "0.0.0.0:65535", "0.0.0.0:-1", "1.2.3.4/8")),
        *(("rtp_ports", text) for text in ("10000", "10000-", "20000-10000", "10001-10002", "80-90", "60000-70000", "a-b")),
        *(("external_address", text) for text in ("203.0.113.7:5060", "1.2.3", "[2001:db8::1]", "a b", "1.2.3.4\n[evil]")),
        *(("external_address", text) for text in ("127.0.0.1", "0.0.0.0", "224.0.0.1")),
        *(("local_networks", text) for text in ("10.0.0.0/33", "home", "10.0.0.0 8", "fd00::/8")),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(field: str, text: str) -> None:
    with pytest.raises(Invalid, match=f"^TRUNKLINE_{field.upper()}: ") as refused:
        read_settings(Settings, **{field: text})
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_empty_is_not_set() -> None:
    settings = read_settings(external_address="", rtp_ports="", local_networks="")
    assert (settings.external_address, settings.rtp_ports) == (None, None)


def test_what_was_given_holds_nothing_that_an_earlier_run_left_behind(tmp_path: Path) -> None:
    (tmp_path / "runtime.json").write_text('{"rtp_ports": "20000-20799", "redis_url": "redis://gone"}')
    assert Settings(home=tmp_path).rtp_ports == "20000-20799"
    given = read_settings(GivenSettings, home=tmp_path)
    assert (given.rtp_ports, given.redis_url) == (None, None)


@pytest.mark.parametrize(
    ("address", "networks", "is_so"),
    [
        ("192.168.1.5", (), True),
        ("127.0.0.1", (), True),
        ("8.8.4.4", (), False),
        ("sip.example.com", (), False),
        ("192.168.1.5", ("203.0.113.0/24",), False),
        ("203.0.113.9", ("203.0.113.0/24",), True),
    ],
)
def test_an_address_is_local_in_the_networks_named_or_else_in_those_of_rfc_1918(
    address: str, networks: tuple[str, ...], is_so: bool
) -> None:
    assert is_local(address, local_networks(",".join(networks))) is is_so
    if not networks:
        assert is_local(address) is is_so
