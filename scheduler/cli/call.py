"""`trunkline call` and `trunkline hang-up`: one call."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from models.errors import Invalid
from models.settings import read_settings
from models.statuses import Status
from scheduler import single
from scheduler.cli import terminal
from scheduler.cli.session import ledger
from scheduler.presence import bell, require_asterisk


def call(
    phone_number: Annotated[
        str, typer.Argument(metavar="+E164", show_default=False, help="Whom to call, in international form.")
    ],
    agent: Annotated[str, typer.Option(metavar="NAME", help="What talks to them.")],
    from_number: Annotated[str, typer.Option("--from", metavar="+E164", help="A registered number of yours.")],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Their name, for the agent.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the call is over; status 0 if it was completed.")] = False,
) -> None:
    """Call one person now, before every campaign."""
    settings = read_settings()
    with ledger(settings) as engine, bell(settings) as slots:
        with engine.begin() as connection:
            call_id = single.place(
                connection, phone_number=phone_number, agent=agent, from_number=from_number, name=name
            )
            require_asterisk(connection)
        slots.wake()
        terminal.say(str(call_id))
        if not wait:
            return
        try:
            end = single.wait(engine, call_id, lambda state: terminal.say(state.status.value))
        except KeyboardInterrupt:
            terminal.note(f"the call goes on: `trunkline hang-up {call_id}` ends it")
            raise
        terminal.say(end.explanation or end.disposition or "")
    if end.status is not Status.COMPLETED:
        raise typer.Exit(1)


def hang_up(call_id: Annotated[str, typer.Argument(metavar="CALL_ID", show_default=False)]) -> None:
    """End a call that is up or ringing, or take back one that is still to be made."""
    from scheduler.stopping import hang_up as end_call  # the only commands that need AMI

    try:
        found = UUID(call_id)
    except ValueError as error:
        raise Invalid("call_id", "must be a call's id, as `trunkline call` prints it") from error
    terminal.say(end_call(read_settings(), found))
