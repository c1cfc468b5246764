"""`trunkline number`: the caller IDs of the trunks."""

from __future__ import annotations

from typing import Annotated

import typer

from models.settings import read_settings
from scheduler import numbers
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import transaction
from scheduler.presence import wake

group = new_group("The phone numbers that you may call from, each on one trunk.")

Number = Annotated[str, typer.Argument(metavar="+E164", show_default=False, help="In international form: +4930123456.")]


@group.command()
def add(
    phone_number: Number,
    trunk: Annotated[str, typer.Option(metavar="NAME", help="The trunk it belongs to.")],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="For you to know it by.")] = None,
) -> None:
    """Register a number on a trunk."""
    settings = read_settings()
    with transaction(settings) as connection:
        number = numbers.add(connection, phone_number, trunk, name=name).phone_number
    wake(settings)
    terminal.say(f"{number} is registered on trunk {trunk}")


@group.command("list")
def list_all() -> None:
    """List the numbers with their trunks."""
    with transaction(read_settings()) as connection:
        rows = numbers.list_all(connection)
    terminal.table(("PHONE NUMBER", "TRUNK", "NAME"), [(row.phone_number, row.trunk, row.name) for row in rows])


@group.command()
def remove(phone_number: Number) -> None:
    """Take a number off its trunk: nothing can be called from it any more."""
    with transaction(read_settings()) as connection:
        number = numbers.remove(connection, phone_number)
    terminal.say(f"{number} is no longer registered")
