"""One strict rule for numbers, and sentences that a person can act on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Invalid
from scheduler.phone_numbers import allowed, country_code, e164


@pytest.mark.parametrize(
    "number", ["+4930123456", "+12025550101", "+390612345678", "+80012345678", "+6531234567", "+493012345678901"]
)
def test_a_valid_international_number_is_kept_as_it_is(number: str) -> None:
    assert e164(number) == number


def test_spaces_around_a_number_are_dropped() -> None:
    assert e164("  +4930123456 ") == "+4930123456"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("030123456", "no + and country code"),
        ("4930123456", "no + and country code"),
        ("004930123456", "starts with 00"),
        ("+49 30 123456", "contains a space"),
        ("+49-30-123456", "contains '-'"),
        ("+49(30)123456", "contains '('"),
        ("+4930/123456", "contains '/'"),
        ("+4930123456@evil", "contains '@'"),
        ("+4930123456;x=y", "contains ';'"),
        ("+4930123456,+4930123457", "contains ','"),
        ("+4930123456&+4930123457", "contains '&'"),
        ("+1800FLOWERS", "contains 'F'"),
        ("+4930\x00123456", "contains a NUL character"),
        ("+4930123456\n", "contains a control character"),
        ("+4930123456\r\nX: y", "contains a control character"),
        ("\t+4930123456", "contains a control character"),
        ("+٤٩٣٠١٢٣٤٥٦", "a digit that is not 0 to 9"),
        ("+49301２3456", "a digit that is not 0 to 9"),
        ("+4930123456\u00a0", "an invisible character"),
        ("\u202a+4930123456", "an invisible character"),
        ("+4930123456\udcff", "an invisible character"),
        ("++4930123456", "a second '+'"),
        ("+04930123456", "starts with +0"),
        ("+49301", "has 5 digits"),
        ("+4930123456789012", "has 16 digits"),
        ("+99912345678", "no country code that exists"),
        ("+15551234567", "not a number in the numbering plan of +1"),
        ("+490301234567", "national prefix"),
    ],
)
def test_everything_else_is_refused_with_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(Invalid, match=r"^to: ") as refused:
        e164(text, field="to")
    assert sentence in refused.value.problem
    assert refused.value.field == "to"


@given(st.text(st.characters(), max_size=30) | st.text("+0123456789 -/\x00\x1b\n", max_size=20))
def test_a_refusal_repeats_neither_the_number_nor_what_cannot_be_printed(text: str) -> None:
    try:
        assert e164(text) == text.strip(" ")
    except Invalid as error:
        said = str(error)
    else:
        return
    assert said.isprintable()
    assert len(text) < 10 or text not in said


@pytest.mark.parametrize(
    ("number", "code"),
    [("+4930123456", "+49"), ("+12025550101", "+1"), ("+358401234567", "+358"), ("+77011234567", "+7")],
)
def test_the_country_code_is_the_one_that_the_number_begins_with(number: str, code: str) -> None:
    assert country_code(number) == code


def test_a_number_without_a_country_code_has_none_to_tell() -> None:
    with pytest.raises(Invalid):
        country_code("+99912345678")


def test_a_number_is_allowed_by_any_of_the_prefixes_and_by_none_if_there_is_none() -> None:
    assert allowed("+4930123456", ["+1", "+49"])
    assert allowed("+4930123456", ["+4930"])
    assert not allowed("+4930123456", ["+4989", "+1"])
    assert not allowed("+4930123456", [])
