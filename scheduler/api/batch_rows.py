"""What a batch is made of: its calls, and the rows that became none; page by page, or all of it as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from models import executions
from models.executions import Execution
from models.statuses import Status
from scheduler import batches, campaigns, exports
from scheduler.api.batches import Cursor, Limit, as_batch
from scheduler.api.parts import Parts, Using
from scheduler.api.problems import answers
from scheduler.campaigns import CALL_COLUMNS

router = APIRouter(prefix="/batches", tags=["batches"])

_AT_ONCE = 1000  #: rows of a CSV

Row = TypeVar("Row")
Mark = TypeVar("Mark")

_Format = Annotated[
    Literal["json", "csv"] | None,
    Query(description="`csv`: all of it, as a file, which `Accept: text/csv` asks for as well."),
]
_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


class ExecutionPage(BaseModel):
    """In a lasting order. A page may be short and still be followed by others, where few calls have the status that was asked for."""

    model_config = ConfigDict(extra="forbid")

    data: list[Execution]
    has_more: bool
    next_cursor: UUID | None


class RejectedRow(BaseModel):
    """A row that was not taken."""

    model_config = ConfigDict(extra="forbid")

    line_number: int
    kind: Literal["rejected", "duplicate", "suppressed"]
    reason: str
    row: str = Field(description="As CSV.")


class RejectedPage(BaseModel):
    """In the order of the file."""

    model_config = ConfigDict(extra="forbid")

    data: list[RejectedRow]
    has_more: bool
    next_cursor: int | None


@router.get("/{batch_id}/executions", response_model=ExecutionPage, responses=_CSV | answers(404, 422))
def list_executions(
    batch_id: UUID,
    using: Using,
    request: Request,
    status: Annotated[Status | None, Query(description="Only those, such as `busy`.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    format: _Format = None,
) -> ExecutionPage | Response:
    """Lists the calls of a batch: page by page, or all of them as CSV."""
    page = partial(batches.calls_page, batch_id=batch_id, status=status)
    with as_batch(), using.transaction() as connection:
        if not _wants_csv(request, format):
            found = page(connection, after=cursor, limit=limit)
            shown = executions.of_calls(connection, found.ids)
            return ExecutionPage(data=shown, has_more=found.next is not None, next_cursor=found.next)
        page(connection, after=cursor, limit=1)  # refused before the first byte

    def next_rows(connection: Connection, after: UUID | None) -> tuple[Sequence[Sequence[object]], UUID | None]:
        found = page(connection, after=after, limit=_AT_ONCE)
        return campaigns.calls_by_id(connection, found.ids), found.next

    return _csv(exports.csv_lines(CALL_COLUMNS, _all(using, next_rows, cursor)), f"{batch_id}.csv")


@router.get("/{batch_id}/rejected", response_model=RejectedPage, responses=_CSV | answers(404, 422))
def list_rejected(
    batch_id: UUID,
    using: Using,
    request: Request,
    limit: Limit = 100,
    cursor: Annotated[int, Query(ge=0, le=2**62, description="The `next_cursor` of the page before.")] = 0,
    format: _Format = None,
) -> RejectedPage | Response:
    """Lists the rows that did not become calls: page by page, or all of them as a CSV that can be mended and uploaded again."""
    with as_batch(), using.transaction() as connection:
        header = exports.header_of(connection, batch_id)
        if not _wants_csv(request, format):
            found = exports.rejected_page(connection, batch_id, cursor, limit + 1)
            shown = [RejectedRow(**row) for row in found[:limit]]
            more = len(found) > limit
            return RejectedPage(data=shown, has_more=more, next_cursor=shown[-1].line_number if more else None)

    def next_rows(connection: Connection, after: int | None) -> tuple[list[dict[str, Any]], int | None]:
        rows = exports.rejected_page(connection, batch_id, after or 0, _AT_ONCE)
        return rows, rows[-1]["line_number"] if len(rows) == _AT_ONCE else None

    return _csv(exports.rejected_csv(header, _all(using, next_rows, cursor)), f"{batch_id}-rejected.csv")


def _wants_csv(request: Request, format: str | None) -> bool:
    return format == "csv" if format else request.headers.get("accept", "").strip().lower().startswith("text/csv")


def _csv(lines: Iterator[str], name: str) -> Response:
    return StreamingResponse(
        _pieces(lines), media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """Many lines at once: each piece costs a turn of the loop and of a thread."""
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if len(piece) == _AT_ONCE:
            yield "".join(piece)
            piece = []
    yield "".join(piece)


def _all(
    using: Parts, page: Callable[[Connection, Mark | None], tuple[Sequence[Row], Mark | None]], first: Mark | None
) -> Iterator[Row]:
    """Every row, page by page, each in a transaction of its own: whoever reads slowly holds none."""
    cursor = first
    while True:
        with using.transaction() as connection:
            rows, cursor = page(connection, cursor)
        yield from rows
        if cursor is None:
            return
