"""What goes over AMI: its errors, its messages, and what may be written.

    AmiError              the link or an action failed
    ├── NeverSent         not one byte left: the link was down
    │   ├── Unwritable    what was to be sent may not be, now or ever
    │   └── TooLate       its turn had passed
    ├── MaybeSent         written, then the link was lost or the deadline passed; Asterisk may have acted
    ├── Refused           Asterisk answered Response: Error (see `.message`)
    └── LoginRefused      the user or the secret is wrong

No error quotes a header's value: numbers and secrets travel in them. Import all this from `asterisk.connection`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

_LONGEST_LINE = 1024  # bytes, CR and LF included (measured on 22.10: 1025 is refused, "line too long")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OF_THE_NODE = ("shutting down", "does not exist", "permission denied", "authentication required")
_SPELLED = {"action": "Action", "actionid": "ActionID", "async": "Async", "variable": "Variable"}


class AmiError(Exception):
    """The link or an action failed."""


class NeverSent(AmiError):
    """Not one byte of the action has left."""


class Unwritable(NeverSent):
    """What was to be sent would inject a header, or be cut: the link has nothing to do with it."""


class TooLate(NeverSent):
    """Its turn had passed when it came to be sent: this process was held up."""


class MaybeSent(AmiError):
    """The action was written and no answer came: Asterisk may have done it."""


class Refused(AmiError):
    """Asterisk answered `Response: Error`; nothing was done."""

    def __init__(self, action: str, message: str) -> None:
        super().__init__(f"{action} was refused by Asterisk: {message}")
        self.message = message

    @property
    def is_nodes(self) -> bool:
        """It would refuse any other call as well: it boots, shuts down, or the AMI user lacks a class."""
        return any(sign in self.message.lower() for sign in _OF_THE_NODE)


class LoginRefused(AmiError):
    """The user or the secret is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiMessage:
    """One event.

    `headers` has lower-case names; the values of a repeated header are joined by a line feed, which no single value
    can contain.
    """

    name: str
    headers: Mapping[str, str] = field(repr=False)

    def get(self, header: str, default: str = "") -> str:
        return self.headers.get(header.lower(), default)


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiResponse:
    """What Asterisk answered to one action; `success` means accepted, not done."""

    success: bool
    message: str
    headers: Mapping[str, str] = field(repr=False)

    def get(self, header: str, default: str = "") -> str:
        return self.headers.get(header.lower(), default)


def writable(action: str, headers: Headers) -> dict[str, str | list[str]]:
    """The action's fields, every one safe to be written as `Name: value`; only Variable may repeat.

    An Originate always gets `Async: true`: without it Asterisk holds the connection as long as the phone rings.
    Raises `Unwritable` for what would inject a header or be cut by Asterisk.
    """
    if not _WORD.fullmatch(action):
        raise Unwritable("the action's name is not a word")
    pairs: Iterable[tuple[str, str]] = headers.items() if isinstance(headers, Mapping) else headers
    fields: dict[str, str | list[str]] = {"Action": action}
    taken = {"action"}
    variables: list[str] = []
    for header, value in pairs:
        name = header.lower()
        if not _WORD.fullmatch(header):
            raise Unwritable(f"{action}: a header's name is not a word")
        if _UNWRITABLE.search(value):
            raise Unwritable(f"{action}: {header} contains a control character")
        if len(f"{header}: {value}\r\n".encode()) > _LONGEST_LINE:
            raise Unwritable(f"{action}: {header} is too long for one line")
        if name == "variable":
            variables.append(value)
        elif name in taken:
            raise Unwritable(f"{action}: {header} is there twice")
        else:
            taken.add(name)
            fields[_SPELLED.get(name, header)] = value
    if variables:
        fields["Variable"] = variables
    if action.lower() == "originate" and fields.setdefault("Async", "true") != "true":
        raise Unwritable("Originate: Async must be true")
    return fields
