"""What leaves the ledger as a file: rejected rows, which a person mends and uploads again, and calls.

Lines end in CRLF, as RFC 4180 has it. Pages of rows come by themselves, so that a reader who is slow holds no transaction.
Calls may be opened in a spreadsheet: no name in them is a formula there. Rejected rows are as they were uploaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import Connection, Select, select

from models.schema import campaigns, rejected_rows
from scheduler.csv_rows import IGNORED_HEADERS, csv_text, delimiter_of
from scheduler.refs import find

_AT_ONCE = 1000
_FORMULA = re.compile(r"[=+\-@\t\r]")  # what it begins with, by OWASP
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")


def write_rejected(connection: Connection, campaign_id: UUID, file: TextIO) -> None:
    """Writes the rejected rows in the order of their file; memory stays constant. Raises `NotFound`."""
    for line in rejected_csv(header_of(connection, campaign_id), rejected(connection, campaign_id)):
        file.write(line)


def header_of(connection: Connection, campaign_id: UUID) -> str:
    """The header row of a campaign's upload. Raises `NotFound`."""
    header: str = find(connection, select(campaigns.c.header), campaigns, campaign_id).header
    return header


def rejected(connection: Connection, campaign_id: UUID) -> Iterator[dict[str, Any]]:
    """Each rejected row: line_number, kind, reason and row, in the order of the file."""
    found = connection.execute(_rejected(campaign_id).execution_options(yield_per=_AT_ONCE))
    return (dict(row) for row in found.mappings())


def rejected_page(connection: Connection, campaign_id: UUID, after: int, limit: int) -> list[dict[str, Any]]:
    """The first rejected rows after a line."""
    page = _rejected(campaign_id).where(rejected_rows.c.line_number > after).limit(limit)
    return [dict(row) for row in connection.execute(page).mappings()]


def rejected_csv(header: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The uploaded file, reduced to these rows, with two columns in front, `rejected_line` and `rejected_reason`, that an
    upload skips."""
    delimiter = delimiter_of(header)
    yield f"{delimiter.join(IGNORED_HEADERS)}{delimiter}{header}\r\n"
    for row in rows:
        why = csv_text([str(row["line_number"]), row["reason"]], delimiter)
        yield f"{why}{delimiter}{row['row']}\r\n"


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A header row and these rows: what is not there is empty, times are ISO 8601 in UTC.

    Before what a spreadsheet would take for a formula there is a `'`; not before a phone number, which it only displays.
    """
    yield csv_text(list(columns), ",") + "\r\n"
    for cells in rows:
        yield csv_text([_plain(cell) for cell in cells], ",") + "\r\n"


def _plain(cell: object) -> str:
    match cell:
        case None:
            return ""
        case datetime():
            return cell.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case str() if _FORMULA.match(cell) and not _E164.fullmatch(cell):
            return f"'{cell}"
    return str(cell)


def _rejected(campaign_id: UUID) -> Select[tuple[int, str, str, str]]:
    r = rejected_rows.c
    return select(r.line_number, r.kind, r.reason, r.row).where(r.campaign_id == campaign_id).order_by(r.line_number)
