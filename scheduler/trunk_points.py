"""What is ok, wrong or unknown of a trunk, in sentences, each wrong with what to do.

Nothing is guessed: only what was seen to hold is ok, and only what was seen not to is wrong.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from models.addresses import SipBind, is_address, is_local, is_loopback, local_networks
from models.findings import Verdict, in_utc
from models.outcome import Disposition
from models.settings import Settings
from scheduler.probe import Finding, Gateway, Probe
from scheduler.trunk_evidence import Attempt, by_number, shown
from scheduler.trunks import Trunk

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing that was checked. `about` is one of: active, numbers, sip-address, name, port, tls, options,
    our-address, credentials, caller-id, codecs, test-call."""

    verdict: Verdict
    about: str
    gateway: str | None = None  #: HOST[:PORT], of what is about one
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """A gateway and what was found of it just now."""

    id: UUID
    gateway: Gateway
    found: Probe


def points_of(settings: Settings, trunk: Trunk, looks: Sequence[Look], attempts: Sequence[Attempt]) -> Iterator[Point]:
    """Every point of a trunk; `attempts`, newest first, are those since it was last changed."""
    name = shlex.quote(trunk.name)
    yield _active(trunk, name)
    yield _numbers(trunk, name)
    yield _sip_address(settings, looks, attempts)
    for look in looks:
        for point in _gateway(settings, look, [attempt for attempt in attempts if attempt.gateway_id == look.id]):
            yield replace(point, gateway=str(look.gateway))
    seen_as = next((look.found.seen_as for look in looks if look.found.seen_as), None)
    yield _credentials(trunk, name, attempts, seen_as)
    yield _caller_id(trunk, name, attempts, seen_as)
    yield _codecs(trunk, name, attempts)


def _ok(about: str, sentence: str) -> Point:
    return Point(verdict=Verdict.OK, about=about, sentence=sentence)


def _wrong(about: str, sentence: str) -> Point:
    return Point(verdict=Verdict.WRONG, about=about, sentence=sentence)


def _unknown(about: str, sentence: str) -> Point:
    return Point(verdict=Verdict.UNKNOWN, about=about, sentence=sentence)


def _active(trunk: Trunk, name: str) -> Point:
    if trunk.is_active:
        return _ok("active", "The trunk is on.")
    return _wrong("active", f"The trunk is off and no call leaves by it: `trunkline trunk enable {name}`.")


def _numbers(trunk: Trunk, name: str) -> Point:
    if trunk.phone_numbers:
        return _ok("numbers", f"Calls can go out from {_some(trunk.phone_numbers)}.")
    return _wrong("numbers", f"It has no number to call from: `trunkline number add +E164 --trunk {name}`.")


# What was seen from here


def _sip_address(settings: Settings, looks: Sequence[Look], attempts: Sequence[Attempt]) -> Point:
    """Whether Asterisk's own address can reach the gateways; the looks were not taken from there."""
    about = "sip-address"
    if proof := next((attempt for attempt in attempts if attempt.was_heard), None):
        return _ok(about, f"Asterisk reaches the carrier: the call {_of(proof)} was heard there.")
    if not _is_embedded(settings):
        return _unknown(about, "Your own Asterisk: whether its SIP address reaches the carrier, a call will show.")
    bind = SipBind.parse(settings.sip_bind)
    if not bind.is_loopback:
        return _ok(about, f"Asterisk's SIP is bound to {bind.host}, not to loopback.")
    targets = [target for look in looks for target in look.found.targets]
    if targets and all(target.is_loopback for target in targets):
        return _ok(about, f"Asterisk's SIP is bound to {bind.host}, and so are the gateways: all on this machine.")
    return _wrong(
        about,
        f"Asterisk's SIP is bound to {bind.host}, which reaches no carrier: set TRUNKLINE_SIP_BIND=0.0.0.0:5060 (and behind NAT"
        " TRUNKLINE_EXTERNAL_ADDRESS), then `trunkline down` and `trunkline up`.",
    )


def _gateway(settings: Settings, look: Look, attempts: Sequence[Attempt]) -> Iterator[Point]:
    found, transport = look.found, look.gateway.transport
    if found.finding is Finding.NO_NAME:
        yield _wrong("name", found.detail)
        return
    leads_to = ", ".join(map(str, found.targets))
    if not is_address(look.gateway.host):
        turns = ": a call goes to one of them, and not on to the next" if len(found.targets) > 1 else ""
        yield _ok("name", f"The name leads to {leads_to}{turns}.")
    if found.finding is Finding.REFUSED or (
        found.finding is Finding.SILENT and transport != "UDP" and not found.connected
    ):
        yield _wrong("port", found.detail)
        return
    if transport != "UDP":
        yield _ok("port", f"{found.target} takes {'TCP' if transport == 'TLS' else transport} connections.")
    if found.finding is Finding.TLS_FAILED:
        yield _wrong("tls", found.detail)
        return
    if found.tls:
        yield _ok("tls", f"TLS holds: {found.tls}.")
    yield _options(found, attempts)
    if found.seen_as:
        yield _our_address(settings, found, found.seen_as)


def _options(found: Probe, attempts: Sequence[Attempt]) -> Point:
    """A carrier may ignore OPTIONS; it may not ignore calls."""
    if found.finding is Finding.ANSWERED:
        return _ok("options", found.detail)
    calls = shown(attempts, proves=lambda attempt: attempt.was_heard, refutes=lambda attempt: attempt.was_unheard)
    if calls.proof:
        return _unknown("options", f"{found.detail} The call {_of(calls.proof)} was heard there.")
    if calls.refusal:
        return _wrong("options", f"{found.detail} The call {_of(calls.refusal)} got no answer either.")
    return _unknown("options", found.detail)


