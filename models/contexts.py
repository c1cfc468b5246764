"""What is known around an attempt when its end is explained: its trunk's form, its gateway's last probe, our address."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, RowMapping

from models.addresses import is_local
from models.statements import statement

_CAMPAIGN_RUNS = {None, "running"}
_ANEW = "then `trunkline down` and `trunkline up` (an Asterisk of your own: `trunkline asterisk export` once more)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a sentence may name. None is not known, and the sentence then speaks in general."""

    trunk: str | None = None
    trunk_active: bool | None = None
    auth_type: str | None = None
    transport: str | None = None
    media_encryption: str | None = None
    allow: str | None = None  #: the codecs offered
    leading_plus: bool | None = None
    rtp_symmetric: bool | None = None
    direct_media: bool | None = None
    caller_id: str | None = None
    gateway: str | None = None  #: HOST[:PORT]
    finding: str | None = None  #: of the gateway's last probe
    detail: str | None = None  #: of the same, a sentence
    sip_address: str | None = None  #: ours, as the node tells it to carriers
    seen_as: str | None = None  #: ours, as this gateway saw it, or another one on the same side of a NAT
    agent: str | None = None  #: its URI
    campaign: str | None = None  #: its name; None: a single call
    campaign_status: str | None = None  #: None: a single call

    @property
    def gateway_removed(self) -> bool:
        return self.trunk is not None and self.gateway is None

    @property
    def of_campaign(self) -> bool:
        return self.campaign is not None

    @property
    def campaign_waits(self) -> bool:
        return self.campaign_status not in _CAMPAIGN_RUNS

    @property
    def bound_to_loopback(self) -> bool:
        """Asterisk speaks from loopback to a gateway that is elsewhere."""
        here, there = _address(self.sip_address), _address(self.gateway)
        remote = self.gateway is not None and (there is None or not there.is_loopback)
        return here is not None and here.is_loopback and remote and not (self.gateway or "").startswith("localhost")

    @property
    def our_address(self) -> str | None:
        """As the carrier sees it."""
        if self.seen_as:
            return self.seen_as
        told = _address(self.sip_address)
        return None if told is not None and (told.is_loopback or told.is_unspecified) else self.sip_address

    def words(self) -> Mapping[str, str]:
        """What the templates of `models.explanations` may hold."""
        name = shlex.quote(self.trunk) if self.trunk else "TRUNK"
        update = f"trunkline trunk update {name}"
        return {
            "name": name,
            "update": update,
            "trunk": f"trunk {self.trunk}" if self.trunk else "the trunk",
            "gateway": f"gateway {self.gateway}" if self.gateway else "the gateway",
            "caller_id": f"the caller ID {self.caller_id}" if self.caller_id else "the caller ID",
            "our_address": f"our address {self.our_address}" if self.our_address else "our public address",
            "agent": f"the agent at {self.agent}" if self.agent else "the agent",
            "codecs": f"codecs {self.allow}" if self.allow else "trunk's codecs",
            "gateways": f"`{update} --gateway HOST:PORT` (once for each of its gateways)",
            "transport": self.transport.removeprefix("transport-").upper()
            if self.transport
            else "the transport of the trunk",
            "other_transports": _other_transports(self.transport, self.media_encryption, update),
            "plus": _plus(self.leading_plus, update),
            "found": f"Its last probe: {self.detail}" if self.detail else "Its last probe found so.",
            "symmetric": _symmetric(self.rtp_symmetric, update),
            "direct": _direct(self.direct_media, update),
            "nat": _nat(self.sip_address, self.seen_as, self.gateway),
            "campaign": shlex.quote(self.campaign) if self.campaign else "CAMPAIGN",
        }


def of_attempts(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Context]:
    """The contexts of these attempts, in one query."""
    if not ids:
        return {}
    rows = connection.exec_driver_sql(statement("contexts_of_attempts"), {"ids": list(ids)})
    return {row["id"]: _context(row) for row in rows.mappings()}


def _context(row: RowMapping) -> Context:
    """Our address is what this gateway saw last, else what the last other one did that is on its side of a NAT."""
    known = {name: row[name] for name in row if name not in {"id", "seen_as", "seen_elsewhere"}}
    inside = _is_inside(row["gateway"])
    elsewhere = (seen for seen in row["seen_elsewhere"] if _is_inside(seen) == inside)
    return Context(**known, seen_as=row["seen_as"] or next(elsewhere, None))


def _other_transports(transport: str | None, media_encryption: str | None, update: str) -> str:
    """SRTP needs TLS, so it goes where TLS does."""
    plain = " --media-encryption no" if media_encryption == "sdes" else ""
    others = [other for other in ("udp", "tcp", "tls") if f"transport-{other}" != transport]
    commands = [f"`{update} --transport transport-{other}{plain if other != 'tls' else ''}`" for other in others]
    return f"{', '.join(commands[:-1])} or {commands[-1]}"


def _plus(enabled: bool | None, update: str) -> str:
    match enabled:
        case True:
            return f"numbers are sent with a leading plus, try without: `{update} --no-leading-plus`"
        case False:
            return f"numbers are sent without a leading plus, try with it: `{update} --leading-plus`"
        case None:
            return f"try the other form: `{update} --no-leading-plus` or `--leading-plus`"


def _symmetric(on: bool | None, update: str) -> str:
    return "symmetric RTP is on, as it should be" if on else f"switch symmetric RTP on (`{update} --rtp-symmetric`)"


def _direct(on: bool | None, update: str) -> str:
    return "direct media is off, as it should be" if on is False else (
        f"switch direct media off (`{update} --no-direct-media`)"
    )  # fmt: skip


def _nat(told: str | None, seen_as: str | None, gateway: str | None) -> str:
    """The address that the far side is told to send its audio to."""
    ours, seen = _address(told), _address(seen_as)
    if _is_inside(seen_as or gateway):
        return (
            "behind NAT: this gateway is on our side of it and is told our own address, as long as its network is one of"
            " TRUNKLINE_LOCAL_NETWORKS"
        )
    if ours is not None and seen is not None and ours != seen and not ours.is_unspecified:
        return f"behind NAT: carriers are told {told} and see {seen}, so set TRUNKLINE_EXTERNAL_ADDRESS={seen}, {_ANEW}"
    if ours is not None and ours.is_private and not ours.is_loopback:
        return (
            f"behind NAT: carriers are told the private {told}, so set TRUNKLINE_EXTERNAL_ADDRESS to the public one,"
            f" {_ANEW}"
        )
    if told and (ours is None or not (ours.is_loopback or ours.is_unspecified)):
        return f"behind NAT: carriers are told {told} (TRUNKLINE_EXTERNAL_ADDRESS), which must be our public address"
    return f"behind NAT: set TRUNKLINE_EXTERNAL_ADDRESS to our public address, {_ANEW}"


def _is_inside(address: str | None) -> bool:
    """On our side of a NAT, as far as the address itself shows it."""
    known = _address(address)
    return known is not None and is_local(str(known))


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Of `HOST` or `HOST:PORT`; None where it is a name."""
    host = text or ""
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
