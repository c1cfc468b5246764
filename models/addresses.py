"""How carriers reach the embedded Asterisk, as it is set: each text is checked when it is read, and what it means is here.

    TRUNKLINE_SIP_BIND          where it listens, on this machine
    TRUNKLINE_EXTERNAL_ADDRESS  what carriers are told instead, where a NAT stands between
    TRUNKLINE_LOCAL_NETWORKS    who is on this side of that NAT and is told the machine's own address
    TRUNKLINE_RTP_PORTS         its UDP ports for audio

Every function raises `Invalid`, naming its variable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from models.agents import check_host
from models.errors import Invalid

SIP_PORT = 5060
LOOPBACK = "127.0.0.0/8"
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")  # RFC 1918
_LOWEST, _HIGHEST = 1024, 65_535  # what is lower needs root, as which Asterisk does not run
_NO_NAME = re.compile(r"\[.*|[0-9.]*")
_PORTS = re.compile(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SipBind:
    """An IPv4 address of this machine, or 0.0.0.0 for all, and a port; TLS is one above. Port 0: any that is free.

    No IPv6: a transport of Asterisk's that is bound to IPv6 reaches no carrier on IPv4.
    """

    host: str
    port: int = SIP_PORT

    @classmethod
    def parse(cls, text: str) -> SipBind:
        host, colon, port = text.strip().partition(":")
        try:
            bind = cls(host=str(ipaddress.IPv4Address(host)), port=int(port) if colon else SIP_PORT)
        except ValueError as error:
            raise Invalid(
                "TRUNKLINE_SIP_BIND",
                f"must be an IPv4 address of this machine and a port, such as 0.0.0.0:5060 (got {text!r})",
            ) from error
        if bind.port and not _LOWEST <= bind.port < _HIGHEST:
            raise Invalid(
                "TRUNKLINE_SIP_BIND",
                f"the port must be from {_LOWEST} to {_HIGHEST - 1}, since TLS takes the one above it (got {text!r})",
            )
        return bind

    @property
    def is_loopback(self) -> bool:
        """No carrier but one on this machine can reach it, or be reached from it."""
        return ipaddress.IPv4Address(self.host).is_loopback

    @property
    def is_every_address(self) -> bool:
        return ipaddress.IPv4Address(self.host).is_unspecified


@dataclass(frozen=True, kw_only=True)
class RtpPorts:
    """UDP ports for audio, both included: of each pair the even one is for RTP, the odd one for RTCP; a pair a call."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> RtpPorts:
        """A port at either end that has no partner in the range is left out."""
        match = _PORTS.fullmatch(text)
        first, last = (int(match[1]), int(match[2])) if match else (0, 0)
        ports = cls(first=first + first % 2, last=last - 1 + last % 2)
        if not _LOWEST <= first < last <= _HIGHEST or not ports.calls:
            raise Invalid(
                "TRUNKLINE_RTP_PORTS",
                f"must be FROM-TO, such as 10000-10799, from {_LOWEST} to {_HIGHEST} and two ports a call (got {text!r})",
            )
        return ports

    @property
    def calls(self) -> int:
        return (self.last - self.first + 1) // 2

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def is_address(host: str) -> bool:
    """An IP address, one of IPv6 in brackets or not; else it is a name."""
    try:
        ipaddress.ip_address(_bare(host))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """This machine by its own word; another name is taken for somewhere else."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(_bare(host)).is_loopback)


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def is_local(address: str, networks: Sequence[str] = (LOOPBACK, *PRIVATE_NETWORKS)) -> bool:
    """Whether an address is in the networks that see our own: who is there is never told the external one."""
    with suppress(ValueError):
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
    return False  # a name


def check_external_address(text: str) -> str:
    """An IPv4 address that others may have, or a host name."""
    variable = "TRUNKLINE_EXTERNAL_ADDRESS"
    try:
        host = check_host(text.strip(), field=variable)
        address = ipaddress.IPv4Address(host) if _NO_NAME.fullmatch(host) else None
    except (Invalid, ValueError) as error:
        raise Invalid(variable, f"must be an IPv4 address or a name, without a port (got {text!r})") from error
    if address and (address.is_loopback or address.is_unspecified or address.is_multicast):
        raise Invalid(variable, f"must be the address by which carriers reach this machine (got {text!r})")
    return host


def local_networks(text: str) -> tuple[str, ...]:
    """The networks named, or those of RFC 1918 when none is; loopback always."""
    try:
        named = [str(ipaddress.IPv4Network(part.strip(), strict=False)) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise Invalid(
            "TRUNKLINE_LOCAL_NETWORKS",
            f"must be IPv4 networks with commas between, such as 10.0.0.0/8,192.168.1.0/24 (got {text!r})",
        ) from error
    return tuple(dict.fromkeys([LOOPBACK, *(named or PRIVATE_NETWORKS)]))
