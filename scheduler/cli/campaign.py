"""`trunkline campaign`: lists of people to call."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from models.findings import in_utc
from models.settings import Settings, read_settings
from scheduler import campaigns, exports, intake
from scheduler.campaigns import CALL_COLUMNS, Counts
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.resolve import CallAgain, Leave, carry_out
from scheduler.cli.session import ledger, transaction
from scheduler.cli.watch import watch as watch_campaign
from scheduler.fields import moment, thing_name
from scheduler.intake import Upload
from scheduler.presence import bell, require_asterisk
from scheduler.single import later

group = new_group("Lists of people to call.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class RejectedFormat(StrEnum):
    TABLE = "table"
    CSV = "csv"


@group.command()
def upload(
    file: Annotated[str, typer.Argument(metavar="FILE.csv", show_default=False)],
    name: Annotated[str, typer.Option(metavar="NAME", help="What the campaign is to be called.")],
    agent: Annotated[str, typer.Option(metavar="AGENT", help="What talks to the people.")],
    from_numbers: Annotated[
        list[str], typer.Option("--from", metavar="+E164", help="A registered number of yours; several take turns.")
    ],
    max_concurrent_calls: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most so many calls of it at once; its trunks' limits hold anyway."),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it as soon as it is loaded.")] = False,
) -> None:
    """Load a CSV as a new campaign. A bad row is kept apart with its reason, and never stops the good ones."""
    settings = read_settings()
    with ledger(settings) as engine:
        if start:  # what would keep it from starting is said before a long upload
            with bell(settings), engine.begin() as connection:
                require_asterisk(connection)
        with _bar() as progress:
            done = intake.upload(
                engine,
                Path(file),
                name=name,
                agent=agent,
                from_numbers=from_numbers,
                max_concurrent_calls=max_concurrent_calls,
                progress=progress,
            )
        terminal.say(_summary(name, done))
        if done.rows > done.accepted:
            terminal.note(f"the rows left out, with reasons: trunkline campaign rejected {_word(name)} --format csv")
    if start:
        _run(settings, name, resume=False)
    else:
        terminal.note(f"to start it: trunkline campaign start {_word(name)}")


@group.command()
def start(
    name: Name,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Later, as 2026-03-01T09:30:00+05:30; may be said again with another time."),
    ] = None,
) -> None:
    """Start a campaign that is ready."""
    settings = read_settings()
    when = later(moment(at, field="at"), datetime.now(UTC)) if at is not None else None
    if when is None:
        _run(settings, name, resume=False)
        return
    with transaction(settings) as connection:
        campaigns.schedule(connection, name, when)
    terminal.say(f"campaign {name} starts by itself at {in_utc(when)}")


@group.command()
def resume(name: Name) -> None:
    """Go on with a campaign that is paused."""
    _run(read_settings(), name, resume=True)


@group.command()
def pause(name: Name) -> None:
    """Send no more calls of a campaign; those that are up go on."""
    from scheduler.stopping import pause as pause_campaign  # needs AMI

    thing_name(name, field="campaign")
    done = pause_campaign(read_settings(), name)
    terminal.say(f"campaign {name} is paused: {_taken_back(done.withdrawn)}, {_still_up(done.still_up)}")


@group.command()
def stop(
    name: Name,
    hang_up: Annotated[bool, typer.Option("--hang-up", help="End the calls that are up as well.")] = False,
) -> None:
    """Stop a campaign for good: what is not dialled yet is canceled."""
    from scheduler.stopping import stop as stop_campaign  # needs AMI

    thing_name(name, field="campaign")
    done = stop_campaign(read_settings(), name, hang_up=hang_up)
    terminal.say(f"campaign {name} is stopped: {done.canceled} canceled, {_still_up(done.still_up)}")


@group.command()
def resolve(
    name: Name,
    call_again: CallAgain = False,
    leave: Leave = False,
    call: Annotated[
        list[str] | None, typer.Option("--call", metavar="CALL_ID", help="Only this one; may be given again.")
    ] = None,
) -> None:
    """Decide on the calls of a campaign whose end cannot be known (`unknown`): call again, or leave."""
    thing_name(name, field="campaign")
    carry_out(call_again=call_again, leave=leave, campaign=name, calls=call or None)


@group.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="All campaigns without it.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Until it is over; Ctrl-C leaves it running.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how campaigns are going."""
    settings = read_settings()
    if watch:
        if name is None:
            raise typer.BadParameter("needs the NAME of a campaign", param_hint="--watch")
        if json:
            raise typer.BadParameter("does not go with --watch", param_hint="--json")
        with ledger(settings) as engine:
            watch_campaign(engine, settings, name)
        return
    with transaction(settings) as connection:
        rows = [campaigns.counts(connection, name)] if name is not None else campaigns.all_counts(connection)
    if json:
        objects = [asdict(row) for row in rows]
        terminal.one_json(objects[0] if name is not None else objects)
    else:
        _status_table(rows)


