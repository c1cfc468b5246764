"""A moment as bodies give it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator

from models.errors import Invalid
from scheduler.fields import moment


def _moment(value: object) -> object:
    if value is None or isinstance(value, datetime):
        return value
    try:
        return moment(value if isinstance(value, str) else "", field="moment")
    except Invalid as error:
        raise ValueError(error.problem) from error


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""ISO 8601 with an offset or `Z`; a number is none."""
