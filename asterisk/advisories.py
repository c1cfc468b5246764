"""Known holes of Asterisk that concern a dialer, by the release that closes them.

From Debian's changelog of its asterisk package and the release notes of 22.10.1; what matters only to
modules and interfaces that trunkline does not use (H.323, Unistim, LDAP, XMPP, ARI, HTTP) is left out.
A table ages: `AS_OF` says when it was last compared with its sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

AS_OF = date(2026, 7, 20)
OLDEST = (22, 0, 0)
BRANCH = 22
"""The only one whose releases the table knows."""


@dataclass(frozen=True, kw_only=True)
class Hole:
    fixed_in: tuple[int, int, int]
    names: str
    what: str


HOLES = (
    Hole(fixed_in=(22, 1, 1), names="CVE-2024-53566", what="an AMI user can list files outside its directory"),
    Hole(fixed_in=(22, 4, 1), names="CVE-2025-47779", what="a SIP MESSAGE can pretend to come from somebody else"),
    Hole(fixed_in=(22, 5, 1), names="CVE-2025-49832", what="a STIR/SHAKEN header can crash it"),
    Hole(fixed_in=(22, 5, 2), names="CVE-2025-57767", what="a malformed Authorization header from anywhere crashes it"),
    Hole(
        fixed_in=(22, 10, 0),
        names="CVE-2026-25994, CVE-2026-26203, CVE-2026-34235, CVE-2026-40892 and ten more",
        what="its copy of pjproject, which reads every SIP packet, has fourteen known holes",
    ),
    Hole(
        fixed_in=(22, 10, 1),
        names="GHSA-g8q2-p36q-94f6",
        what="a TCP connection that closes while SDP is read makes it use freed memory",
    ),
    Hole(
        fixed_in=(22, 10, 1),
        names="GHSA-ph27-3m5q-mj5m",
        what="a dialplan's CELGenUserEvent can inject SQL into the ledger",
    ),
)


def parsed(version: str) -> tuple[int, int, int] | None:
    """`22.10.1+dfsg` or `certified-22.8-cert4` → the numbers; None for what is no version."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def holes(version: tuple[int, int, int]) -> list[Hole]:
    """What a release of the branch has that a later one closes. A distribution may have closed it in its own way."""
    return [hole for hole in HOLES if version[0] == BRANCH and version < hole.fixed_in]
