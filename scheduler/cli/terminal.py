"""What reaches a person's terminal: tables, JSON and errors, with nothing in them that a terminal would obey."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TextIO, cast
from uuid import UUID

from rich.cells import cell_len
from rich.console import Console

# C0, DEL, C1, separators of lines, and the marks that turn the direction of what follows
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MEASURED = 500  # rows that the widths of a table are taken from


def shown(value: object) -> str:
    """A value as one line of text that a terminal only displays; names stay as they are, `[red]` included."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], _plain(value))


def say(text: str = "") -> None:
    """One line on stdout, at once: whoever reads it may be waiting."""
    sys.stdout.write(shown(text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr: what is said beside the result."""
    sys.stdout.flush()
    sys.stderr.write(shown(text) + "\n")


def errors() -> Console:
    """Rich on stderr, for what moves: progress bars. Text is given to it as `Text`, never as markup."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def screen() -> Console:
    """Rich on stdout, as `errors`."""
    return Console(markup=False, highlight=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns, streamed: widths come from the first rows, a longer value later moves its own line only."""
    stream = iter(rows)
    first = [[shown(cell) for cell in row] for row in islice(stream, _MEASURED)]
    widths = [max(map(cell_len, column)) for column in zip(columns, *first, strict=True)]
    for cells in chain([list(columns)], first, ([shown(cell) for cell in row] for row in stream)):
        line = "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def fields(values: Mapping[str, object]) -> None:
    """A line a field."""
    width = max(map(len, values))
    for name, value in values.items():
        sys.stdout.write(f"{name.ljust(width)}  {shown(value)}".rstrip() + "\n")


def one_json(value: object) -> None:
    """Times are ISO 8601 in UTC, ids strings, numbers numbers."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False, indent=2) + "\n")


def json_list(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A list of objects, streamed, an object a line."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(
            separator + json.dumps(dict(zip(columns, row, strict=True)), default=_plain, ensure_ascii=False)
        )
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def stdout() -> TextIO:
    """For data: as it is into a file or a pipe, without control characters to a terminal."""
    return cast("TextIO", _Shown()) if sys.stdout.isatty() else sys.stdout


class _Shown:
    """A file that displays what is written to it, line ends aside."""

    def write(self, text: str) -> int:
        sys.stdout.write("\n".join(map(shown, text.replace("\r\n", "\n").split("\n"))))
        return len(text)


def _plain(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case list() | tuple():
            return ", ".join(map(_plain, value))
        case UUID() | str() | int() | float():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} is not shown to people")
