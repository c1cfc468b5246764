"""Which addresses a webhook may go to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.receivers import is_public

PRIVATE = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    *("198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    *("::/128", "::1/128", "fe80::/10", "fc00::/7", "fec0::/10", "ff00::/8", "2001:db8::/32", "100::/64"),
    *("2002::/16", "2001::/32", "64:ff9b:1::/48", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),
]  # fmt: skip
"""RFC 6890 and what came after it: of this machine, of its networks, many at once, or nobody's."""


@pytest.mark.parametrize("network", PRIVATE)
@given(data=st.data())
def test_no_address_of_a_private_network_is_public(network: str, data: st.DataObject) -> None:
    address = data.draw(st.ip_addresses(network=network))
    assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_an_address_in_the_disguise_of_ipv6_is_what_it_is_without_it(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        disguised = IPv6Address(int(IPv6Address(prefix)) + int(address))
        assert is_public(str(disguised)) == is_public(str(address))
    assert not is_public(str(IPv6Address(int(address)))), "the form of RFC 4291, 2.5.5.1, is nobody's any more"


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"])
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "::1%lo"])
def test_an_address_with_a_zone_is_of_this_network(text: str) -> None:
    assert not is_public(text)
