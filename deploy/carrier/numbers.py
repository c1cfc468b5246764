"""What the last two digits of a dialled number make the carrier do: the one table behind scenario, demo and tests.

A refusal with a 4xx status has the last two digits of that status (486 is 86); the others their first and last (503 is
53). Numbers look like `+1NPA55501SS`, fictional wherever NPA is an area code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The shape of a call; each is one block of the scenario."""

    ANSWER = "answer"
    REFUSE = "refuse"
    RING = "ring"
    PROGRESS = "progress"
    TRYING = "trying"
    SILENT = "silent"


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What one pair of digits does, in a sentence and in the terms the scenario is built from."""

    digits: str
    does: str
    kind: Kind
    status: int | None = None
    """The final status sent if the caller does not give up first; None: there is none."""
    reason: str = "OK"
    rings_ms: int = 0
    """How long it rings before it answers or refuses; of TRYING: how long nothing follows the 100."""
    hangs_up_after_ms: int | None = None
    """Time from the answer to the carrier's own BYE; None: it waits for the caller's."""
    challenges: bool = False
    presses: str = ""
    """The keys that are pressed half a second after the answer, each as a SIP INFO."""


def _answer(
    digits: str,
    does: str,
    *,
    rings_ms: int = 0,
    hangs_up_after_ms: int | None = None,
    challenges: bool = False,
    presses: str = "",
) -> Behaviour:
    return Behaviour(
        digits=digits,
        does=does,
        kind=Kind.ANSWER,
        status=200,
        rings_ms=rings_ms,
        hangs_up_after_ms=hangs_up_after_ms,
        challenges=challenges,
        presses=presses,
    )


def _refuse(digits: str, status: int, reason: str, does: str, *, rings_ms: int = 0) -> Behaviour:
    return Behaviour(digits=digits, does=does, kind=Kind.REFUSE, status=status, reason=reason, rings_ms=rings_ms)


STAYS = _answer("00", "Answers and stays until the caller hangs up.")
SHORT = _answer("01", "Answers and hangs up after one second.", hangs_up_after_ms=1000)

BEHAVIOURS: tuple[Behaviour, ...] = (
    STAYS,
    SHORT,
    _answer("02", "Answers and hangs up after two seconds.", hangs_up_after_ms=2000),
    _answer("05", "Rings for three seconds, answers, stays until the caller hangs up.", rings_ms=3000),
    _answer("06", "Answers, presses 1, 2, # and 0, stays until the caller hangs up.", presses="12#0"),
    _answer(
        "41",
        "Asks for credentials (401): answers the right ones and hangs up after one second, refuses others with 403.",
        hangs_up_after_ms=1000,
        challenges=True,
    ),
    _refuse("86", 486, "Busy Here", "Is busy (486)."),
    _refuse("04", 404, "Not Found", "Does not exist (404)."),
    _refuse("03", 403, "Forbidden", "Is not allowed to this caller (403)."),
    _refuse("08", 408, "Request Timeout", "Is not reached by the carrier, who says so at once (408)."),
    _refuse("80", 480, "Temporarily Unavailable", "Is not available now (480)."),
    _refuse("88", 488, "Not Acceptable Here", "Accepts none of the codecs (488)."),
    _refuse("53", 503, "Service Unavailable", "Meets a congested carrier (503)."),
    _refuse("55", 503, "Service Unavailable", "Rings, then meets a congested carrier (180, 503).", rings_ms=200),
    _refuse("50", 500, "Server Internal Error", "Meets a broken carrier (500)."),
    _refuse("63", 603, "Decline", "Declines (603)."),
    _refuse("32", 302, "Moved Temporarily", "Is redirected to another number (302)."),
    Behaviour(digits="90", does="Rings until the caller gives up.", kind=Kind.RING, status=487),
    Behaviour(
        digits="91",
        does="Sends 183 with early media and no ringing, until the caller gives up.",
        kind=Kind.PROGRESS,
        status=487,
    ),
    Behaviour(
        digits="92", does="Says 100 and then nothing more, until the caller gives up.", kind=Kind.TRYING, status=487
    ),
    Behaviour(
        digits="38",
        does="Says 100, and after seven seconds that it did not reach the number (408).",
        kind=Kind.TRYING,
        status=408,
        reason="Request Timeout",
        rings_ms=7000,
    ),
    Behaviour(
        digits="93",
        does="Says nothing at all, even where the carrier asks everybody for credentials.",
        kind=Kind.SILENT,
    ),
)

ANY_OTHER = SHORT
"""What all digits do that the table does not name."""

BY_DIGITS = {behaviour.digits: behaviour for behaviour in BEHAVIOURS}


def behaviour_of(number: str) -> Behaviour:
    """The behaviour of a dialled number, with or without its plus."""
    return BY_DIGITS.get(number[-2:], ANY_OTHER)


def fictional_number(area_code: int, digits: str) -> str:
    """A number of the fictional range in that area with these last two digits: `+1NPA55501SS`."""
    if not 200 <= area_code <= 999 or len(digits) != 2 or not digits.isdecimal():
        raise ValueError(f"no number in area {area_code} that ends in {digits!r}")
    return f"+1{area_code}55501{digits}"
