"""How every group of commands is made: plain help, no completion, no dressed-up tracebacks."""

from __future__ import annotations

import typer


def new_group(purpose: str) -> typer.Typer:
    return typer.Typer(
        help=purpose,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
