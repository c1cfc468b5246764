"""`trunkline webhook`: what receivers of webhooks need, and what did not reach them."""

from __future__ import annotations

from typing import Annotated

import typer

from models import webhooks
from models.settings import read_settings
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import transaction

group = new_group("Webhooks: what tells a receiver of yours how each call goes.")


@group.command()
def secret(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False, help="As the agent or the batch has it.")],
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; the one before signs beside it for a day.")
    ] = False,
) -> None:
    """Show the secret that a receiver verifies signatures with (Standard Webhooks)."""
    webhooks.check_url(url)
    with transaction(read_settings()) as connection:
        found = webhooks.replace_secret(connection, url) if rotate else webhooks.secrets_of(connection, url)[0]
    terminal.say(found)


@group.command("list")
def list_all(
    most: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="The newest so many.")] = 100,
) -> None:
    """List the deliveries that fail, and those that were given up in the last week."""
    with transaction(read_settings()) as connection:
        rows = webhooks.list_undelivered(connection, most)
    terminal.table(
        ("URL", "CALL", "STATUS", "TRIES", "LAST-ERROR", "DUE", "GIVEN-UP"),
        [(row.url, row.call_id, row.status, row.tries, row.last_error, row.due_at, row.given_up_at) for row in rows],
    )