def _our_address(settings: Settings, found: Probe, seen_as: str) -> Point:
    about, ours, target = "our-address", settings.external_address, found.target
    networks = local_networks(settings.local_networks)
    inside = is_local(seen_as, networks) or (target is not None and is_local(target.address, networks))
    if not _is_embedded(settings) or inside or seen_as == ours:
        return _ok(about, f"It sees us as {seen_as}.")
    if ours is not None and is_address(ours):
        return _wrong(
            about,
            f"It sees us as {seen_as}, but TRUNKLINE_EXTERNAL_ADDRESS is {ours}, where it would send its audio: set it"
            f" to {seen_as}, then `trunkline down` and `trunkline up`.",
        )
    if ours is None and seen_as != found.sent_from:
        return _unknown(
            about,
            f"It sees us as {seen_as}, and this machine sends from {found.sent_from}: we are behind NAT. If you hear one"
            f" side only, set TRUNKLINE_EXTERNAL_ADDRESS={seen_as}, then `trunkline down` and `trunkline up`.",
        )
    return _ok(about, f"It sees us as {seen_as}.")


# What the calls have shown


def _credentials(trunk: Trunk, name: str, attempts: Sequence[Attempt], seen_as: str | None) -> Point:
    about, by_address = "credentials", trunk.auth_type == "ip-based"
    calls = shown(
        attempts,
        proves=lambda attempt: attempt.got_through,
        refutes=lambda attempt: attempt.ended_with(Disposition.AUTH_FAILED),
    )
    if calls.proof:
        return _ok(about, f"The carrier lets us call: proven by the call {_of(calls.proof)}.")
    userpass = "--username U --password -"
    if calls.refusal and by_address:
        return _wrong(
            about,
            f"The call {_of(calls.refusal)} was asked for a password: have the carrier allow our address{_as(seen_as)}, or"
            f" `trunkline trunk update {name} --auth-type userpass {userpass}`.",
        )
    if calls.refusal:
        return _wrong(
            about,
            f"The call {_of(calls.refusal)} got {calls.refusal.sip_code}, the username or the password is wrong:"
            f" `trunkline trunk update {name} {userpass}`.",
        )
    if not by_address and attempts and attempts[0].ended_with(Disposition.FORBIDDEN):
        return _unknown(
            about,
            f"The call {_of(attempts[0])} got 403, as some carriers answer to a wrong password too: if it is that,"
            f" `trunkline trunk update {name} {userpass}`.",
        )
    return _unknown(about, _not_shown(trunk, name))


def _caller_id(trunk: Trunk, name: str, attempts: Sequence[Attempt], seen_as: str | None) -> Point:
    about = "caller-id"
    calls = by_number(attempts, trunk.phone_numbers)
    refused = {number: one.refusal for number, one in calls.items() if one.refusal}
    if refused:
        last = max(refused.values(), key=lambda attempt: attempt.initiated_at)
        what = f"The call {_of(last)} got 403, and none from {_some(list(refused))} has got through since"
        if trunk.auth_type == "ip-based":
            mend = f"have the carrier allow our address{_as(seen_as)}, this caller ID and this destination"
        else:
            mend = "have the carrier allow this caller ID and this destination, and check username and password"
        return _wrong(about, f"{what}: {mend}.")
    proven = {number: one.proof for number, one in calls.items() if one.proof}
    if proven:
        last = max(proven.values(), key=lambda attempt: attempt.initiated_at)
        return _ok(about, f"The carrier takes {_some(list(proven))}: proven by the call {_of(last)}.")
    return _unknown(about, _not_shown(trunk, name))


def _codecs(trunk: Trunk, name: str, attempts: Sequence[Attempt]) -> Point:
    about = "codecs"
    calls = shown(
        attempts,
        proves=lambda attempt: attempt.was_answered,
        refutes=lambda attempt: attempt.ended_with(Disposition.CODEC_MISMATCH),
    )
    if calls.proof:
        codec = f"{calls.proof.codec}, of " if calls.proof.codec else ""
        return _ok(about, f"One is agreed on ({codec}{trunk.allow}): proven by the call {_of(calls.proof)}.")
    if calls.refusal:
        return _wrong(
            about,
            f"The call {_of(calls.refusal)} got {calls.refusal.sip_code}, the carrier takes none of {trunk.allow} with media"
            f" encryption {trunk.media_encryption!r}: `trunkline trunk update {name} --allow CODECS`, or --media-encryption.",
        )
    return _unknown(about, _not_shown(trunk, name))


def _not_shown(trunk: Trunk, name: str) -> str:
    since = "made" if trunk.updated_at == trunk.created_at else "last changed"
    return (
        f"No call has shown it since the trunk was {since}; one is made by `trunkline trunk check {name} --call +E164`."
    )


def _of(attempt: Attempt) -> str:
    return f"of {in_utc(attempt.initiated_at)}"


def _as(seen_as: str | None) -> str:
    return f" ({seen_as})" if seen_as else ""


def _some(numbers: Sequence[str]) -> str:
    more = len(numbers) - _MOST_NAMED
    return ", ".join(numbers[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# Addresses


def _is_embedded(settings: Settings) -> bool:
    """Whether it is our own Asterisk that dials, whose SIP address the settings give."""
    if settings.asterisk_nodes is None:
        return True
    return (settings.home / "asterisk" / "etc").is_dir() and all(is_loopback(node.host) for node in settings.nodes)
