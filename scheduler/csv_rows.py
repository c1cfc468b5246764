"""A recipient list as people have it: bytes in, rows with their line numbers out, in constant memory.

UTF-8 with or without BOM; CRLF, LF or CR; `,`, `;` or tab, as the header row has it; quoted newlines.
A file that is not such a list is refused as a whole (`Invalid`); a row that cannot be used is handed on
with its problem, and the next one is read. A quote that is opened and never closed costs the line that
it stands in, not the rest of the file: reading goes on at the next line.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from models.errors import Invalid
from scheduler.phone_numbers import e164

PHONE_HEADERS = ("phone_number", "contact_number", "phone", "to")
NAME_HEADER = "name"
IGNORED_HEADERS = ("rejected_line", "rejected_reason")
"""What an export of rejected rows adds; skipped when it comes back."""

RESERVED_HEADERS = frozenset(
    {"attempt_id", "call_id", "campaign_id", "campaign", "from_number", "agent", "variables"}  # of `call_context`
)
VALUE_LIMIT = 1024
ROW_LIMIT = 1 << 20
_AGAIN_LIMIT = 128 * ROW_LIMIT  # characters; bounds the time that a hostile file can take
_BLOCK = 1 << 16
_DELIMITERS = ",;\t"

_QUOTE_PROBLEM = 'has a quote (") that is not closed, or text after one that is'
_WORD = re.compile(r"[A-Za-z0-9_]{1,32}")
_QUOTED = re.compile(r'"[^"]*"')
# C0, DEL, C1, and the bytes that were not UTF-8, as `surrogateescape` leaves them
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STORABLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\r\n"} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

csv.field_size_limit(2 * ROW_LIMIT)  # for the whole process; the row as a whole is bounded below


class Row(NamedTuple):
    """A record of the file; a tuple, because a million of them are made."""

    line_number: int  #: where it starts; the first line of the file is 1
    cells: list[str]
    size: int  #: in characters
    problem: str | None  #: why it could not be taken apart


class Recipient(NamedTuple):
    """A row that can be called."""

    phone_number: str
    name: str | None
    variables: str  #: a JSON object, without what is empty


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the header row says, and how a row is read by it."""

    headers: tuple[str, ...]
    delimiter: str
    phone: int
    name: int | None
    variables: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, line: str) -> Columns:
        """From the text of the header row. Raises `Invalid`, naming the header that is wrong."""
        if _UNUSABLE.search(line.rstrip("\r\n").replace("\t", "")):
            raise Invalid("file", "its header row is not UTF-8 text: save it as CSV in UTF-8")
        delimiter = delimiter_of(line)
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise Invalid("file", 'its header row has a quote (") that is not closed') from error
        headers = tuple(cell.strip() for cell in cells)
        words = [header.casefold() for header in headers]
        phones = [index for index, word in enumerate(words) if word in PHONE_HEADERS]
        if len(phones) != 1:
            found = f"{len(phones)} columns with phone numbers" if phones else "no column with phone numbers"
            names = f"{', '.join(PHONE_HEADERS[:-1])} or {PHONE_HEADERS[-1]}"
            raise Invalid("file", f"its header row has {found}: exactly one must be called {names}")
        for index, word in enumerate(words):
            if not _WORD.fullmatch(headers[index]):
                raise Invalid(
                    "file",
                    f"column {index + 1} is called {headers[index][:80]!r}: must be 1 to 32 letters (a-z), digits or _",
                )
            if word in RESERVED_HEADERS:
                raise Invalid(
                    "file", f"no column may be called {headers[index]!r}: trunkline gives that to the agent itself"
                )
            if words.index(word) != index:
                raise Invalid("file", f"two columns are called {headers[index]!r}")
        own = {*PHONE_HEADERS, NAME_HEADER, *IGNORED_HEADERS}
        return cls(
            headers=headers,
            delimiter=delimiter,
            phone=phones[0],
            name=words.index(NAME_HEADER) if NAME_HEADER in words else None,
            variables=tuple((index, headers[index]) for index, word in enumerate(words) if word not in own),
        )

    def recipient(self, cells: list[str]) -> Recipient:
        """Raises `Invalid`, with the header of the cell that is wrong."""
        count = len(cells)
        if count > len(self.headers):
            raise Invalid(
                "row",
                f"has {count} cells, and the header row has {len(self.headers)}: is a cell with {self.delimiter!r} not quoted?",
            )
        text = "".join(cells)
        if not text.isprintable() and _UNUSABLE.search(text):
            self._refuse_unusable(cells)
        number = e164(cells[self.phone] if self.phone < count else "", field=self.headers[self.phone])
        if len(text) > VALUE_LIMIT // 4:
            self._refuse_long(cells)
        name = (cells[self.name] or None) if self.name is not None and self.name < count else None
        values = {header: cells[index] for index, header in self.variables if index < count and cells[index]}
        return Recipient(number, name, _json(values) if values else "{}")

    def _refuse_unusable(self, cells: list[str]) -> None:
        for header, cell in zip(self.headers, cells, strict=False):
            found = _UNUSABLE.search(cell)
            if found is None:
                continue
            if found[0] >= "\ud800":
                raise Invalid(header, "is not UTF-8 text: save the file as CSV in UTF-8")
            kind = {"\0": "a NUL character", "\n": "a line break", "\r": "a line break", "\t": "a tab"}
            raise Invalid(header, f"contains {kind.get(found[0], 'a control character')}: leave it out")

    def _refuse_long(self, cells: list[str]) -> None:
        for header, cell in zip(self.headers, cells, strict=False):
            size = len(cell.encode())
            if size > VALUE_LIMIT and header.casefold() not in IGNORED_HEADERS:
                raise Invalid(header, f"is {size} bytes long: must be at most {VALUE_LIMIT}")

    def header_text(self) -> str:
        """The header row without the columns that an export adds."""
        return self.row_text(list(self.headers))

    def row_text(self, cells: Sequence[str]) -> str:
        """The row as CSV that can be stored, mended and uploaded again; what no text can hold is made visible."""
        ignored = {index for index, header in enumerate(self.headers) if header.casefold() in IGNORED_HEADERS}
        return csv_text([cell for index, cell in enumerate(cells) if index not in ignored], self.delimiter)


