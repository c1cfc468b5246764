"""The addresses asked for, held against this machine: what cannot be had is refused, and nothing is changed in silence."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from deploy.embedded.addresses import Reach, find_reach
from deploy.part import free_port, taken_port
from models.addresses import PRIVATE_NETWORKS
from models.errors import Invalid
from models.settings import GivenSettings, read_settings


def reach(known_sip_port: int | None = None, known_rtp_port: int | None = None, **given: str) -> Reach:
    return find_reach(
        read_settings(GivenSettings, **given), known_sip_port=known_sip_port, known_rtp_port=known_rtp_port
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A UDP port, on every address of this machine, that somebody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        somebody.bind(("0.0.0.0", 0))
        yield somebody.getsockname()[1]


def test_on_loopback_another_port_is_taken_when_the_one_asked_for_is(taken: int) -> None:
    found = reach(sip_bind=f"127.0.0.1:{taken}")
    assert found.sip_port not in (taken - 1, taken)


@pytest.mark.parametrize("above", [0, 1], ids=["SIP's", "TLS's"])
def test_elsewhere_a_taken_port_is_an_error(taken: int, above: int) -> None:
    with pytest.raises(Invalid, match=f"^TRUNKLINE_SIP_BIND: port {taken} is taken"):
        reach(sip_bind=f"0.0.0.0:{taken - above}")


def test_a_port_that_was_asked_for_comes_before_the_one_of_an_earlier_run() -> None:
    asked, earlier = free_port(span=2), free_port(span=2)
    assert reach(sip_bind=f"127.0.0.1:{asked}", known_sip_port=earlier).sip_port == asked
    assert reach(sip_bind=f"0.0.0.0:{asked}", known_sip_port=earlier).sip_port == asked
    assert reach(known_sip_port=earlier).sip_port == earlier


def test_an_address_that_only_the_router_has_is_refused_with_the_way_to_say_it() -> None:
    with pytest.raises(
        Invalid, match=r"TRUNKLINE_SIP_BIND=0\.0\.0\.0:5060 and TRUNKLINE_EXTERNAL_ADDRESS=203\.0\.113\.5"
    ):
        reach(sip_bind="203.0.113.5:5060")


def test_an_external_address_is_refused_while_sip_is_on_loopback() -> None:
    with pytest.raises(Invalid, match=r"^TRUNKLINE_EXTERNAL_ADDRESS: .*TRUNKLINE_SIP_BIND"):
        reach(external_address="203.0.113.5")


def test_an_external_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Invalid, match=r"^TRUNKLINE_EXTERNAL_ADDRESS: nobody\.invalid has no IPv4 address"):
        reach(sip_bind="0.0.0.0:0", external_address="nobody.invalid")


def test_carriers_are_told_the_external_address_and_the_private_networks_are_not() -> None:
    found = reach(sip_bind="0.0.0.0:0", external_address="203.0.113.5")
    assert found.sip_address == "203.0.113.5"
    assert set(PRIVATE_NETWORKS) < set(found.local_networks)


def test_carriers_are_told_the_address_bound_to_or_where_it_is_all_the_one_that_leads_out() -> None:
    assert reach(sip_bind="127.0.0.1:0").sip_address == "127.0.0.1"
    told = reach(sip_bind="0.0.0.0:0").sip_address
    assert reach(sip_bind=f"{told}:0").sip_host == told, "it is one of this machine's"


def test_the_ports_for_audio_are_the_ones_asked_for() -> None:
    first = free_range(10)
    assert str(reach(rtp_ports=f"{first}-{first + 9}").rtp_ports) == f"{first}-{first + 9}"


def test_a_taken_port_for_audio_is_an_error(taken: int) -> None:
    first = taken - taken % 2
    with pytest.raises(Invalid, match=f"^TRUNKLINE_RTP_PORTS: UDP port {taken} is taken"):
        reach(sip_bind="127.0.0.1:0", rtp_ports=f"{first}-{first + 1}")


def test_sips_own_port_is_none_for_audio() -> None:
    port = free_port(span=2)
    with pytest.raises(Invalid, match=f"^TRUNKLINE_RTP_PORTS: .*{port}"):
        reach(sip_bind=f"0.0.0.0:{port}", rtp_ports=f"{port - 10}-{port + 10}")


def test_without_a_range_a_free_one_is_chosen_and_kept_as_long_as_it_is_free(taken: int) -> None:
    chosen = reach().rtp_ports
    assert chosen.calls == 400
    assert reach(known_rtp_port=chosen.first).rtp_ports == chosen
    assert reach(known_rtp_port=taken - taken % 2).rtp_ports.first != taken - taken % 2


def free_range(count: int) -> int:
    return next(
        first
        for first in range(30_000, 32_000, count)
        if taken_port(first, first + count - 1, "127.0.0.1", [socket.SOCK_DGRAM]) is None
    )
