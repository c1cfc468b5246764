"""The command `trunkline`: the operator's commands, and those that run things on this machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from models.settings import DEFAULT_NODE_CALLS, NAMES_PORT, GivenSettings, read_settings
from scheduler.cli import terminal
from scheduler.cli.app import app
from scheduler.cli.app import main as run_app
from scheduler.cli.group import new_group

run_commands = typer.Typer(no_args_is_help=True, help="Run one process of trunkline, under a service manager of yours.")
app.add_typer(run_commands, name="run")
asterisk_commands = new_group("An Asterisk of your own.")
app.add_typer(asterisk_commands, name="asterisk")


def _say(line: str) -> None:
    with suppress(
        OSError
    ):  # nobody reads any more, or the terminal is gone; what was begun is ended in order all the same
        print(line, flush=True)


@app.command()
def up(
    detached: Annotated[
        bool, typer.Option("--detach", help="Return when everything is up, and leave it running.")
    ] = False,
) -> None:
    """Start everything that is not running elsewhere: Postgres, Valkey, Asterisk, scheduler, workers, Flower."""
    from deploy.stack import Stack
    from deploy.supervisor import Supervisor, detach

    settings = read_settings(GivenSettings)
    if detached:
        detach(settings.home, [sys.executable, "-m", "deploy.main", "up"], _say)
        return
    follow = (lambda name, line: _say(f"{name:<16} {line}")) if sys.stdout.isatty() else None
    Supervisor(stack=Stack(settings=settings), say=_say, follow=follow).run()


@app.command()
def down(
    hang_up: Annotated[
        bool | None,
        typer.Option("--hang-up/--wait", help="End the calls that are up, or wait for them (asked on a terminal)."),
    ] = None,
) -> None:
    """Stop what `trunkline up` started. Nothing is lost: what was not dialled is dialled after the next `up`."""
    from deploy.supervisor import take_down

    settings = read_settings()
    if hang_up is None:
        hang_up = sys.stdin.isatty() and typer.confirm("Hang up the calls that are up (otherwise wait for them)?")
    if not take_down(settings.home, hang_up=hang_up, say=_say):
        _say(f"trunkline is not up in {settings.home}")


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Look at every part: is it there, is it right, and what to do if not. Status 1 if something is wrong."""
    from deploy.doctor.examination import examine
    from models.findings import Verdict
    from models.logs import configure

    configure("CRITICAL")  # what goes wrong is a finding
    findings = examine(read_settings())
    if json:
        terminal.one_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.part) for finding in findings)
        for finding in findings:
            line = f"{finding.verdict:<8} {finding.part:<{width}}  {finding.sentence}"
            terminal.say(f"{line}: {finding.advice}" if finding.advice else line)
    raise typer.Exit(any(finding.verdict is Verdict.WRONG for finding in findings))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything but the carrier up at the end.")] = False,
) -> None:
    """Dial a campaign of a few hundred people through a carrier of our own, on this machine only."""
    from deploy.demo import run_demo

    raise typer.Exit(run_demo(read_settings(GivenSettings), _say, keep=keep))


@asterisk_commands.command("export")
def export_asterisk(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Where the files go.")],
    node: Annotated[str, typer.Option(metavar="NAME", help="What trunkline calls it.")] = "asterisk",
    ami: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="Where trunkline reaches it.")] = "127.0.0.1:5038",
    permit: Annotated[
        list[str] | None, typer.Option(metavar="NETWORK", help="Where trunkline comes from; several may be given.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Where it reaches our Postgres, if not where we do.")
    ] = None,
    sip_bind: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Make transports, too; else yours are used.")
    ] = None,
    max_calls: Annotated[int, typer.Option(metavar="N", min=1, help="Half its RTP ports.")] = DEFAULT_NODE_CALLS,
) -> None:
    """Write the files that an Asterisk of yours includes, with a README.txt that says where."""
    from deploy.export import Wishes, export

    wishes = Wishes(
        node=node, ami=ami, permit=tuple(permit or ()), database=database, sip_bind=sip_bind, max_calls=max_calls
    )
    export(read_settings(), directory, wishes)
    terminal.say(f"made; what to do with it is in {directory.absolute() / 'README.txt'}")


@run_commands.command("scheduler")
def run_scheduler() -> None:
    """Grants calls; several may run, one leads."""
    from deploy.processes import run_scheduler

    run_scheduler(read_settings())


@run_commands.command("listener")
def run_listener(node: Annotated[str, typer.Argument(help="The name of the Asterisk node.")]) -> None:
    """Hears one Asterisk node; several may run, one listens."""
    from deploy.processes import run_listener

    run_listener(read_settings(), node)


@run_commands.command("worker")
def run_worker() -> None:
    """Places the calls that were granted: a Celery worker."""
    from deploy.processes import run_worker

    run_worker(read_settings(), str(Path(sys.executable)))


@run_commands.command("webhooks")
def run_webhooks() -> None:
    """Delivers webhooks: a Celery worker of their own."""
    from deploy.processes import run_webhooks

    run_webhooks(read_settings(), str(Path(sys.executable)))


@run_commands.command("api")
def run_api() -> None:
    """Answers HTTP at TRUNKLINE_API_BIND; several may run."""
    from deploy.processes import run_api

    run_api(read_settings())


@run_commands.command("names")
def run_names(
    port: Annotated[int, typer.Option(help="On 127.0.0.1, UDP and TCP.", min=1, max=65535)] = NAMES_PORT,
) -> None:
    """Tells an Asterisk on this machine of one address a name, so that only trunkline fails over."""
    from deploy.names import run_names

    run_names(read_settings(), port)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