def csv_text(cells: list[str], delimiter: str) -> str:
    """One row of CSV, without a line end, fit for Postgres."""
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow(cells)
    return line.getvalue().translate(_STORABLE)


def delimiter_of(header: str) -> str:
    """`,`, `;` or tab: what the header row has most of outside quotes; a comma if it has one column."""
    bare = _QUOTED.sub("", header)
    return max(_DELIMITERS, key=bare.count)


@dataclass(kw_only=True, eq=False)
class CsvFile:
    """An open list, its header row read."""

    columns: Columns
    total_bytes: int
    _bytes: io.BufferedReader[io.FileIO]
    _text: io.TextIOWrapper
    _line: int  #: lines that belong to rows already handed out, or to the header
    _again: list[str] = field(default_factory=list)  #: lines to read once more, last first
    _taken: list[str] = field(default_factory=list)  #: the lines of the row in hand

    @property
    def bytes_read(self) -> int:
        return self._bytes.tell() if self._bytes.seekable() else 0

    def rows(self) -> Iterator[Row]:
        """Every row but the blank ones. Raises `Invalid` if the file turns out not to be a list."""
        again = 0
        taken = self._taken
        while True:
            # a new reader after each error: one that has seen the end stays there
            reader = csv.reader(self._lines(), delimiter=self.columns.delimiter, strict=True)
            taken.clear()
            try:
                for cells in reader:
                    start = self._line + 1
                    self._line += len(taken)
                    if cells and (len(cells) > 1 or not cells[0] or cells[0].strip(" \t")):
                        yield Row(start, cells, sum(map(len, taken)), None)
                    taken.clear()
                return
            except (csv.Error, _RowTooLong) as error:
                self._line += 1
                first = taken[0]
                again += sum(map(len, taken[1:]))
                if again > _AGAIN_LIMIT:
                    raise Invalid("file", f'line {self._line}: too many quotes (") are not closed') from error
                self._again.extend(reversed(taken[1:]))
                yield Row(self._line, self._lenient(first), len(first), _QUOTE_PROBLEM)

    def _lines(self) -> Iterator[str]:
        size = 0
        taken = self._taken
        while line := self._again.pop() if self._again else self._text.readline(ROW_LIMIT + 1):
            if len(line) > ROW_LIMIT:
                number = self._line + len(taken) + 1
                raise Invalid("file", f"line {number} is longer than 1 MB: is this a CSV file?")
            size = len(line) + (size if taken else 0)
            taken.append(line)
            if size > ROW_LIMIT:
                raise _RowTooLong
            yield line

    def _lenient(self, line: str) -> list[str]:
        cells = next(csv.reader([line.rstrip("\r\n")], delimiter=self.columns.delimiter))
        cells[-1] = cells[-1].rstrip("\n")  # the reader's own, where a quote is left open
        return cells


class _RowTooLong(Exception):
    """A row of several lines has more than 1 MB."""


@contextmanager
def open_csv(path: Path | int) -> Iterator[CsvFile]:
    """The list in `path`, which may be a pipe, or the descriptor of a file, which stays open. Raises `Invalid` for a file that is not one."""
    try:
        raw = io.BufferedReader(io.FileIO(path, closefd=not isinstance(path, int)), _BLOCK)
    except IsADirectoryError as error:
        raise Invalid("file", f"{str(path)!r} is a directory") from error
    except FileNotFoundError as error:
        raise Invalid("file", f"there is no file {str(path)!r}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Invalid("file", f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with raw:
        try:
            _refuse_foreign(raw.peek(_BLOCK)[:_BLOCK])
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            header, line = "", 0
            while not header.strip():
                header, line = text.readline(ROW_LIMIT + 1), line + 1
                if not header:
                    raise Invalid("file", "is empty")
                if len(header) > ROW_LIMIT:
                    raise Invalid("file", "its header row is longer than 1 MB: is this a CSV file?")
            state = os.fstat(raw.fileno())
            total = state.st_size if stat.S_ISREG(state.st_mode) else 0
            yield CsvFile(columns=Columns.parse(header), total_bytes=total, _bytes=raw, _text=text, _line=line)
        except OSError as error:
            raise Invalid("file", f"{str(path)!r} cannot be read: {error.strerror}") from error


def _refuse_foreign(block: bytes) -> None:
    """Refuses what is no UTF-8 text from its first block: a wrong encoding, not a bad row."""
    if not block:
        raise Invalid("file", "is empty")
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Invalid("file", "is UTF-16: save it as CSV in UTF-8")
    if block.startswith(b"PK\x03\x04"):
        raise Invalid("file", "is a spreadsheet or an archive, not text: save it as CSV in UTF-8")
    lines = block.splitlines()
    if len(block) >= _BLOCK and len(lines) > 1:
        lines.pop()  # cut anywhere
    if b"\0" in lines[0]:
        raise Invalid("file", "is not text: save it as CSV in UTF-8")
    broken = [line for line in lines if not _is_utf8(line)]
    if broken and (len(broken) > 1 or broken[0] is lines[0]):
        raise Invalid("file", "is not UTF-8 text: save it as CSV in UTF-8")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
