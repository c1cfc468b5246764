"""The errors a person is meant to read.

TrunklineError          one line for stderr, exit status 1, never a traceback
├── Invalid             a value was refused: names the field and says what would be right
├── NotFound            no such trunk, number, agent, campaign or call
├── Conflict            the state of the thing does not allow it (and which state that is)
│   ├── WrongState      the same, with the state and those that would
│   └── Busy            somebody is at it: ask again in a moment
└── Unavailable         Postgres, Redis, Asterisk or a part of ours does not answer
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # setup runs before there is any package
    from pydantic_core import ErrorDetails

_SHOULD = re.compile(r"^\w+ should\b")


class TrunklineError(Exception):
    """One line that says what is wrong and what would be right."""


class Invalid(TrunklineError):
    """A value was refused; nothing was written."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFound(TrunklineError):
    """There is no such thing in the ledger."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind}: there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class Conflict(TrunklineError):
    """The thing exists, but its state does not allow this."""


class WrongState(Conflict):
    """What was asked for belongs to other states."""

    def __init__(self, sentence: str, *, state: str, needed: str) -> None:
        super().__init__(sentence)
        self.state = state
        self.needed = needed  #: as `ready`, or `ready, running or paused`


class Busy(Conflict):
    """The same is being done by somebody else right now."""


class Unavailable(TrunklineError):
    """A part does not answer; nothing was written.

    `to_anybody` is what is said instead to those who need not know where our parts are: the holders of keys.
    """

    def __init__(self, sentence: str, *, to_anybody: str | None = None) -> None:
        super().__init__(sentence)
        self.to_anybody = sentence if to_anybody is None else to_anybody


def problem_of(found: ErrorDetails) -> str:
    """What pydantic found wrong with a value, in our words: `must ...`."""
    context = found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return str(context["error"])
        case "too_long":
            return f"must be at most {context['max_length']}"
        case "too_short":
            return f"must be at least {context['min_length']}"
    message = _SHOULD.sub("must", found["msg"])
    return message[:1].lower() + message[1:]