@group.command()
def calls(
    name: Name,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only those, such as busy.")] = None,
    output: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """List the calls of a campaign, in the order of their numbers."""
    with transaction(read_settings()) as connection:
        rows = campaigns.list_calls(connection, name, status)
        match output:
            case Format.CSV:
                terminal.stdout().writelines(exports.csv_lines(CALL_COLUMNS, rows))
            case Format.JSON:
                terminal.json_list(CALL_COLUMNS, rows)
            case Format.TABLE:
                wanted = ("phone_number", "name", "status", "disposition", "sip_code", "attempts", "explanation")
                terminal.table([column.upper() for column in wanted], ([getattr(r, c) for c in wanted] for r in rows))


@group.command()
def rejected(name: Name, output: Annotated[RejectedFormat, typer.Option("--format")] = RejectedFormat.TABLE) -> None:
    """List the rows that did not become calls. As CSV they can be mended and uploaded again."""
    with transaction(read_settings()) as connection:
        campaign_id = campaigns.campaign_id(connection, name)
        if output is RejectedFormat.CSV:
            exports.write_rejected(connection, campaign_id, terminal.stdout())
            return
        terminal.table(
            ("LINE", "KIND", "REASON", "ROW"),
            (
                (row["line_number"], row["kind"], row["reason"], row["row"])
                for row in exports.rejected(connection, campaign_id)
            ),
        )


def _run(settings: Settings, name: str, *, resume: bool) -> None:
    with bell(settings) as slots:
        with transaction(settings) as connection:
            (campaigns.resume if resume else campaigns.start)(connection, name)
            require_asterisk(connection)
        slots.wake()
    terminal.say(f"campaign {name} is running")
    terminal.note(f"to follow it: trunkline campaign status {_word(name)} --watch")


@contextmanager
def _bar() -> Iterator[Callable[[intake.Progress], None] | None]:
    """A bar on stderr for as long as the upload takes; none where nobody would see it."""
    console = terminal.errors()
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("loading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=None, rows=0)
        yield lambda done: bar.update(task, total=done.total_bytes or None, completed=done.bytes_read, rows=done.rows)


def _summary(name: str, done: Upload) -> str:
    left_out = [
        f"{number} {word}"
        for number, word in (
            (done.rejected, "rejected"),
            (done.duplicate, "duplicate"),
            (done.suppressed, "suppressed"),
        )
        if number
    ]
    rows = f"{done.rows} {'row' if done.rows == 1 else 'rows'}"
    return f"campaign {name} is ready: {', '.join([rows, f'{done.accepted} accepted', *left_out])}"


def _status_table(rows: Sequence[Counts]) -> None:
    numbers = ("total", "scheduled", "queued", "up", "completed", "busy", "no_answer", "failed", "canceled", "unknown")
    columns = ("name", "status", *numbers, "rejected_rows")
    terminal.table(
        [column.removesuffix("_rows").replace("_", "-").upper() for column in columns],
        [[getattr(row, column) for column in columns] for row in rows],
    )
    for row in rows:
        if row.pause_reason:
            terminal.note(f"{row.name} has paused itself. {row.pause_reason}")


def _taken_back(withdrawn: int) -> str:
    return f"{withdrawn} {'call' if withdrawn == 1 else 'calls'} taken back"


def _still_up(number: int) -> str:
    return "no call is up" if not number else f"{number} {'call is' if number == 1 else 'calls are'} still up"


def _word(name: str) -> str:
    """The name as a word for a shell."""
    return shlex.quote(name)
