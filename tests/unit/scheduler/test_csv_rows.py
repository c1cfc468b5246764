"""Rows, with the lines they start in, out of files as people have them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import Invalid
from scheduler import csv_rows
from scheduler.csv_rows import Columns, Row, open_csv

ONE, TWO, THREE = "+4930123456", "+4930123457", "+4930123458"


def rows_of(tmp_path: Path, content: str | bytes) -> list[Row]:
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_csv(path) as file:
        return list(file.rows())


def lines_of(tmp_path: Path, content: str | bytes) -> list[tuple[int, list[str]]]:
    rows = rows_of(tmp_path, content)
    assert not [row for row in rows if row.problem]
    return [(row.line_number, row.cells) for row in rows]


def refusal(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(Invalid) as refused:
        rows_of(tmp_path, content)
    assert refused.value.field == "file"
    return refused.value.problem


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_delimiters_and_a_byte_order_mark_make_no_difference(
    tmp_path: Path, end: str, delimiter: str, mark: str
) -> None:
    records = [["phone_number", "name"], [ONE, "Jürgen"], [TWO, '"李"'.replace('"', '""')]]
    text = mark + "".join(delimiter.join(f'"{cell}"' for cell in record) + end for record in records)
    assert lines_of(tmp_path, text) == [(2, [ONE, "Jürgen"]), (3, [TWO, '"李"'])]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_numbers_are_those_of_the_file_after_quoted_newlines_and_blank_lines(tmp_path: Path, end: str) -> None:
    text = end.join(["", "phone,note", "", f'{ONE},"a', "b", 'c"', "  ", f"{TWO},x", "", f'{THREE},"y"'])
    assert [line for line, _ in lines_of(tmp_path, text)] == [4, 8, 10]


def test_a_last_line_without_an_end_is_a_row(tmp_path: Path) -> None:
    assert lines_of(tmp_path, f"to\n{ONE}") == [(2, [ONE])]


def test_an_empty_cell_in_quotes_is_a_row_and_a_blank_line_is_none(tmp_path: Path) -> None:
    assert lines_of(tmp_path, 'to\n""\n\n \n') == [(2, [""])]


def test_the_header_decides_the_delimiter_not_the_data(tmp_path: Path) -> None:
    assert lines_of(tmp_path, f'phone;name\n{ONE};a,b,c,d\n"{TWO}";"x;y"\n') == [
        (2, [ONE, "a,b,c,d"]),
        (3, [TWO, "x;y"]),
    ]


def test_a_quote_that_is_left_open_costs_its_own_line_only(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, f'phone,name\n{ONE},"Bob\n{TWO},Ann\n{THREE},"two\nlines"\n+4930123459,Eve\n')
    assert [(row.line_number, row.cells, bool(row.problem)) for row in rows] == [
        (2, [ONE, "Bob"], True),
        (3, [TWO, "Ann"], False),
        (4, [THREE, "two\nlines"], False),
        (6, ["+4930123459", "Eve"], False),
    ]


def test_a_quote_left_open_at_the_end_of_the_file_is_a_problem_not_a_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, f'phone,name\n{ONE},"Bob')
    assert row.problem is not None


def test_text_after_a_closing_quote_is_a_problem(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, f'phone,name\n{ONE},"Bob" Smith\n{TWO},Ann\n')
    assert first.problem is not None
    assert (second.line_number, second.problem) == (3, None)


def test_a_quote_inside_an_unquoted_cell_is_only_a_character(tmp_path: Path) -> None:
    assert lines_of(tmp_path, f'phone,name\n{ONE},5" pipe\n') == [(2, [ONE, '5" pipe'])]


def test_an_open_quote_that_swallows_more_than_a_megabyte_costs_its_own_line_only(tmp_path: Path) -> None:
    filler = f"{TWO},x\n" * 150_000
    rows = rows_of(tmp_path, f'phone,name\n{ONE},"Bob\n{filler}')
    assert len(rows) == 150_001
    assert [row.line_number for row in rows if row.problem] == [2]


def test_a_line_without_an_end_is_refused_with_its_number(tmp_path: Path) -> None:
    assert "line 3 is longer than 1 MB" in refusal(tmp_path, f"to\n{ONE}\n" + "x" * (csv_rows.ROW_LIMIT + 1))
    assert "header row is longer" in refusal(tmp_path, "x" * (csv_rows.ROW_LIMIT + 1))


def test_quotes_that_never_end_are_given_up_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_AGAIN_LIMIT", 4 * csv_rows.ROW_LIMIT)
    # each line opens a quote again, read from its start or from within
    assert "too many quotes" in refusal(tmp_path, "to,a,b\n" + 'x",",\n' * 160_000)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\r\n  \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("phone_number\r\n+4930123456\r\n".encode("utf-16"), "is UTF-16"),
        ("phone_number\r\n+4930123456\r\n".encode("utf-16-le"), "is not text"),
        (b"PK\x03\x04\x14\x00\x06\x00", "is a spreadsheet"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is not text"),
        ("phone,straße\n".encode("latin-1"), "is not UTF-8"),
        ("phone,name\n+4930123456,Jürgen\n+4930123457,Jörg\n".encode("latin-1"), "is not UTF-8"),
        (b"name,city\n", "no column with phone numbers"),
        (b"phone,to\n", "2 columns with phone numbers"),
        (b"phone_number,Phone_Number\n", "2 columns with phone numbers"),
        (b"phone,name,NAME\n", "two columns are called 'NAME'"),
        (b"phone,city,City\n", "two columns are called 'City'"),
        (b"phone,first name\n", "column 2 is called 'first name'"),
        (b"phone,\n", "column 2 is called ''"),
        (b"phone,x;y\n", "column 2 is called 'x;y'"),
        (b"phone," + b"x" * 33 + b"\n", "must be 1 to 32 letters"),
        (b"phone,a\x01\n", "header row is not UTF-8 text"),
        (b"phone,Campaign_ID\n", "no column may be called 'Campaign_ID'"),
        (b"phone,from_number\n", "no column may be called"),
        (b'phone,"name\n', "quote"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, content)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, sentence in [
        (tmp_path, "is a directory"),
        (tmp_path / "no", "there is no file"),
        (Path("a\0b"), "cannot be read"),
    ]:
        with pytest.raises(Invalid, match=sentence), open_csv(path):
            pass


@pytest.mark.parametrize("header", ["phone_number", "contact_number", " Phone ", "TO"])
def test_the_phone_column_has_four_names_in_any_case(header: str) -> None:
    columns = Columns.parse(f"a,{header},NAME\n")
    assert (columns.phone, columns.name, columns.variables) == (1, 2, ((0, "a"),))


def recipient_problem(header: str, *cells: str) -> str:
    with pytest.raises(Invalid) as refused:
        Columns.parse(header).recipient(list(cells))
    return str(refused.value)


def test_a_row_says_what_is_wrong_with_which_cell() -> None:
    assert recipient_problem("phone,name", "030123").startswith("phone: has no + and country code")
    assert recipient_problem("name,phone", "Bob").startswith("phone: is empty")
    assert recipient_problem("phone,name", ONE, "a", "b").startswith("row: has 3 cells, and the header row has 2")
    assert recipient_problem("phone,name", ONE, "a\0b") == "name: contains a NUL character: leave it out"
    assert recipient_problem("phone,name", ONE, "a\x1bb") == "name: contains a control character: leave it out"
    assert recipient_problem("phone,name", ONE, "a\x85b") == "name: contains a control character: leave it out"
    assert recipient_problem("phone,note", ONE, "a\r\nb") == "note: contains a line break: leave it out"
    assert recipient_problem("phone,note", ONE, "a\udcffb").startswith("note: is not UTF-8 text")
    assert recipient_problem("phone,note", ONE, "ü" * 513) == "note: is 1026 bytes long: must be at most 1024"
    assert recipient_problem("phone,name", ONE, "x" * 1025) == "name: is 1025 bytes long: must be at most 1024"


@pytest.mark.parametrize(
    "value", ["a,b", 'say "hi"', "it's", "a|b;c", "👩‍👩‍👧", "李雷", "ü" * 512, "\\N", "\\", "\u2028", " x "]
)
def test_a_name_and_a_value_are_kept_to_the_character(value: str) -> None:
    recipient = Columns.parse("phone,name,note").recipient([ONE, value, value])
    assert (recipient.name, json.loads(recipient.variables)) == (value, {"note": value})


def test_missing_and_empty_cells_are_left_out() -> None:
    columns = Columns.parse("phone,name,a,b")
    assert columns.recipient([ONE]) == (ONE, None, "{}")
    assert columns.recipient([ONE, "", "", "x"]) == (ONE, None, '{"b":"x"}')


def test_what_an_export_adds_is_skipped_and_never_comes_back_twice() -> None:
    columns = Columns.parse("rejected_line,rejected_reason,phone,city")
    cells = ["3", "phone: is empty", ONE, "Köln"]
    assert columns.recipient(cells) == (ONE, None, '{"city":"Köln"}')
    assert columns.header_text() == "phone,city"
    assert columns.row_text(cells) == f"{ONE},Köln"


def test_a_row_as_text_can_be_stored_and_shows_what_could_not_be() -> None:
    columns = Columns.parse("phone;name")
    assert columns.row_text([ONE, 'a\0b\x1b;"\udcff']) == f'{ONE};"a␀b␛;""\ufffd"'


cell = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['"', '""', "\n", "\r\n", ",", "a,b"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cell, cell).filter(any), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(",;\t"),
)
def test_whatever_a_csv_writer_writes_is_read_back_with_its_line(
    tmp_path: Path, records: list[tuple[str, str]], end: str, delimiter: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["to", "name"])
    expected = []
    for record in records:
        written = text.getvalue()
        line = 1 + len(written.encode().splitlines())
        writer.writerow(record)
        expected.append((line, list(record)))
    assert lines_of(tmp_path, text.getvalue()) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text('+49301",\n\r;ab', max_size=200).map(str.encode))
def test_any_bytes_under_a_header_end_as_rows_with_rising_lines(tmp_path: Path, content: bytes) -> None:
    try:
        rows = rows_of(tmp_path, b"to,name\n" + content)
    except Invalid:
        assert not content.isascii()
        return
    lines = [row.line_number for row in rows]
    assert lines == sorted(set(lines))
    total = len(content.splitlines()) + 1
    assert all(1 < line <= total for line in lines)
    for row in rows:
        Columns.parse("to,name").row_text(row.cells).encode()
