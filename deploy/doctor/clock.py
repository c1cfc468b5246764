"""One rule for every clock that is compared with ours."""

from __future__ import annotations

from datetime import datetime, timedelta

from models.findings import Finding, ok, warning, wrong

_NOTICED = timedelta(seconds=1)
_HARMFUL = timedelta(seconds=10)
_SET_IT = "let NTP (chrony, systemd-timesyncd) set the clocks of both machines"


def clock_finding(part: str, theirs: datetime, ours: datetime, spread: timedelta) -> Finding:
    """`spread` is how far the two may lie apart only because asking took time."""
    off = max(timedelta(0), abs(theirs - ours) - spread)
    if off > _NOTICED:
        sentence = f"its clock is {off.total_seconds():.1f} s {'ahead of' if theirs > ours else 'behind'} ours"
        return (wrong if off > _HARMFUL else warning)(part, sentence, _SET_IT)
    return ok(part, "its clock agrees with ours")
