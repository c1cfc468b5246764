"""`trunkline key`: who may use the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from models.settings import read_settings
from scheduler import keys
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import transaction

group = new_group("Keys of the HTTP API.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@group.command()
def create(
    name: Name,
    scope: Annotated[
        str, typer.Option(metavar="read|call|admin", help="What it may do; each includes those before it.")
    ],
) -> None:
    """Make a key, and show it: it cannot be shown again."""
    with transaction(read_settings()) as connection:
        key = keys.create(connection, name, scope)
    terminal.say(key)
    terminal.note("keep it: it cannot be shown again")


@group.command("list")
def list_all() -> None:
    """List the keys, and when each was used last; the keys themselves are not known any more."""
    with transaction(read_settings()) as connection:
        rows = keys.list_all(connection)
    terminal.table(
        ("NAME", "SCOPE", "CREATED", "LAST-USED", "REVOKED"),
        [(row.name, row.scope.value, row.created_at, row.last_used_at, row.revoked_at) for row in rows],
    )


@group.command()
def revoke(name: Name) -> None:
    """Refuse a key from its next request on."""
    with transaction(read_settings()) as connection:
        keys.revoke(connection, name)
    terminal.say(f"key {name} is revoked")
