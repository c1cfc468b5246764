"""What the carrier saw, from its own log: the second opinion on every call we claim to have made.

A line is `DATE <tab> TIME <tab> SECONDS.MICROS EVENT CALL-ID [VALUE] [key=value ...]`, written by SIPp as it handles a
message that came, or right after it sent one. It has one thread, so the order of lines is the order of what it did. The
clock is the wall clock of the carrier's machine in microseconds; under load, handling is later than arrival.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

End = Literal["bye-received", "bye-sent", "cancel", "final"]
Digest = Literal["none", "right", "wrong"]
Transport = Literal["UDP", "TCP", "TLS"]

CALLER_TIMER = 6.4
"""Seconds until our own Asterisk gives up on a carrier that says nothing (64 times its T1 of 100 ms)."""

# RFC 3551, table 4. Names as Asterisk writes them.
_STATIC_FORMATS = {0: "ulaw", 3: "gsm", 4: "g723", 8: "alaw", 9: "g722", 18: "g729"}

_LINE = re.compile(r"\S+\t\S+\t(?P<at>\d+\.\d+) (?P<event>[a-z-]+) (?P<call_id>\S+)(?: (?P<rest>.*))?")
_INVITE = re.compile(
    r"uri=(?P<uri>\S*) via=(?P<via>UDP|TCP|TLS) from=(?P<from>\S*) contact=(?P<contact>\S*) asserted=(?P<asserted>\S*)"
    r" profile=(?P<profile>\S*) crypto=(?P<crypto>\S*) dtmf=(?P<dtmf>\S*) formats=(?P<formats>[\d ]*)"
)
_USER = re.compile(r"sips?:([^@; ]*)")


class NotACarrierLog(ValueError):
    """A complete line of the log that the scenario has not written."""


@dataclass(frozen=True, kw_only=True)
class CarrierCall:
    """One Call-ID as the carrier saw it. Times are seconds since the epoch; None: it has not happened.

    status: the last final status sent, 200 included. end 'final': the INVITE was refused, `status` says how.
    invites_with_credentials: how many INVITEs followed a challenge. codecs: as offered, without telephone-event; a dynamic
    payload type is `payload-N`. transport: of the topmost Via. from_number, from_domain: From's user and host (with its
    port, if it has one), Asterisk's own address unless the trunk says otherwise. profile: RTP/AVP, or RTP/SAVP where the
    media were offered encrypted; crypto: by which suite.
    """

    sip_call_id: str
    number: str
    from_number: str
    asserted_number: str | None
    request_uri: str
    codecs: tuple[str, ...]
    invited_at: float
    transport: Transport = "UDP"
    from_domain: str = ""
    contact_user: str = ""
    profile: str = "RTP/AVP"
    crypto: str | None = None
    invites_with_credentials: int = 0
    digest: Digest = "none"
    ringing_at: float | None = None
    progress_at: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    end: End | None = None
    status: int | None = None

    @property
    def ignored(self) -> bool:
        """Whether the carrier has said nothing at all."""
        heard = (self.status, self.ringing_at, self.progress_at)
        return self.digest == "none" and all(sign is None for sign in heard)


def read(log: Path) -> list[CarrierCall]:
    """The calls in the order of their first INVITE. A last line without its end is left for the next reading."""
    whole, _, _ = log.read_bytes().rpartition(b"\n")
    return parse(whole.decode("utf-8", errors="replace").split("\n"))


def parse(lines: Iterable[str]) -> list[CarrierCall]:
    """As `read`. An event of a Call-ID whose INVITE is not in these lines is left out. Raises NotACarrierLog."""
    calls: dict[str, CarrierCall] = {}
    for line in lines:
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            raise NotACarrierLog(line)
        call_id = match["call_id"]
        call = calls.get(call_id)
        if match["event"] == "invite":
            # The same Call-ID again is a retransmission to a carrier that has forgotten the call.
            if call is None:
                calls[call_id] = _invited(call_id, float(match["at"]), match["rest"] or "")
        elif call is not None:
            calls[call_id] = _after(call, match["event"], float(match["at"]), match["rest"] or "")
    return list(calls.values())


def _invited(call_id: str, at: float, rest: str) -> CarrierCall:
    fields = _INVITE.fullmatch(rest)
    if fields is None:
        raise NotACarrierLog(rest)
    user = _USER.match(fields["uri"])
    from_user, _, from_domain = fields["from"].rpartition("@")
    contact_user, _, _ = fields["contact"].rpartition("@")
    formats = [int(word) for word in fields["formats"].split() if word != fields["dtmf"]]
    return CarrierCall(
        sip_call_id=call_id,
        number=user[1] if user else "",
        from_number=from_user,
        asserted_number=fields["asserted"] or None,
        request_uri=fields["uri"],
        codecs=tuple(_STATIC_FORMATS.get(number, f"payload-{number}") for number in formats),
        invited_at=at,
        transport=cast("Transport", fields["via"]),
        from_domain=from_domain,
        contact_user=contact_user,
        profile=fields["profile"],
        crypto=fields["crypto"] or None,
    )


def _after(call: CarrierCall, event: str, at: float, value: str) -> CarrierCall:
    match event:
        case "ringing":
            return replace(call, ringing_at=at)
        case "progress" | "trying":
            return replace(call, progress_at=at)
        case "answered":
            return replace(call, answered_at=at, status=200)
        case "final":
            return replace(call, ended_at=at, end="final", status=int(value))
        case "challenge":
            # The end of the call if the caller has no credentials, and only then.
            return replace(call, ended_at=at, end="final", status=401)
        case "credentials":
            digest: Digest = "right" if value == "right" else "wrong"
            attempts = call.invites_with_credentials + 1
            return replace(call, digest=digest, invites_with_credentials=attempts, ended_at=None, end=None, status=None)
        case "cancel":
            return replace(call, ended_at=at, end="cancel", status=487)
        case "bye-received":
            return replace(call, ended_at=at, end="bye-received")
        case "bye-sent":
            return replace(call, ended_at=at, end="bye-sent")
        case _:
            raise NotACarrierLog(f"{event} {value}")


def peak_at_once(calls: Iterable[CarrierCall], *, silence: float = CALLER_TIMER) -> int:
    """The most calls up at one moment: from the INVITE until a BYE or CANCEL or a final response.

    An ignored call has no such end, as its caller sends nothing more either: it counts for `silence` seconds.
    """
    steps: list[tuple[float, int]] = []
    for call in calls:
        steps.append((call.invited_at, 1))
        if call.ended_at is not None:
            steps.append((call.ended_at, -1))
        elif call.ignored:
            steps.append((call.invited_at + silence, -1))
    up = peak = 0
    for _, step in sorted(steps):  # at one microsecond an end comes before a beginning
        up += step
        peak = max(peak, up)
    return peak


def peak_a_second(calls: Iterable[CarrierCall]) -> int:
    """The most calls begun in any second, wherever the second begins (its end excluded)."""
    times = sorted(call.invited_at for call in calls)
    peak = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        peak = max(peak, last - first + 1)
    return peak


def by_number(calls: Iterable[CarrierCall]) -> Mapping[str, Sequence[CarrierCall]]:
    """The calls to each number, in the order of their first INVITE."""
    found: dict[str, list[CarrierCall]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.invited_at):
        found[call.number].append(call)
    return dict(found)


def duplicates(calls: Iterable[CarrierCall]) -> Mapping[str, Sequence[CarrierCall]]:
    """The numbers that were called more than once, with their calls."""
    return {number: same for number, same in by_number(calls).items() if len(same) > 1}
