"""What a look at something found: one sentence, with what to do when it is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  #: works, and will hurt one day
    WRONG = "wrong"  #: calls fail, or cannot be made
    UNKNOWN = "unknown"  #: could not be looked at


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line. `advice` is empty when everything is well."""

    part: str
    verdict: Verdict
    sentence: str
    advice: str = ""


def ok(part: str, sentence: str) -> Finding:
    return Finding(part=part, verdict=Verdict.OK, sentence=sentence)


def warning(part: str, sentence: str, advice: str) -> Finding:
    return Finding(part=part, verdict=Verdict.WARNING, sentence=sentence, advice=advice)


def wrong(part: str, sentence: str, advice: str) -> Finding:
    return Finding(part=part, verdict=Verdict.WRONG, sentence=sentence, advice=advice)


def unknown(part: str, sentence: str, advice: str = "") -> Finding:
    return Finding(part=part, verdict=Verdict.UNKNOWN, sentence=sentence, advice=advice)


def in_utc(at: datetime) -> str:
    """A moment as sentences name it, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
