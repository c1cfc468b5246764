"""`trunkline agent`: what talks to the people who answer."""

from __future__ import annotations

from typing import Annotated

import typer

from models.agents import DEFAULT_FALLBACK
from models.settings import read_settings
from scheduler import agents
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import transaction
from scheduler.presence import wake

group = new_group("What talks to the people who answer.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Connect = typer.Option(metavar="URI", help="audiosocket://HOST:PORT, dialplan://CONTEXT/EXTEN or playback://SOUND.")
Fallback = Annotated[
    str | None, typer.Option(metavar="SOUND", help="What a person hears whom it does not reach. New: an apology.")
]
MaxCall = Annotated[
    int | None,
    typer.Option("--max-call-seconds", metavar="N", help="From the answer on. New: TRUNKLINE_LONGEST_CALL_SECONDS."),
]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent-calls", metavar="N", help="Of all its campaigns and calls together. New: no limit of its own."
    ),
]
Webhook = Annotated[
    str | None, typer.Option("--webhook-url", metavar="URL", help="Gets each change of its calls, signed.")
]


@group.command()
def create(
    name: Name,
    connect: Annotated[str, Connect],
    fallback: Fallback = None,
    max_call_seconds: MaxCall = None,
    max_concurrent_calls: MaxCalls = None,
    webhook_url: Webhook = None,
) -> None:
    """Make an agent."""
    settings = read_settings()
    with transaction(settings) as connection:
        agents.create(
            connection,
            settings,
            name,
            connect,
            fallback=fallback or None,
            max_call_seconds=max_call_seconds or None,
            max_concurrent_calls=max_concurrent_calls or None,
            webhook_url=webhook_url or None,
        )
    terminal.say(f"agent {name} is at {connect}")


@group.command()
def update(
    name: Name,
    connect: Annotated[str | None, Connect] = None,
    fallback: Fallback = None,
    max_call_seconds: MaxCall = None,
    max_concurrent_calls: MaxCalls = None,
    webhook_url: Webhook = None,
    rename: Annotated[str | None, typer.Option("--rename", metavar="NEW", help="Its new name.")] = None,
) -> None:
    """Change what is given, for calls from now on; an empty text ("") and 0 go back to the default."""
    change: agents.Change = {}
    if rename is not None:
        change["name"] = rename
    if connect is not None:
        change["connect"] = connect
    if fallback is not None:
        change["fallback"] = fallback or None
    if max_call_seconds is not None:
        change["max_call_seconds"] = max_call_seconds or None
    if max_concurrent_calls is not None:
        change["max_concurrent_calls"] = max_concurrent_calls or None
    if webhook_url is not None:
        change["webhook_url"] = webhook_url or None
    if not change:
        raise typer.BadParameter("nothing to change: give at least one option")
    settings = read_settings()
    with transaction(settings) as connection:
        agents.update(connection, settings, name, **change)
    wake(settings)
    terminal.say(f"agent {name} is changed")


@group.command("list")
def list_all() -> None:
    """List the agents."""
    with transaction(read_settings()) as connection:
        rows = agents.list_all(connection)
    terminal.table(
        ("NAME", "CONNECT", "FALLBACK", "MAX-CALL-SECONDS"),
        [(row.name, row.connect, row.fallback, row.max_call_seconds) for row in rows],
    )


@group.command()
def show(name: Name) -> None:
    """Show an agent."""
    settings = read_settings()
    with transaction(settings) as connection:
        agent = agents.get(connection, name)
    terminal.fields(
        {
            "name": agent.name,
            "connect": agent.connect,
            "fallback": agent.fallback or f"{DEFAULT_FALLBACK} (the default)",
            "max_call_seconds": agent.max_call_seconds or f"{settings.longest_call_seconds} (of the settings)",
            "max_concurrent_calls": agent.max_concurrent_calls or "as many as its trunks carry",
            "webhook_url": agent.webhook_url or "none",
            "created_at": agent.created_at,
        }
    )


@group.command()
def delete(name: Name) -> None:
    """Delete an agent that has no campaigns and no calls."""
    with transaction(read_settings()) as connection:
        agents.delete(connection, name)
    terminal.say(f"agent {name} is deleted")
