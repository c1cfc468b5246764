"""What `trunkline resolve` and `trunkline campaign resolve` have in common: an operator's decision on unknown calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from models.errors import Invalid, Unavailable
from models.settings import read_settings
from scheduler.cli import terminal

if TYPE_CHECKING:
    from scheduler.resolving import Resolved

CallAgain = Annotated[
    bool, typer.Option("--call-again", help="Call them as soon as there is a slot; some may have been talked to.")
]
Leave = Annotated[bool, typer.Option("--leave", help="They stay unknown, and their slots are released.")]


def resolve(
    call_ids: Annotated[list[str], typer.Argument(metavar="CALL_ID...", show_default=False)],
    call_again: CallAgain = False,
    leave: Leave = False,
) -> None:
    """Decide on calls whose end cannot be known (`unknown`): call again, or leave."""
    carry_out(call_again=call_again, leave=leave, calls=call_ids)


def carry_out(
    *, call_again: bool, leave: bool, campaign: str | None = None, calls: Sequence[str] | None = None
) -> None:
    """Says what was done; what was not done because a node does not answer is an error."""
    from scheduler.resolving import Decision, resolve  # needs AMI

    if call_again == leave:
        raise typer.BadParameter(
            "say which: --call-again has them called as soon as there is a slot, though some may have been talked to;"
            " --leave keeps them unknown and releases their slots"
        )
    done = resolve(
        read_settings(),
        Decision.CALL_AGAIN if call_again else Decision.LEAVE,
        campaign=campaign,
        calls=None if calls is None else [_call_id(word) for word in calls],
    )
    terminal.say(_said(done))
    if done.not_known and done.ask_again_at:
        raise Unavailable(
            f"Asterisk: {done.not_known} not decided on, since their node does not answer and they may be up there:"
            f" start it, or ask again after {done.ask_again_at:%Y-%m-%d %H:%M} UTC, when the longest call is over"
        )


def _call_id(word: str) -> UUID:
    try:
        return UUID(word)
    except ValueError as error:
        raise Invalid("call_id", "must be a call's id, as `trunkline campaign calls` lists it") from error


def _said(done: Resolved) -> str:
    parts = [
        f"{number} {words}"
        for number, words in (
            (done.called_again, "to be called again"),
            (done.left, "left as unknown"),
            (done.still_up, "still up: their end will be seen"),
        )
        if number
    ]
    return ", ".join(parts) or ("nothing done" if done.not_known else "no call is unknown")
