"""What leaves the ledger as a file that a person mends and uploads again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import Connection, select

from models.errors import Invalid, NotFound
from models.schema import campaigns, rejected_rows
from scheduler.csv_rows import IGNORED_HEADERS, csv_text, delimiter_of

FORMATS = ("csv", "json")
_AT_ONCE = 1000


def write_rejected(connection: Connection, campaign_id: UUID, file: TextIO, format: str = "csv") -> int:
    """Writes the rejected rows in the order of their file, and says how many there are.

    `csv` is the uploaded file, reduced to these rows, with two columns in front, `rejected_line` and
    `rejected_reason`, that an upload skips; lines end in CRLF, as RFC 4180 has it. `json` is a list of
    objects. Memory stays constant. Raises `NotFound` where there is no such campaign.
    """
    header = connection.scalar(select(campaigns.c.header).where(campaigns.c.id == campaign_id))
    if header is None:
        raise NotFound("campaign", str(campaign_id))
    if format == "csv":
        return _write_csv(file, header, rejected(connection, campaign_id))
    if format == "json":
        return _write_json(file, rejected(connection, campaign_id))
    raise Invalid("format", f"must be one of {', '.join(FORMATS)}")


def rejected(connection: Connection, campaign_id: UUID) -> Iterator[dict[str, Any]]:
    """Each rejected row: line_number, kind, reason and row, in the order of the file."""
    query = (
        select(rejected_rows.c.line_number, rejected_rows.c.kind, rejected_rows.c.reason, rejected_rows.c.row)
        .where(rejected_rows.c.campaign_id == campaign_id)
        .order_by(rejected_rows.c.line_number)
    )
    found = connection.execute(query.execution_options(yield_per=_AT_ONCE))
    return (dict(row) for row in found.mappings())


def _write_csv(file: TextIO, header: str, rows: Iterator[dict[str, Any]]) -> int:
    delimiter = delimiter_of(header)
    file.write(f"{delimiter.join(IGNORED_HEADERS)}{delimiter}{header}\r\n")
    count = 0
    for row in rows:
        count += 1
        why = csv_text([str(row["line_number"]), row["reason"]], delimiter)
        file.write(f"{why}{delimiter}{row['row']}\r\n")
    return count


def _write_json(file: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    file.write("[")
    count = 0
    for row in rows:
        count += 1
        file.write(f"{',' if count > 1 else ''}\n{json.dumps(row, ensure_ascii=False)}")
    file.write("\n]\n")
    return count
