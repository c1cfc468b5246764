"""All that an operator is told of a call: what it means and what to do. The one source of the sentences.

A table of entries, the first that fits is used; `when` names what has to be so, of how the attempt ended
(`Ending`) or of what is around it (`Context`). The README's table is made from the same entries:
`python -m models.explanations` prints it, with a file as its argument it is put between the markers there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from models.contexts import Context
from models.outcome import Disposition
from models.sip_codes import in_words

MARKERS = ("<!-- explanations: made by `make docs` -->", "<!-- /explanations -->")

HEAVY_LOSS = 0.05
"""Of the packets: above it speech suffers so that people hang up."""

_AUDIBLE = timedelta(milliseconds=500)
"""A call that was up for less may well be over before the first packet."""


class Verdict(StrEnum):
    """Why an attempt was withdrawn: no INVITE of it left, and its call is scheduled again. Or why there was none."""

    TAKEN_BACK = "taken-back"
    TRUNK_OFF = "trunk-off"
    CAMPAIGN_WAITS = "campaign-waits"
    VOID = "void"
    UNCLAIMED = "unclaimed"
    TURN_PASSED = "turn-passed"
    REFUSED = "refused"
    BOOTING = "booting"
    NO_CHANNEL = "no-channel"
    OVERTAKEN = "overtaken"
    AGENT_DOWN = "agent-down"
    NOT_ALLOWED = "not-allowed"


class Waiting(StrEnum):
    """Why a call is still scheduled, or has not left yet."""

    NOT_DUE = "not-due"
    CAMPAIGN = "campaign"
    NUMBER_UNREGISTERED = "number-unregistered"
    TRUNK_OFF = "trunk-is-off"
    NEXT_GATEWAY = "next-gateway"
    GATEWAYS_REST = "gateways-rest"
    NO_NODE = "no-node"
    NODES_REST = "nodes-rest"
    SLOT = "slot"
    WORKER = "worker"


D, V, W = Disposition, Verdict, Waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an attempt ended, as far as it matters to what is said of it."""

    why: Disposition | Verdict | Waiting
    rang: bool = False
    withdrawn: bool = False
    left: bool = False  #: as unknown, by an operator
    sip_code: int | None = None
    agent_status: str | None = None  #: DIALSTATUS of the agent's leg, or a word of the dialplan's (TL_LEG)
    talked: timedelta | None = None
    gave_up_after: timedelta | None = None  #: our ring timeout, where it was that which ended it
    last_reply: int | None = None  #: the status of the last SIP reply that came; 0: none did; None is not known
    rx_packets: int | None = None  #: of audio, from the far side; None is not known
    tx_packets: int | None = None
    rx_lost: int | None = None
    tx_lost: int | None = None
    error: str = ""  #: with a verdict: what was refused, or is allowed; with a wait: what its campaign is

    @property
    def spoke(self) -> bool | None:
        """Whether the far side said anything; None where that is not known."""
        return None if self.last_reply is None else self.last_reply != 0

    @property
    def gave_up(self) -> bool:
        return self.gave_up_after is not None

    @property
    def audio(self) -> str | None:
        """What was wrong with the audio of an answered call: none, none-received, none-sent or lossy."""
        if self.talked is None or self.talked < _AUDIBLE:
            return None
        match self.rx_packets, self.tx_packets:
            case 0, 0:
                return "none"
            case 0, _:
                return "none-received"
            case _, 0:
                return "none-sent"
        return "lossy" if max(self.rx_loss, self.tx_loss) > HEAVY_LOSS else None

    @property
    def rx_loss(self) -> float:
        """Of what the far side sent, the part that never came."""
        return _part(self.rx_lost, (self.rx_packets or 0) + (self.rx_lost or 0))

    @property
    def tx_loss(self) -> float:
        """Of what we sent, the part that the far side reported as lost."""
        return _part(self.tx_lost, self.tx_packets or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """An entry in the words of one call."""

    key: str
    means: str
    do: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the table; `means` and `do` are templates over `Context.words` and figures of the `Ending`."""

    why: Disposition | Verdict | Waiting
    sees: str  #: beside status and disposition, what tells this entry from the others
    means: str
    do: str
    refined: str = ""
    when: Mapping[str, object] = field(default_factory=dict)  #: a tuple: one of these
    in_table: bool = True  #: false for what is said only when the trunk is not known
    far_side_spoke: bool = (
        True  #: false where the SIP status is Asterisk's own word for a gateway that it did not reach
    )

    @property
    def key(self) -> str:
        return f"{self.why}/{self.refined}" if self.refined else self.why.value

    def render(self, words: Mapping[str, str]) -> tuple[str, str]:
        """What it means and what to do."""
        means, do = self.means.format_map(words), self.do.format_map(words)
        return means[:1].upper() + means[1:], do[:1].upper() + do[1:]

    def fits(self, ending: Ending, context: Context) -> bool:
        """Among the entries of its reason."""
        return all(
            _value(name, ending, context) in (wanted if isinstance(wanted, tuple) else (wanted,))
            for name, wanted in self.when.items()
        )


def explain(ending: Ending, context: Context | None = None) -> str:
    """A sentence or two: what happened, its likely cause and what to do about it."""
    entry, advice = _find(ending, context)
    text = " ".join(part for part in (advice.means, advice.do) if part)
    said = said_by_far_side(ending)
    return f"{text} (SIP {said})" if said and entry.far_side_spoke else text


def advise(ending: Ending, context: Context | None = None) -> Advice:
    """The same, in parts."""
    return _find(ending, context)[1]


def said_by_far_side(ending: Ending) -> str | None:
    """Its SIP status in words; None where it said nothing. A 503 may be Asterisk's own as well."""
    theirs = ending.why not in _NOT_THEIRS and not ending.gave_up
    return in_words(ending.sip_code) if ending.sip_code and theirs else None


def needs_context(ending: Ending) -> bool:
    """Whether what is known of the trunk would change a word."""
    return ending.why not in _PLAIN and (ending.why is not D.ANSWERED or ending.audio is not None)


def table() -> str:
    """The entries as a table in Markdown."""
    lines = ["| what you see | what it means | what to do |", "| --- | --- | --- |"]
    figures = {"error": "…", "waited": "N", "rx_loss": "x %", "tx_loss": "y %"}
    for entry in ENTRIES:
        if entry.in_table:
            means, do = entry.render({**_WORDS_OF_NOTHING, **figures})
            cells = (entry.sees, means, do or "Nothing.")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def put_into(text: str) -> str:
    """The text with the table between its markers. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"there is no {MARKERS[0]} ... {MARKERS[1]}")
    return f"{before}{begin}\n{table()}{end}{after}"


def _find(ending: Ending, context: Context | None) -> tuple[Entry, Advice]:
    around = context or _NOTHING
    entry = next(entry for entry in _BY_REASON[ending.why] if entry.fits(ending, around))
    figures = {
        "error": ending.error,
        "waited": f"{(ending.gave_up_after or timedelta()).total_seconds():g}",
        "rx_loss": f"{ending.rx_loss:.0%}",
        "tx_loss": f"{ending.tx_loss:.0%}",
    }
    means, do = entry.render({**(context.words() if context else _WORDS_OF_NOTHING), **figures})
    return entry, Advice(key=entry.key, means=means, do=do)


def _value(name: str, ending: Ending, context: Context) -> object:
    return getattr(ending if hasattr(ending, name) else context, name)


def _part(lost: int | None, all: int) -> float:
    return lost / all if lost and all else 0.0


_PLAIN = {D.BUSY, D.NO_ANSWER, D.CANCELED, D.EXPIRED, D.LOST, D.POISON}
_NOT_THEIRS = {D.ANSWERED, D.AGENT_UNREACHABLE, D.GATEWAY_UNREACHABLE}
"""Where a SIP status is the agent's leg's, or Asterisk's own: the far side did not say it."""

_AUDIO_CAUSES = (
    "In this order: {symmetric}; {direct}; {nat}; and let no firewall drop UDP of the RTP range (TRUNKLINE_RTP_PORTS)."
)

ENTRIES: tuple[Entry, ...] = (
    Entry(
        why=D.ANSWERED,
        refined="no-audio",
        when={"audio": "none"},
        sees="`completed`, no audio received or sent",
        means="Answered, but not one packet of audio came or went.",
        do=_AUDIO_CAUSES + " Nor did {agent} say anything: see its log.",
    ),
    Entry(
        why=D.ANSWERED,
        refined="nothing-received",
        when={"audio": "none-received"},
        sees="`completed`, no audio received",
        means="Answered, but no audio was received: the agent heard nothing of the person, whose audio goes elsewhere or is dropped.",
        do=_AUDIO_CAUSES,
    ),
    Entry(
        why=D.ANSWERED,
        refined="nothing-sent",
        when={"audio": "none-sent"},
        sees="`completed`, no audio sent",
        means="Answered, but no audio was sent: the person heard nothing.",
        do="Most likely {agent} said nothing: see its log. If it did speak, the way is at fault. " + _AUDIO_CAUSES,
    ),
    Entry(
        why=D.ANSWERED,
        refined="lossy",
        when={"audio": "lossy"},
        sees="`completed`, more than 5 % of the audio lost",
        means="Answered, but much of the audio was lost on the way: {rx_loss} of what the far side sent, {tx_loss} of what we sent.",
        do="Look for a line that is full or bad between us and {gateway}; fewer calls at once need less of it (`{update} --max-concurrent-calls N`).",
    ),
    Entry(why=D.ANSWERED, sees="`completed`, `answered`", means="Answered.", do=""),
    Entry(
        why=D.AGENT_UNREACHABLE,
        refined="no-sound",
        when={"agent_status": "NOSOUND"},
        sees="`failed`, `agent-unreachable`, a prompt",
        means="The person answered, but Asterisk has no such sound, or could not play it: {agent}.",
        do="Put the sound where Asterisk looks for it, or correct the agent.",
    ),
    Entry(
        why=D.AGENT_UNREACHABLE,
        refined="no-extension",
        when={"agent_status": "NOEXTENSION"},
        sees="`failed`, `agent-unreachable`, a dialplan",
        means="The person answered, but your dialplan has no such extension: {agent}.",
        do="Correct the agent, or the dialplan (TRUNKLINE_DIALPLAN_FILE).",
    ),
    Entry(
        why=D.AGENT_UNREACHABLE,
        refined="hung-up",
        when={"agent_status": "HUNGUP"},
        sees="`failed`, `agent-unreachable`, hung up at once",
        means="The person answered, but {agent} accepted the connection and closed it at once, with nothing said.",
        do="See its log; if a proxy, docker or a socket unit accepts for it, see that the agent behind it runs.",
    ),
    Entry(
        why=D.AGENT_UNREACHABLE,
        sees="`failed`, `agent-unreachable`",
        means="The person answered, but {agent} could not be reached.",
        do="See that it runs, that it listens at that address, and that Asterisk's machine reaches it.",
    ),
    Entry(
        why=D.BUSY,
        sees="`busy` (486, 600)",
        means="The line was busy.",
        do="Try again later.",
    ),
    Entry(
        why=D.NO_ANSWER,
        refined="rang-out",
        when={"gave_up": True, "rang": True},
        sees="`no-answer`, rang until our ring timeout",
        means="It rang, and nobody answered within our {waited} seconds (TRUNKLINE_RING_TIMEOUT_SECONDS).",
        do="Try again later.",
    ),
    Entry(
        why=D.NO_ANSWER,
        refined="gave-up",
        when={"gave_up": True},
        sees="`no-answer`, no ringing until our ring timeout",
        means="Nobody answered within our {waited} seconds (TRUNKLINE_RING_TIMEOUT_SECONDS), and no ringing was heard:"
        " the phone may be off or out of reach, or the carrier is slow to reach it.",
        do="Try again later.",
    ),
    Entry(
        why=D.NO_ANSWER,
        refined="rang",
        when={"rang": True},
        sees="`no-answer`, rang",
        means="It rang and nobody answered.",
        do="Try again later.",
    ),
    Entry(
        why=D.NO_ANSWER,
        refined="not-reached",
        when={"sip_code": 408},
        sees="`no-answer`, no ringing (408)",
        means="The carrier could not reach the phone in time, and no ringing was heard.",
        do="Try again later; if no number is ever reached, ask the provider.",
    ),
    Entry(
        why=D.NO_ANSWER,
        sees="`no-answer`, no ringing (480, 487)",
        means="Nobody answered, and no ringing was heard: the phone may be off or out of reach, or the carrier gave up.",
        do="Try again later.",
    ),
    Entry(
        why=D.INVALID_NUMBER,
        refined="incomplete",
        when={"sip_code": 484},
        sees="`failed`, `invalid-number` (484)",
        means="The carrier says that digits are missing: the number is incomplete, or not written as it wants it.",
        do="Correct the number; if every number fails so, {plus}.",
    ),
    Entry(
        why=D.INVALID_NUMBER,
        refined="gone",
        when={"sip_code": 410},
        sees="`failed`, `invalid-number` (410)",
        means="The number was in use once and is no more.",
        do="Take it off the list.",
    ),
    Entry(
        why=D.INVALID_NUMBER,
        sees="`failed`, `invalid-number` (404, 604)",
        means="The carrier says that this number does not exist, or it does not want it written like this.",
        do="Correct it, or take it off the list; if every number fails so, {plus}.",
    ),
    Entry(
        why=D.AUTH_FAILED,
        refined="credentials",
        when={"auth_type": "userpass"},
        sees="`failed`, `auth-failed` (401, 407), trunk with username and password",
        means="The provider refused the username and password of {trunk}: they are wrong, or not those of SIP.",
        do="Set them again: `{update} --username U --password -`; many providers have other ones for SIP than for their web site.",
    ),
    Entry(
        why=D.AUTH_FAILED,
        refined="address",
        when={"auth_type": "ip-based"},
        sees="`failed`, `auth-failed` (401, 407), trunk by address",
        means="The provider asks for credentials, which {trunk} has none of, since it does not know our address:"
        " {our_address} is not on its allow-list, or it wants a username and password.",
        do="Have {our_address} put on the provider's allow-list,"
        " or give the trunk credentials: `{update} --auth-type userpass --username U --password -`.",
    ),
    Entry(
        why=D.AUTH_FAILED,
        sees="`failed`, `auth-failed`",
        means="The carrier refused our credentials, or asks for some.",
        do="Check the trunk's username and password, or the provider's allow-list.",
        in_table=False,
    ),
    Entry(
        why=D.FORBIDDEN,
        refined="address",
        when={"auth_type": "ip-based"},
        sees="`failed`, `forbidden` (403), trunk by address",
        means="The provider forbids the call, most likely because {our_address} is not on its allow-list.",
        do="Have {our_address} put on the provider's allow-list; if it is there, see that {caller_id} is registered or verified"
        " with the provider and that calls to this country are allowed.",
    ),
    Entry(
        why=D.FORBIDDEN,
        refined="caller-id",
        when={"auth_type": "userpass"},
        sees="`failed`, `forbidden` (403), trunk with username and password",
        means="The provider forbids the call: it does not know {caller_id} as one of yours, or does not let this account call there."
        " Some say this of a wrong password, too.",
        do="Register or verify {caller_id} with the provider, allow the country called in its permissions,"
        " and if no call goes through set the credentials again: `{update} --username U --password -`.",
    ),
    Entry(
        why=D.FORBIDDEN,
        sees="`failed`, `forbidden`",
        means="The carrier forbids this call.",
        do="Check that it allows our address, this caller ID and this destination.",
        in_table=False,
    ),
    Entry(
        why=D.REJECTED,
        refined="declined",
        when={"sip_code": 603},
        sees="`failed`, `rejected` (603)",
        means="The person called, or a filter in front of them, declined the call.",
        do="Do not call again soon; if many calls end so, ask the provider about the reputation of {caller_id}.",
    ),
    Entry(
        why=D.REJECTED,
        refined="unwanted",
        when={"sip_code": (607, 608)},
        sees="`failed`, `rejected` (607, 608)",
        means="The call was taken for an unwanted one, by the person called (607) or by a filter (608).",
        do="Take the number off the list, and see to the reputation of {caller_id}.",
    ),
    Entry(
        why=D.REJECTED,
        refined="unpaid",
        when={"sip_code": 402},
        sees="`failed`, `rejected` (402)",
        means="The provider wants to be paid.",
        do="Top up the account, or raise its limit.",
    ),
    Entry(
        why=D.REJECTED,
        refined="unattested",
        when={"sip_code": (428, 436, 437, 438)},
        sees="`failed`, `rejected` (428, 436, 437, 438)",
        means="The far network wants the caller ID signed (STIR/SHAKEN), which the provider did not do, or not well.",
        do="Ask the provider to sign calls from {caller_id}: it has to be one of its own numbers, or verified there.",
    ),
    Entry(
        why=D.REJECTED,
        sees="`failed`, `rejected` (any other 4xx or 6xx)",
        means="The call was declined by the carrier or by the person called.",
        do="If all calls end so, give the provider's support the Call-ID that `trunkline explain` shows.",
    ),
    Entry(
        why=D.CODEC_MISMATCH,
        refined="srtp",
        when={"media_encryption": "sdes"},
        sees="`failed`, `codec-mismatch` (488, 415, 606), encrypted audio",
        means="The provider accepts nothing of what was offered: SRTP (sdes) with the {codecs}. Most likely SRTP is not switched on there.",
        do="Switch SRTP (secure media) on at the provider, or off here: `{update} --media-encryption no`;"
        " if that is not it, offer codecs that the provider names: `{update} --allow CODECS`.",
    ),
    Entry(
        why=D.CODEC_MISMATCH,
        refined="plain-over-tls",
        when={"media_encryption": "no", "transport": "transport-tls"},
        sees="`failed`, `codec-mismatch` (488, 415, 606), TLS with audio in the clear",
        means="The provider accepts nothing of what was offered: audio in the clear with the {codecs}. Over TLS many want SRTP.",
        do="Encrypt the audio: `{update} --media-encryption sdes`;"
        " if that is not it, offer codecs that the provider names: `{update} --allow CODECS`.",
    ),
    Entry(
        why=D.CODEC_MISMATCH,
        sees="`failed`, `codec-mismatch` (488, 415, 606)",
        means="The provider accepts none of the {codecs} that we offer, or it wants SRTP.",
        do="Offer codecs that the provider names: `{update} --allow CODECS`; if it wants SRTP, which needs TLS:"
        " `{update} --transport transport-tls --media-encryption sdes`.",
    ),
    Entry(
        why=D.CONGESTION,
        refined="no-name",
        when={"finding": "no-name", "spoke": (None, False)},
        sees="`failed`, `congestion` (503), the gateway's name is not found",
        means="Nothing was sent: the name of {gateway} does not resolve. {found}",
        do="Correct it, {gateways}, or mend the DNS of this machine.",
        far_side_spoke=False,
    ),
    Entry(
        why=D.CONGESTION,
        refined="loopback",
        when={"bound_to_loopback": True, "spoke": (None, False)},
        sees="`failed`, `congestion` (503), SIP bound to loopback",
        means="Nothing was sent: our SIP is bound to loopback, which reaches no carrier.",
        do="Set TRUNKLINE_SIP_BIND to this machine's address (or 0.0.0.0:5060), and behind NAT TRUNKLINE_EXTERNAL_ADDRESS.",
        far_side_spoke=False,
    ),
    Entry(
        why=D.CONGESTION,
        refined="refused",
        when={"finding": "refused", "spoke": (None, False)},
        sees="`failed`, `congestion` (503), the gateway refuses connections",
        means="{gateway} refuses connections over {transport}: nobody listens there. {found}",
        do="Check its address, port and transport: {gateways}, {other_transports}.",
        far_side_spoke=False,
    ),
    Entry(
        why=D.CONGESTION,
        refined="tls-failed",
        when={"finding": "tls-failed", "spoke": (None, False)},
        sees="`failed`, `congestion` (503), TLS fails",
        means="TLS to {gateway} does not hold: its certificate is not trusted, is for another name, or it speaks no TLS there. {found}",
        do="Name the gateway as its certificate does ({gateways}; TLS is mostly on 5061), or have the provider mend it.",
        far_side_spoke=False,
    ),
    Entry(
        why=D.CONGESTION,
        refined="not-reached",
        when={"spoke": False},
        sees="`failed`, `congestion`, not one reply",
        means="{gateway} could not be reached over {transport} and said nothing: no such name, a refused connection, or TLS that does not hold.",
        do="`trunkline trunk check {name}` says which.",
    ),
    Entry(
        why=D.CONGESTION,
        refined="silent",
        when={"finding": "silent"},
        sees="`failed`, `congestion` (503), the gateway does not answer probes",
        means="The call ended with 503, and {gateway} does not answer our probes either: it is in trouble or out of reach, rather than short of lines. {found}",
        do="Check address and port, and that no firewall drops SIP: `trunkline trunk check {name}`; if all is well here, ask the provider.",
    ),
    Entry(
        why=D.CONGESTION,
        refined="answering",
        when={"finding": "answered"},
        sees="`failed`, `congestion` (503), the gateway answers probes",
        means="The carrier has no line free for us: {gateway} is there and answers our probes.",
        do="Lower the limits to what the provider allows: `{update} --max-concurrent-calls N --max-calls-per-second R`; or ask it for more.",
    ),
    Entry(
        why=D.CONGESTION,
        refined="said",
        when={"spoke": True},
        sees="`failed`, `congestion` (503), said by the carrier",
        means="The carrier has no line free for us.",
        do="Lower the limits to what the provider allows: `{update} --max-concurrent-calls N --max-calls-per-second R`; or ask it for more.",
    ),
    Entry(
        why=D.CONGESTION,
        sees="`failed`, `congestion` (503)",
        means="The carrier has no line free, or {gateway} cannot be reached (no such name, or it refuses TCP or TLS).",
        do="`trunkline trunk check {name}` tells the two apart; if it is there, lower the limits:"
        " `{update} --max-concurrent-calls N --max-calls-per-second R`.",
    ),
    Entry(
        why=D.GATEWAY_ERROR,
        sees="`failed`, `gateway-error` (any other 5xx)",
        means="{gateway} reports an error of its own.",
        do="Try again later; if it lasts, give the provider's support the Call-ID that `trunkline explain` shows.",
    ),
    Entry(
        why=D.GATEWAY_UNREACHABLE,
        refined="loopback",
        when={"bound_to_loopback": True},
        sees="`failed`, `gateway-unreachable` (silence), SIP bound to loopback",
        means="{gateway} did not answer at all: our SIP is bound to loopback, which reaches no carrier.",
        do="Set TRUNKLINE_SIP_BIND to this machine's address (or 0.0.0.0:5060), and behind NAT TRUNKLINE_EXTERNAL_ADDRESS.",
    ),
    Entry(
        why=D.GATEWAY_UNREACHABLE,
        refined="answering",
        when={"finding": "answered"},
        sees="`failed`, `gateway-unreachable` (silence), the gateway answers probes",
        means="{gateway} did not answer this call at all, though it answers our probes:"
        " some providers are silent to an address that they do not know, or the answer was lost.",
        do="See that {our_address} is on the provider's allow-list, and that no firewall changes SIP (switch its SIP ALG off).",
    ),
    Entry(
        why=D.GATEWAY_UNREACHABLE,
        sees="`failed`, `gateway-unreachable` (silence)",
        means="{gateway} did not answer at all over {transport}: a wrong address or port, a wrong transport, or a firewall that drops SIP.",
        do="Check them with `trunkline trunk check {name}`, and correct them: {gateways}, {other_transports};"
        " let SIP out, and its answers in.",
    ),
    Entry(
        why=D.REDIRECTED,
        sees="`failed`, `redirected` (3xx)",
        means="The carrier redirects to another address, which is never followed: nobody chose it.",
        do="Ask the provider for the right gateway, and set it: {gateways}.",
    ),
    Entry(
        why=D.NOT_PLACED,
        refined="trunk-off",
        when={"trunk_active": False},
        sees="`failed`, `not-placed`, the trunk is off",
        means="Asterisk could not place the call: {trunk} is switched off.",
        do="Switch it on: `trunkline trunk enable {name}`.",
    ),
    Entry(
        why=D.NOT_PLACED,
        refined="gateway-removed",
        when={"gateway_removed": True},
        sees="`failed`, `not-placed`, the gateway was removed",
        means="Asterisk could not place the call: its gateway was taken off {trunk} meanwhile.",
        do="Nothing, if that was meant: the next attempt takes a gateway that is there.",
    ),
    Entry(
        why=D.NOT_PLACED,
        refined="no-endpoint",
        when={"withdrawn": True},
        sees="`failed`, `not-placed`, three times",
        means="Asterisk could not place the call: it did not find {trunk} in Postgres, or could not read it.",
        do="`trunkline doctor` checks that; see Asterisk's log.",
    ),
    Entry(
        why=D.NOT_PLACED,
        sees="`failed`, `not-placed`",
        means="Asterisk could not place the call and gives no reason: most likely no RTP port was free. Whether the carrier saw it is not known.",
        do="Widen the RTP range (TRUNKLINE_RTP_PORTS) to two ports a call, or lower the limits: `{update} --max-concurrent-calls N`.",
    ),
    Entry(
        why=D.POISON,
        sees="`failed`, `poison`",
        means="Three workers died with this call in hand, so it was set aside.",
        do="See the workers' log.",
    ),
    Entry(
        why=D.CANCELED,
        sees="`canceled`",
        means="Stopped by an operator.",
        do="",
    ),
    Entry(
        why=D.EXPIRED,
        sees="`canceled`, `expired`",
        means="Its time was over before it was dialled.",
        do="Start earlier, or with more calls at once.",
    ),
    Entry(
        why=D.LOST,
        refined="left",
        when={"left": True},
        sees="`unknown`, `lost`, left by an operator",
        means="Its end was not seen and cannot be known, and an operator has left it at that.",
        do="",
    ),
    Entry(
        why=D.LOST,
        sees="`unknown`, `lost`",
        means="Its end was not seen and cannot be known: Asterisk stopped, or was not heard, while the call was made.",
        do="Decide whether to call again, it is never dialled again by itself: `trunkline resolve CALL_ID --call-again`, or `--leave`.",
    ),
    Entry(
        why=V.TAKEN_BACK,
        sees="an attempt `withdrawn`: paused",
        means="Taken back before it was dialled: its campaign was paused, or trunkline was shut down.",
        do="It is dialled when that goes on.",
    ),
    Entry(
        why=V.TRUNK_OFF,
        sees="an attempt `withdrawn`: trunk off",
        means="Not dialled: {trunk} was switched off by then.",
        do="Switch it on: `trunkline trunk enable {name}`.",
    ),
    Entry(
        why=V.CAMPAIGN_WAITS,
        sees="an attempt `withdrawn`: campaign not running",
        means="Not dialled: its campaign was not running any more.",
        do="It is dialled after `trunkline campaign resume {campaign}`.",
    ),
    Entry(
        why=V.VOID,
        sees="an attempt `withdrawn`: too old",
        means="Not dialled: its slot had been granted too long ago when a worker came to it.",
        do="If this is often so, start more workers (TRUNKLINE_WORKERS).",
    ),
    Entry(
        why=V.UNCLAIMED,
        sees="an attempt `withdrawn`: unclaimed",
        means="Not dialled: no worker claimed it in time.",
        do="See that workers run, and that they reach Redis.",
    ),
    Entry(
        why=V.TURN_PASSED,
        sees="an attempt `withdrawn`: turn passed",
        means="Not dialled: its turn in the trunk's calls a second had passed.",
        do="It is dialled in a later one.",
    ),
    Entry(
        why=V.REFUSED,
        sees="an attempt `withdrawn`: refused",
        means="Not dialled: {error}.",
        do="Correct the agent if it is that; else see Asterisk's log.",
    ),
    Entry(
        why=V.NOT_ALLOWED,
        sees="`failed`, `not-placed`, without an attempt",
        means="Not dialled: its trunk may only call numbers that start with {error}.",
        do="If it may be called, allow it with `{update} --allowed-prefix +PREFIX` and upload it again.",
    ),
    Entry(
        why=V.BOOTING,
        sees="an attempt `withdrawn`: not taken",
        means="Not dialled: {error}.",
        do="It is dialled when Asterisk takes calls again.",
    ),
    Entry(
        why=V.NO_CHANNEL,
        sees="an attempt `withdrawn`: no channel",
        means="Claimed, but Asterisk never made a channel for it: given back after a second look.",
        do="If this is often so, see the logs of the workers and of Asterisk.",
    ),
    Entry(
        why=V.OVERTAKEN,
        sees="an attempt `withdrawn`: overtaken",
        means="An earlier attempt of this call turned out to live.",
        do="",
    ),
    Entry(
        why=V.AGENT_DOWN,
        sees="an attempt `withdrawn`: agent down",
        means="Not dialled: its agent is down, and its campaign has paused itself.",
        do="See that the agent runs, then `trunkline campaign resume {campaign}`.",
    ),
    Entry(
        why=W.NOT_DUE,
        sees="`scheduled`, due later",
        means="It waits for its time.",
        do="",
    ),
    Entry(
        why=W.CAMPAIGN,
        sees="`scheduled`, campaign not running",
        means="It waits because its campaign is {error}.",
        do="`trunkline campaign start {campaign}`, or `resume`.",
    ),
    Entry(
        why=W.NUMBER_UNREGISTERED,
        sees="`scheduled`, number unregistered",
        means="It waits because {caller_id} is not registered on any trunk any more.",
        do="Register it: `trunkline number add +E164 --trunk TRUNK`.",
    ),
    Entry(
        why=W.TRUNK_OFF,
        sees="`scheduled`, trunk off",
        means="It waits because {trunk} is switched off.",
        do="Switch it on: `trunkline trunk enable {name}`.",
    ),
    Entry(
        why=W.NEXT_GATEWAY,
        sees="`scheduled` between two attempts",
        means="One gateway did not deliver it, and it goes to the next one.",
        do="",
    ),
    Entry(
        why=W.GATEWAYS_REST,
        sees="`scheduled`, gateways resting",
        means="It waits because {trunk} has no gateway that takes calls now: each keeps failing and is left alone for a while.",
        do="`trunkline trunk check {name}` looks at them; each is tried again by itself, with one call.",
    ),
    Entry(
        why=W.NO_NODE,
        sees="`scheduled`, no Asterisk is heard",
        means="It waits because no Asterisk is heard: none runs, or its listener does not.",
        do="`trunkline up`; `trunkline doctor` says which part is missing.",
    ),
    Entry(
        why=W.NODES_REST,
        sees="`scheduled`, Asterisk resting",
        means="It waits because Asterisk is heard and takes no calls: it is left alone for a while.",
        do="`trunkline doctor` says why; it is tried again by itself, with one call.",
    ),
    Entry(
        why=W.SLOT,
        refined="campaign",
        when={"of_campaign": True},
        sees="`scheduled`, all is on, of a campaign",
        means="It waits for its turn: a free slot, and the trunk's calls a second.",
        do="If nothing moves, `trunkline explain {campaign}` says what holds its campaign up.",
    ),
    Entry(
        why=W.SLOT,
        sees="`scheduled`, all is on, a single call",
        means="It waits for its turn: a free slot, and the trunk's calls a second.",
        do="If nothing moves, see that the scheduler and a worker run: `trunkline doctor`.",
    ),
    Entry(
        why=W.WORKER,
        sees="`queued`",
        means="It has its slot, and no worker has taken it yet.",
        do="If it stays so, see that a worker runs and reaches Redis: `trunkline doctor`.",
    ),
)  # fmt: skip

_BY_REASON = {why: [entry for entry in ENTRIES if entry.why is why] for why in {entry.why for entry in ENTRIES}}
_NOTHING = Context()
_WORDS_OF_NOTHING = _NOTHING.words()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        file = Path(sys.argv[1])
        file.write_text(put_into(file.read_text()))
    else:
        sys.stdout.write(table())
