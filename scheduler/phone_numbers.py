"""Phone numbers in international form (E.164), by one strict rule on the command line, in CSV and over HTTP.

Only '+', the country code and the rest, digits alone, are taken: `+4930123456`. Nothing is guessed, no
separator is dropped and no national form is completed; a number that was understood wrongly would ring
at a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import rphonenumbers

from models.errors import Invalid

_FORM = re.compile(r"\+[1-9][0-9]{6,14}")
_FOREIGN = re.compile(r"[^0-9+]")
_RIGHT = "must be in international form, like +4930123456"
_COUNTRY_CODES = frozenset(f"+{code}" for code in rphonenumbers.COUNTRY_CODE_TO_REGION_CODE)


def e164(text: str, *, field: str = "phone_number") -> str:
    """The number in the one form that we keep, dial and compare; spaces around it are dropped.

    About 3 µs. Raises `Invalid` for everything else, with a sentence that never repeats the number
    (it may end in a log) nor anything that is not printable.
    """
    number = text.strip(" ")
    if _FORM.fullmatch(number) is None:
        raise Invalid(field, _malformed(number))
    try:
        parsed = rphonenumbers.parse(number)
    except rphonenumbers.NumberParseException as error:
        raise Invalid(field, f"starts with no country code that exists; {_RIGHT}") from error
    code = parsed.country_code
    if not rphonenumbers.is_valid_number(parsed):
        raise Invalid(field, f"is not a number in the numbering plan of +{code}: a digit is wrong, missing or too many")
    # libphonenumber drops a national prefix, as in +49 (0)30 123456, without a word
    if number != f"+{code}{parsed.national_number}" and number != rphonenumbers.format_number(
        parsed, rphonenumbers.PhoneNumberFormat.E164
    ):
        raise Invalid(field, f"has a national prefix, such as 0, after its country code +{code}: leave it out")
    return number


def country_code(number: str) -> str:
    """`+49` of `+4930123456`, a number as `e164` returns it; `+1` is all of North America.

    Raises `Invalid` when no country code is there.
    """
    for end in (2, 3, 4):  # no code is the beginning of another
        if number[:end] in _COUNTRY_CODES:
            return number[:end]
    raise Invalid("phone_number", f"starts with no country code that exists; {_RIGHT}")


def allowed(number: str, prefixes: Sequence[str]) -> bool:
    """Whether the number begins with one of these, each such as `+49` or `+4930`; none allows nothing."""
    return number.startswith(tuple(prefixes))


def _malformed(number: str) -> str:
    if not number:
        return f"is empty; {_RIGHT}"
    foreign = _FOREIGN.search(number)
    if foreign is not None:
        return f"contains {_name(foreign[0])}; {_RIGHT}, with digits only"
    if number.startswith("00"):
        return f"starts with 00; {_RIGHT}, with + instead of 00"
    if not number.startswith("+"):
        return f"has no + and country code in front; {_RIGHT}"
    if "+" in number[1:]:
        return f"contains a second '+'; {_RIGHT}"
    if number.startswith("+0"):
        return f"starts with +0, and no country code does; {_RIGHT}"
    return f"has {len(number) - 1} digits, and a number has 7 to 15; {_RIGHT}"


def _name(character: str) -> str:
    """What a person can find in their text; a control character or an invisible one is never repeated."""
    if character == " ":
        return "a space"
    if character == "\0":
        return "a NUL character"
    if character.isascii():
        return f"'{character}'" if character.isprintable() else "a control character"
    if character.isdecimal():
        return "a digit that is not 0 to 9"
    return f"'{character}'" if character.isprintable() else "an invisible character"
