"""What was seen of an attempt → its status and its disposition; what is said of them is in `models.explanations`.

The only place that gives statuses to endings. Precedence: answered, then our own stop, then the SIP
status (Asterisk's TechCause), then the Q.850 cause that Asterisk derives from it; the carrier's own
`Reason` header never reaches us.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from models.statuses import Status


class Disposition(StrEnum):
    """Why an attempt ended."""

    ANSWERED = "answered"
    AGENT_UNREACHABLE = "agent-unreachable"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    INVALID_NUMBER = "invalid-number"
    AUTH_FAILED = "auth-failed"
    FORBIDDEN = "forbidden"
    REJECTED = "rejected"
    CODEC_MISMATCH = "codec-mismatch"
    CONGESTION = "congestion"
    GATEWAY_ERROR = "gateway-error"
    GATEWAY_UNREACHABLE = "gateway-unreachable"
    REDIRECTED = "redirected"
    NOT_PLACED = "not-placed"
    POISON = "poison"
    CANCELED = "canceled"
    EXPIRED = "expired"
    LOST = "lost"


D = Disposition

# RFC 3261, section 21, and RFC 8197 (607), RFC 8688 (608)
_BY_SIP = {
    **dict.fromkeys((486, 600), (Status.BUSY, D.BUSY)),
    **dict.fromkeys((480, 487, 408), (Status.NO_ANSWER, D.NO_ANSWER)),
    **dict.fromkeys((404, 410, 484, 604), (Status.FAILED, D.INVALID_NUMBER)),
    **dict.fromkeys((401, 407), (Status.FAILED, D.AUTH_FAILED)),
    403: (Status.FAILED, D.FORBIDDEN),
    **dict.fromkeys((415, 488, 606), (Status.FAILED, D.CODEC_MISMATCH)),
    503: (Status.FAILED, D.CONGESTION),
}
_BY_SIP_CLASS = {
    3: (Status.FAILED, D.REDIRECTED),
    4: (Status.FAILED, D.REJECTED),
    5: (Status.FAILED, D.GATEWAY_ERROR),
    6: (Status.FAILED, D.REJECTED),
}
# Q.850, as Asterisk's hangup_sip2cause() derives it; 21 and 127 stay ambiguous
_BY_CAUSE = {
    1: (Status.FAILED, D.INVALID_NUMBER),
    17: (Status.BUSY, D.BUSY),
    19: (Status.NO_ANSWER, D.NO_ANSWER),
    21: (Status.FAILED, D.REJECTED),
    22: (Status.FAILED, D.INVALID_NUMBER),
    23: (Status.FAILED, D.REDIRECTED),
    28: (Status.FAILED, D.INVALID_NUMBER),
    34: (Status.FAILED, D.CONGESTION),
    38: (Status.FAILED, D.GATEWAY_ERROR),
    58: (Status.FAILED, D.CODEC_MISMATCH),
    127: (Status.FAILED, D.REJECTED),
}

# Where it is not known what the far side said, a 408 is Asterisk's own if it comes with timer B (64 x T1) of the INVITE:
# sooner or later it is the carrier's.
_EARLY, _LATE = timedelta(milliseconds=200), timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was seen of an attempt by the time its channel was gone."""

    answered: bool
    rang: bool
    stopped: bool  #: an operator asked for its end
    agent_status: str | None  #: DIALSTATUS of the agent's leg, or a word of the dialplan's, where there was one
    sip_code: int | None
    q850_cause: int | None
    last_reply: int | None = None  #: the status of the last SIP reply that came; 0: none did; None is not known
    lasted: timedelta | None  #: from the making of the channel to its end


@dataclass(frozen=True, kw_only=True)
class Outcome:
    status: Status
    disposition: Disposition


def classify(seen: Evidence, *, timer_b: timedelta) -> Outcome:
    """The outcome of an attempt whose channel is gone. Never guesses: every answer names what it was read from.

    `timer_b` is the INVITE transaction's (RFC 3261, 17.1.1.2): a 408 of Asterisk's own comes with it, after
    nothing at all was heard.
    """
    status, disposition = _decide(seen, timer_b)
    return Outcome(status=status, disposition=disposition)


def _decide(seen: Evidence, timer_b: timedelta) -> tuple[Status, Disposition]:
    if seen.answered:
        if seen.agent_status in {None, "", "ANSWER", "CANCEL"}:
            return Status.COMPLETED, D.ANSWERED
        return Status.FAILED, D.AGENT_UNREACHABLE
    if seen.stopped:
        return Status.CANCELED, D.CANCELED
    sip_code = seen.sip_code or (408 if seen.q850_cause == 18 else None)  # CEL has the cause alone
    if sip_code == 408 and not seen.rang and _was_silence(seen, timer_b):
        return Status.FAILED, D.GATEWAY_UNREACHABLE
    if sip_code:
        return _BY_SIP.get(sip_code) or _BY_SIP_CLASS.get(sip_code // 100, (Status.FAILED, D.REJECTED))
    if not seen.q850_cause and not seen.rang:
        # No RTP port was free, or a redirect was not seen in time (26 of 250 calls that got a 302 ended like this):
        # whether an INVITE left is not known, so the call is not given back to be dialled again.
        return Status.FAILED, D.NOT_PLACED
    return _BY_CAUSE.get(
        seen.q850_cause or 0, (Status.NO_ANSWER, D.NO_ANSWER) if seen.rang else (Status.FAILED, D.REJECTED)
    )


def _was_silence(seen: Evidence, timer_b: timedelta) -> bool:
    """Whether a 408 is Asterisk's own, for an INVITE that nobody answered."""
    if seen.last_reply is not None:
        return seen.sip_code is None
    return seen.lasted is not None and timer_b - _EARLY <= seen.lasted <= timer_b + _LATE
