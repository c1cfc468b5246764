"""INVITEs as they arrived, from the file that SIPp's `-trace_msg` writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_MESSAGE = re.compile(r"message received \[\d+\] bytes *:\s*\n(INVITE .*?)(?=^-{20,}|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Invite:
    """Where its sender says that it is."""

    number: str
    contact: str  #: HOST:PORT
    via: str
    audio: tuple[str, int]


def invites(messages: Path) -> list[Invite]:
    """In the order of their arrival; one that was sent again is there again."""
    return [_invite(message[1].replace("\r", "")) for message in _MESSAGE.finditer(messages.read_text())]


def _invite(text: str) -> Invite:
    def field(pattern: str) -> str:
        found = re.search(pattern, text, re.MULTILINE)
        assert found, f"{pattern} in\n{text}"
        return found[1]

    return Invite(
        number=field(r"^INVITE sip:([^@]*)@"),
        contact=field(r"^Contact: <sip:[^@]*@([^>;]*)"),
        via=field(r"^Via: SIP/2.0/UDP ([^;]*)"),
        audio=(field(r"^c=IN IP4 (\S+)"), int(field(r"^m=audio (\d+) "))),
    )
