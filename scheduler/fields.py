"""Rules for what people type, the same on the command line and over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.config import JsonDict

from models.errors import Invalid, problem_of
from scheduler.csv_rows import RESERVED_HEADERS, VALUE_LIMIT

NAME_LIMIT = 100  #: characters of the name of a trunk, agent or campaign
FILE_NAME_LIMIT = 200

# control characters, and bytes that were not UTF-8, as the command line hands them on
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z0-9_]{1,32}")

Model = TypeVar("Model", bound=BaseModel)


def plain_text(text: str, *, field: str) -> str:
    """Text that may be stored and shown. Raises `Invalid`, never repeating what it holds."""
    found = _UNUSABLE.search(text)
    if found is None:
        return text
    if found[0] >= "\ud800":
        raise Invalid(field, "must be UTF-8 text")
    raise Invalid(field, f"must have no {'NUL' if found[0] == chr(0) else 'control'} character in it")


def thing_name(text: str, *, field: str) -> str:
    """The name of a trunk, an agent or a campaign. Raises `Invalid`."""
    plain_text(text, field=field)
    if not 1 <= len(text) <= NAME_LIMIT:
        raise Invalid(field, f"must be 1 to {NAME_LIMIT} characters long")
    if text != text.strip():
        raise Invalid(field, "must not start or end with a blank")
    return text


def shown_file_name(text: str) -> str:
    """The last part of a file's name, which is only shown: what cannot be kept is made visible, what is too long is cut."""
    return _UNUSABLE.sub("\ufffd", re.split(r"[/\\]", text)[-1])[-FILE_NAME_LIMIT:]


def moment(text: str, *, field: str) -> datetime:
    """ISO 8601 with an offset: without one it would be somebody else's hour. Raises `Invalid`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        raise Invalid(field, "must be ISO 8601 with an offset or Z, like 2026-03-01T09:30:00+05:30")
    return found


def value(text: str, *, field: str) -> str:
    """A person's name, or a variable for the agent; commas, quotes and emoji are welcome. Raises `Invalid`."""
    plain_text(text, field=field)
    if len(text.encode()) > VALUE_LIMIT:
        raise Invalid(field, f"must be at most {VALUE_LIMIT} bytes long")
    return text


def variables(values: Mapping[str, str]) -> dict[str, str]:
    """What the agent gets beside the name. Raises `Invalid`, naming the variable."""
    for name in values:
        if not _WORD.fullmatch(name) or name.casefold() in RESERVED_HEADERS:
            raise Invalid(
                "variables",
                "must have names of 1 to 32 letters (a-z), digits or _, and none that trunkline gives itself:"
                f" {', '.join(sorted(RESERVED_HEADERS))}",
            )
    return {name: value(text, field=f"variables.{name}") for name, text in values.items()}


def by(rule: Callable[..., str], *, field: str) -> Callable[[str], str]:
    """The rule as pydantic wants it, which adds the name of the field itself."""

    def check(text: str) -> str:
        try:
            return rule(text, field=field)
        except Invalid as error:
            raise ValueError(error.problem) from error

    return check


def without_defaults(schema: JsonDict) -> None:
    """For the schema of a change: what is left out stays as it is."""
    for field in cast("dict[str, JsonDict]", schema["properties"]).values():
        field.pop("default", None)


def validated(model: type[Model], values: Mapping[str, object]) -> Model:
    """The model made of values from the command line.

    Raises `Invalid` with the first thing that is wrong; what was typed is not repeated, it may be a password.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise first_problem(error) from error


def first_problem(error: ValidationError, *within: str) -> Invalid:
    """The first thing that is wrong with a model, which stands `within` these fields; it does not repeat what was given."""
    first = error.errors(include_url=False, include_input=False)[0]
    return Invalid(".".join(map(str, (*within, *first["loc"]))) or error.title, problem_of(first))
