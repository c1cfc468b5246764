"""From the address of a gateway to where it is, as Asterisk finds it: SRV if it has no port, else A and AAAA.

RFC 3263 without NAPTR, whose answer a trunk's `transport` gives already. Like Asterisk's resolver it looks
into the hosts file first, takes every name as it is written (no search domains), and asks the machine's
servers; unlike getaddrinfo, each question has a bound and can be given up.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

HOSTS = Path("/etc/hosts")
DNS_SECONDS = 3.0  #: for one question, all servers and repetitions together
_MOST_TARGETS = 8
_SERVICES = {"UDP": "_sip._udp", "TCP": "_sip._tcp", "TLS": "_sips._tcp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One place where a gateway should answer."""

    address: str  #: IPv4 or IPv6, without brackets
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class NoName(Exception):
    """The name leads nowhere; a sentence says why."""


def asking(nameserver: str) -> dns.asyncresolver.Resolver:
    """A resolver that asks this one, ADDRESS or ADDRESS@PORT."""
    address, _, port = nameserver.partition("@")
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [address], int(port or 53)
    return resolver


def in_hosts(name: str, hosts: Path = HOSTS) -> list[str]:
    """The addresses of a name in the hosts file, IPv4 first."""
    try:
        lines = hosts.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if name.lower().removesuffix(".") in (other.lower() for other in names):
            try:
                found.append(str(ipaddress.ip_address(address)))
            except ValueError:
                continue
    return sorted(found, key=lambda address: ":" in address)


class Names:
    """Answers from the hosts file and from DNS; `resolver` None is the machine's own."""

    def __init__(self, resolver: dns.asyncresolver.Resolver | None = None, *, hosts: Path = HOSTS) -> None:
        self._resolver = resolver
        self._hosts = hosts

    async def targets(self, host: str, port: int | None, transport: str) -> list[Target]:
        """Where a gateway is, in the order to be tried, at least one. Raises `NoName`."""
        default = port or (5061 if transport == "TLS" else 5060)
        literal = host.removeprefix("[").removesuffix("]")
        try:
            return [Target(address=str(ipaddress.ip_address(literal)), port=default)]
        except ValueError:
            pass
        services = await self._services(host, transport) if port is None else []
        if services:
            found = [await self._addresses(name, service_port) for name, service_port in services]
            targets = [target for group in found for target in group]
            if not targets:
                names = ", ".join(sorted({name for name, _ in services}))
                raise NoName(f"The SRV records of {host} lead to {names}, which has no address: tell the provider.")
        else:
            targets = await self._addresses(host, default)
            if not targets:
                raise NoName(f"There is no address for {host} in DNS: check how the gateway is spelled.")
        return targets[:_MOST_TARGETS]

    async def _services(self, host: str, transport: str) -> list[tuple[str, int]]:
        name = f"{_SERVICES[transport]}.{host}"
        try:
            records = cast("list[SRV]", await self._ask(name, "SRV"))
        except NoName:
            if in_hosts(host, self._hosts):
                return []
            raise
        if records and all(record.target == dns.name.root for record in records):  # RFC 2782: decidedly not here
            raise NoName(f"The SRV record of {name} says: no calls over {transport}: set another transport.")
        # by weight where RFC 2782 would throw dice: each is to be looked at, not to be loaded
        ordered = sorted(records, key=lambda record: (record.priority, -record.weight))
        return [(record.target.to_text(omit_final_dot=True), record.port) for record in ordered]

    async def _addresses(self, name: str, port: int) -> list[Target]:
        found = in_hosts(name, self._hosts)
        for kind in ("A", "AAAA"):  # IPv4 first: Asterisk is bound to it
            if not found:
                found = [str(record) for record in await self._ask(name, kind)]
        return [Target(address=address, port=port) for address in found]

    async def _ask(self, name: str, kind: str) -> list[object]:
        """What DNS has of this kind, nothing if it has none. Raises `NoName` if it does not answer."""
        try:
            resolver = self._resolver or dns.asyncresolver.Resolver()
            return list(await resolver.resolve(dns.name.from_text(name), kind, lifetime=DNS_SECONDS))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.resolver.NoResolverConfiguration as error:
            raise NoName(f"This machine has no DNS server to ask for {name}: see /etc/resolv.conf.") from error
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise NoName(f"No DNS server answers for {name}: check this machine's DNS, and the name.") from error
