"""From a CSV file to a campaign whose calls are in the ledger.

Every row ends as a call or as a rejected row with its line and reason; a bad row never stops a good one.
A file that cannot be used as a whole is refused and leaves nothing behind. Memory is bounded by a chunk,
whatever the size of the file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import uuid_utils.compat
from sqlalchemy import Connection, Engine, select

from models.database import readable_errors
from models.errors import Invalid, Unavailable
from models.schema import agents, phone_numbers, trunks
from models.webhooks import check_url
from scheduler.csv_rows import Columns, CsvFile, Recipient, Row, open_csv
from scheduler.fields import shown_file_name, thing_name
from scheduler.idempotency import Asked
from scheduler.loads import Counts, Load, NewCampaign, Person, Rejection, loading
from scheduler.phone_numbers import allowed, country_code, e164
from scheduler.refs import Ref, find

MOST_CALLS = 1_000_000
CHUNK_ROWS = 10_000
CHUNK_CHARACTERS = 8 << 20
PROGRESS_EVERY = 0.25


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an upload is. `total_bytes` is 0 where it cannot be known, as of a pipe."""

    bytes_read: int
    total_bytes: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What became of a file; `accepted + rejected + duplicate + suppressed = rows`."""

    campaign_id: UUID
    rows: int
    accepted: int
    rejected: int
    duplicate: int
    suppressed: int = 0


def upload(
    engine: Engine,
    source: Path | int,
    *,
    name: str,
    agent: Ref,
    from_numbers: Sequence[str],
    max_concurrent_calls: int | None = None,
    webhook_url: str | None = None,
    retry_config: Mapping[str, object] | None = None,
    file_name: str | None = None,
    campaign_id: UUID | None = None,
    asked: Asked | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Upload:
    """Loads the file as a new campaign, `ready` to be started; about 20 s for a million rows.

    `source` may be the descriptor of an open file, which then needs a `file_name`. Where a load under the same
    `campaign_id` has died it is begun anew. What `progress` raises ends the load, of which nothing is left; it is asked
    once more before the campaign is ready.

    Raises `Invalid`, `NotFound` or `Conflict` for what is wrong with the arguments, before the file is
    read, or with the file; `Unavailable` when Postgres does not answer.
    """
    thing_name(name, field="name")
    if max_concurrent_calls is not None and not 1 <= max_concurrent_calls <= MOST_CALLS:
        raise Invalid("max_concurrent_calls", f"must be between 1 and {MOST_CALLS}")
    numbers = list(dict.fromkeys(e164(number, field="from") for number in from_numbers))
    if not numbers:
        raise Invalid("from", "give at least one phone number of yours to call from")
    if webhook_url is not None:
        check_url(webhook_url)
    with _readable_errors():
        with engine.connect() as connection:
            agent_id = _agent_id(connection, agent)
            prefixes = _prefixes(connection, numbers)
        with open_csv(source) as file:
            campaign = NewCampaign(
                id=campaign_id or uuid_utils.compat.uuid7(),
                name=name,
                agent=str(agent),
                agent_id=agent_id,
                from_numbers=numbers,
                max_concurrent_calls=max_concurrent_calls,
                webhook_url=webhook_url,
                retry_config=retry_config,
                file_name=shown_file_name(file_name if file_name is not None else str(source)),
                header=file.columns.header_text(),
                asked=asked,
            )
            with loading(engine, campaign, datetime.now(UTC)) as load:
                counts = _Chunks(file=file, load=load, prefixes=prefixes, progress=progress).write_all()
                load.finish(counts)
                return Upload(campaign_id=load.campaign_id, **vars(counts))


@dataclass(frozen=True, kw_only=True)
class _Prefixes:
    """What one trunk may dial."""

    trunk: str
    prefixes: tuple[str, ...]


class _Chunks:
    """Rows in, chunks of calls and rejections out."""

    def __init__(
        self,
        *,
        file: CsvFile,
        load: Load,
        prefixes: Sequence[_Prefixes],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._file = file
        self._load = load
        self._prefixes = prefixes
        self._progress = progress
        self._reported = time.monotonic()
        self._rows = 0
        self._ended: Counter[str] = Counter()
        self._rejections: list[Rejection] = []
        # plain tuples of strings and numbers: what the garbage collector looks at, again and again, took half of the time
        self._people: dict[str, Person] = {}
        self._cells: dict[str, tuple[str, ...]] = {}
        self._repeated: list[tuple[Row, str]] = []

    def write_all(self) -> Counts:
        rows = characters = 0
        for row in self._file.rows():
            self._sort(row)
            rows += 1
            characters += row.size
            if rows == CHUNK_ROWS or characters > CHUNK_CHARACTERS:
                self._flush(rows)
                rows = characters = 0
        self._flush(rows)
        if not self._rows:
            raise Invalid("file", "has a header row and no other")
        self._report(now=True)
        return Counts(
            rows=self._rows,
            accepted=self._ended["accepted"],
            rejected=self._ended["rejected"],
            duplicate=self._ended["duplicate"],
        )

    def _sort(self, row: Row) -> None:
        try:
            recipient = self._recipient(row)
        except Invalid as error:
            self._reject(row.line_number, row.cells, "rejected", str(error))
            return
        # in a chunk the first line wins here, across chunks at `_flush`
        number = recipient.phone_number
        if number in self._people:
            self._repeated.append((row, number))
        else:
            self._people[number] = (row.line_number, recipient.name, recipient.variables)
            self._cells[number] = tuple(row.cells)

    def _recipient(self, row: Row) -> Recipient:
        if row.problem is not None:
            raise Invalid("row", row.problem)
        recipient = self._columns.recipient(row.cells)
        for trunk in self._prefixes:
            if not allowed(recipient.phone_number, trunk.prefixes):
                field = self._columns.headers[self._columns.phone]
                raise Invalid(field, f"trunk {trunk.trunk!r} may only dial {_listed(trunk.prefixes)}")
        return recipient

    def _reject(self, line: int, cells: Sequence[str], kind: str, reason: str) -> None:
        self._rejections.append(Rejection(line, kind, reason, self._columns.row_text(cells)))

    def _flush(self, rows: int) -> None:
        if not rows:
            return
        known = self._load.known(list(self._people))
        for number, line in known.items():
            again, *_ = self._people.pop(number)
            self._reject(again, self._cells[number], "duplicate", _same_as(line))
        for row, number in self._repeated:
            first = known[number] if number in known else self._people[number][0]
            self._reject(row.line_number, row.cells, "duplicate", _same_as(first))
        self._load.write(self._people, self._rejections)
        self._rows += rows
        self._ended["accepted"] += len(self._people)
        self._ended.update(rejection.kind for rejection in self._rejections)
        self._people, self._cells, self._repeated, self._rejections = {}, {}, [], []
        self._report()

    def _report(self, *, now: bool = False) -> None:
        if self._progress and (now or time.monotonic() - self._reported > PROGRESS_EVERY):
            self._reported = time.monotonic()
            self._progress(
                Progress(bytes_read=self._file.bytes_read, total_bytes=self._file.total_bytes, rows=self._rows)
            )

    @property
    def _columns(self) -> Columns:
        return self._file.columns


def _agent_id(connection: Connection, agent: Ref) -> UUID:
    agent_id: UUID = find(connection, select(agents.c.id), agents, agent).id
    return agent_id


def _prefixes(connection: Connection, numbers: Sequence[str]) -> list[_Prefixes]:
    """Of each trunk that owns one of the numbers. Any of them may dial any row, so all must allow it."""
    own = phone_numbers.alias()
    found = connection.execute(
        select(phone_numbers.c.phone_number, trunks.c.name, trunks.c.allowed_prefixes, own.c.phone_number)
        .join(trunks, trunks.c.id == phone_numbers.c.trunk_id)
        .join(own, own.c.trunk_id == trunks.c.id)
        .where(phone_numbers.c.phone_number.in_(numbers))
        .order_by(trunks.c.name)
    ).all()
    for number in numbers:
        if number not in {row[0] for row in found}:
            raise Invalid("from", f"{number} is not registered on any trunk: register it on the one it belongs to")
    allowed_by: dict[str, set[str]] = {}
    for _, trunk, prefixes, owned in found:
        allowed_by.setdefault(trunk, set()).update([country_code(owned)] if prefixes is None else prefixes)
    return [_Prefixes(trunk=trunk, prefixes=tuple(sorted(prefixes))) for trunk, prefixes in allowed_by.items()]


def _same_as(line: int) -> str:
    return f"has the same number as line {line}"


def _listed(prefixes: Sequence[str]) -> str:
    return ", ".join(prefixes) or "nothing"


@contextmanager
def _readable_errors() -> Iterator[None]:
    """`readable_errors`, for COPY as well, which psycopg does without SQLAlchemy."""
    try:
        with readable_errors():
            yield
    except psycopg.OperationalError as error:
        raise Unavailable("Postgres went away during the upload; nothing of it will be kept") from error
