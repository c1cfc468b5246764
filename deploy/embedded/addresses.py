"""Where the embedded Asterisk is to be reached: what was asked for, held against this machine before anything starts.

What a carrier may know (an allow-list, a port forward, a firewall's hole) is taken as it was asked for or refused, never
changed in silence. Only on loopback, where no carrier is, SIP moves to another port when its own is taken.
"""

from __future__ import annotations

import errno
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass

from deploy.part import free_port, taken_port
from models.addresses import RtpPorts, SipBind, local_networks
from models.errors import Invalid, Unavailable
from models.settings import Settings

DEFAULT_RTP_PORTS = 2 * 400
_TRIES = 50
_UDP = (socket.SOCK_DGRAM,)
_EXAMPLE = ("192.0.2.1", 9)  # nothing is sent to it


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The addresses and ports of one Asterisk."""

    sip_host: str
    sip_port: int
    rtp_ports: RtpPorts
    external_address: str | None
    local_networks: tuple[str, ...]

    @property
    def sip_address(self) -> str:
        """What carriers are told; of several addresses of ours the one that the default route leaves by."""
        if self.external_address:
            return self.external_address
        if SipBind(host=self.sip_host).is_every_address:
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(_EXAMPLE)
                return str(probe.getsockname()[0])
        return self.sip_host


def find_reach(settings: Settings, *, known_sip_port: int | None, known_rtp_port: int | None) -> Reach:
    """`known_*` are what this home had before: kept where the settings leave the choice and they are still free.

    Raises `Invalid`, naming the variable, for what cannot be had on this machine.
    """
    bind = SipBind.parse(settings.sip_bind)
    if settings.external_address:
        _check_external(settings.external_address, bind)
    sip_port = _sip_port(bind, known_sip_port if "sip_bind" not in settings.model_fields_set else None)
    rtp_ports = _rtp_ports(settings.rtp_ports, bind.host, sip_port, known_rtp_port)
    return Reach(
        sip_host=bind.host,
        sip_port=sip_port,
        rtp_ports=rtp_ports,
        external_address=settings.external_address,
        local_networks=local_networks(settings.local_networks) if settings.external_address else (),
    )


def _check_external(address: str, bind: SipBind) -> None:
    if bind.is_loopback:
        raise Invalid(
            "TRUNKLINE_EXTERNAL_ADDRESS",
            f"no carrier reaches {address} while SIP listens on loopback: set TRUNKLINE_SIP_BIND too, to 0.0.0.0:5060",
        )
    try:
        socket.getaddrinfo(address, None, socket.AF_INET)
    except OSError as error:
        raise Invalid("TRUNKLINE_EXTERNAL_ADDRESS", f"{address} has no IPv4 address ({error.strerror})") from error


def _sip_port(bind: SipBind, known: int | None) -> int:
    _require_own(bind)
    if bind.is_loopback or not bind.port:
        return free_port(known or bind.port, bind.host, span=2)
    taken = taken_port(bind.port, bind.port + 1, bind.host)
    if taken is not None:
        raise Invalid(
            "TRUNKLINE_SIP_BIND",
            f"port {taken} is taken on {bind.host} (SIP takes {bind.port}, and {bind.port + 1} for TLS): end what has it,"
            " or name another port and tell your carrier and your router",
        )
    return bind.port


def _require_own(bind: SipBind) -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((bind.host, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise Unavailable(f"no socket can be bound to {bind.host}: {error.strerror}") from error
        raise Invalid(
            "TRUNKLINE_SIP_BIND",
            f"{bind.host} is no address of this machine; if a router or the cloud has it, set"
            f" TRUNKLINE_SIP_BIND=0.0.0.0:{bind.port} and TRUNKLINE_EXTERNAL_ADDRESS={bind.host}",
        ) from error


def _rtp_ports(text: str | None, host: str, sip_port: int, known: int | None) -> RtpPorts:
    if text is None:
        return _free_range(host, known)
    ports = RtpPorts.parse(text)
    if ports.first <= sip_port <= ports.last:
        raise Invalid("TRUNKLINE_RTP_PORTS", f"{ports} has SIP's own port {sip_port} in it")
    taken = taken_port(ports.first, ports.last, host, kinds=_UDP)
    if taken is not None:
        raise Invalid(
            "TRUNKLINE_RTP_PORTS", f"UDP port {taken} is taken on {host}: end what has it, or choose another range"
        )
    return ports


def _free_range(host: str, known: int | None) -> RtpPorts:
    for number in range(_TRIES):
        first = known if known and not number else 10_000 + 2 * secrets.randbelow(10_000)
        ports = RtpPorts(first=first, last=first + DEFAULT_RTP_PORTS - 1)
        if taken_port(ports.first, ports.last, host, kinds=_UDP) is None:
            return ports
    raise Unavailable(f"{_TRIES} ranges of UDP ports were tried on {host} and none was free: set TRUNKLINE_RTP_PORTS")
