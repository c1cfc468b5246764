"""All commands put together, and how each of their ends becomes an exit status."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, Exit, TyperException

from models.errors import TrunklineError
from models.logs import configure
from scheduler.cli import agent, call, campaign, config, explain, key, number, resolve, trunk, webhook
from scheduler.cli.group import new_group
from scheduler.cli.terminal import shown

app = new_group("A self-hosted dialer: a list of phone numbers, your own SIP trunks, your own agent.")
app.add_typer(trunk.group, name="trunk")
app.add_typer(number.group, name="number")
app.add_typer(agent.group, name="agent")
app.add_typer(campaign.group, name="campaign")
app.add_typer(key.group, name="key")
app.add_typer(webhook.group, name="webhook")
app.command("call")(call.call)
app.command("hang-up")(call.hang_up)
app.command("resolve")(resolve.resolve)
app.command("explain")(explain.explain)
app.command("config")(config.config)


def run(application: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit status; every exception has become one by then."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in Chinese on a Latin-1 terminal
    try:
        status = _invoke(application, arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its exit
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _complain(error)
    return status


def main(application: typer.Typer = app) -> None:
    """The process's entry point. What is logged goes to stderr: stdout is the answer."""
    configure("DEBUG" if os.environ.get("TRUNKLINE_DEBUG") == "1" else "ERROR")
    sys.exit(run(application, sys.argv[1:]))


def _invoke(application: typer.Typer, arguments: Sequence[str]) -> int:
    command = typer.main.get_command(application)
    try:
        with command.make_context("trunkline", list(arguments)) as context:
            command.invoke(context)
    except Exit as end:
        return end.exit_code
    return 0


def _complain(error: Exception) -> int:
    if os.environ.get("TRUNKLINE_DEBUG") == "1":
        traceback.print_exception(error)
    match error:
        case TrunklineError():
            return _one_line(str(error), status=1)
        case TyperException():
            message = error.format_message()
            if type(error).__name__ == "NoArgsIsHelpError":
                sys.stderr.write(message.rstrip() + "\n")
                return error.exit_code
            context = getattr(error, "ctx", None)
            hint = f" (see `{context.command_path} --help`)" if context else ""
            return _one_line(" ".join(message.replace("Value error, ", "").split()) + hint, status=error.exit_code)
        case Abort() | EOFError():
            return _one_line("the input ended too soon", status=1)
        case _:
            first = (str(error).strip().splitlines() or [""])[0]
            text = f"{type(error).__name__}: {first}" if first else type(error).__name__
            return _one_line(f"unexpected {text} (TRUNKLINE_DEBUG=1 shows where)", status=1)


def _one_line(text: str, *, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # what was said before comes first, if anyone still reads it
        sys.stdout.flush()
    sys.stderr.write(f"error: {shown(text)}\n")
    return status
