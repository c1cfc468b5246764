"""What the end of an attempt says about its gateway, and when the next gateway may be tried. Pure.

    well ──5 failures in a row──▶ resting 5 s ──▶ on trial: one call at a time ──it fails──▶ resting 10 s, 20 s ... 5 min
      ▲                                                  │
      └──────────────── any sign of life ◀───────────────┘

A sign of life is whatever shows that the carrier takes our calls: ringing, an answer, a busy line, a number
that does not exist. The counting itself is `sql/gateway_failed.sql`, where ends are written.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from models.outcome import Disposition
from models.sightings import Attempt
from models.statuses import ENDS, Status

D = Disposition

REST_AFTER = 5  #: failures in a row
FIRST_REST = timedelta(seconds=5)
LONGEST_REST = timedelta(minutes=5)

_UNDELIVERED = frozenset({D.CONGESTION, D.GATEWAY_ERROR, D.GATEWAY_UNREACHABLE})
"""A 5xx, or not one word: the recipient was not reached through this gateway."""

_FAILED = _UNDELIVERED | {D.AUTH_FAILED, D.FORBIDDEN, D.CODEC_MISMATCH}
"""Also what every call of a trunk that is set up wrong ends with: a list is not to be burnt on it."""

_NEUTRAL = frozenset({D.NOT_PLACED, D.CANCELED, D.NO_ANSWER, D.LOST, D.EXPIRED, D.POISON})


class Sign(StrEnum):
    """What an attempt shows of its gateway."""

    LIVES = "lives"
    FAILED = "failed"


def sign_of(old: Attempt, new: Attempt) -> Sign | None:
    """What is new in `new` about the gateway; None if nothing is."""
    if (new.ringing_at or new.answered_at) and not (old.ringing_at or old.answered_at):
        return Sign.LIVES
    if new.status is old.status or new.status not in ENDS or new.ringing_at or new.answered_at:
        return None
    if new.disposition in _FAILED:
        return Sign.FAILED
    return None if new.disposition in _NEUTRAL else Sign.LIVES


def may_fail_over(old: Attempt, new: Attempt) -> bool:
    """Whether this end says that nobody was reached, so that the call may go out by another gateway at once.

    Never after a reply above 100 but for the 5xx itself, and not by what CEL alone knows of an end, which leaves
    out whether it rang.
    """
    if new.status is old.status or new.ringing_at or new.answered_at or new.stop_requested_at:
        return False
    if new.status is Status.WITHDRAWN:
        return new.disposition == D.NOT_PLACED
    if new.status is not Status.FAILED or new.disposition not in _UNDELIVERED:
        return False
    return new.sip_code is not None if new.last_reply is None else new.last_reply == 0 or new.last_reply >= 500
