"""`trunkline agent`: what talks to the people who answer."""

from __future__ import annotations

from typing import Annotated

import typer

from models.settings import read_settings
from scheduler import agents
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import transaction

group = new_group("What talks to the people who answer.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@group.command()
def create(
    name: Name,
    connect: Annotated[
        str,
        typer.Option(metavar="URI", help="audiosocket://HOST:PORT, dialplan://CONTEXT/EXTEN or playback://SOUND."),
    ],
) -> None:
    """Make an agent."""
    settings = read_settings()
    with transaction(settings) as connection:
        agents.create(connection, settings, name, connect)
    terminal.say(f"agent {name} is at {connect}")


@group.command("list")
def list_all() -> None:
    """List the agents."""
    with transaction(read_settings()) as connection:
        rows = agents.list_all(connection)
    terminal.table(("NAME", "CONNECT"), [(row.name, row.connect) for row in rows])


@group.command()
def show(name: Name) -> None:
    """Show an agent."""
    with transaction(read_settings()) as connection:
        agent = agents.get(connection, name)
    terminal.fields({"name": agent.name, "connect": agent.connect, "created_at": agent.created_at})


@group.command()
def delete(name: Name) -> None:
    """Delete an agent that has no campaigns and no calls."""
    with transaction(read_settings()) as connection:
        agents.delete(connection, name)
    terminal.say(f"agent {name} is deleted")
