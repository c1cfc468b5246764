"""A form for what JSON may say as well: the same fields, each as text, each once."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from scheduler.api.bodies import check_utf8, is_json, too_large

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"

_KINDS = ("application/json", MULTIPART, URLENCODED)
_LONGEST = 16_384  # bytes of a form, whose fields need a hundred: each part of it takes memory of its own

Model = TypeVar("Model", bound=BaseModel)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`: a body that may be left out, in each of the kinds that `body_of` takes."""
    return {"requestBody": {"content": {kind: {"schema": model.model_json_schema()} for kind in _KINDS}}}


async def body_of(request: Request, model: type[Model]) -> Model | None:
    """The body, as JSON or as a form; None where there is none.

    Raises RequestValidationError, and HTTPException 400 for a form that is none or is cut, 413 and 415.
    """
    body = await request.body()
    if not body:
        return None
    content_type = request.headers.get("content-type", "")
    try:
        if is_json(content_type):
            return model.model_validate_json(body)  # the gate has looked at it
        return model.model_validate_strings(await _fields(request, body, content_type, model))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error


async def _fields(request: Request, body: bytes, content_type: str, model: type[BaseModel]) -> dict[str, str]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (MULTIPART, URLENCODED):
        raise HTTPException(415, f"the body must be one of {', '.join(_KINDS)}", {"Accept": ", ".join(_KINDS)})
    check_utf8(content_type)
    if len(body) > _LONGEST:
        raise too_large(_LONGEST)
    if kind == MULTIPART and not body.rstrip().endswith(b"--"):  # the parser drops the last field without a word
        raise HTTPException(400, "the form is cut: it has no end")
    fields: dict[str, str] = {}
    problems = []
    async with request.form() as form:
        for name, value in form.multi_items():
            if name not in model.model_fields:
                problems.append({"type": "extra_forbidden", "loc": ("body", name), "msg": "is not taken here"})
            elif isinstance(value, UploadFile):
                problems.append({"type": "string_type", "loc": ("body", name), "msg": "must be text, not a file"})
            elif name in fields:
                problems.append({"type": "duplicate", "loc": ("body", name), "msg": "is there twice"})
            else:
                fields[name] = value
    if problems:
        raise RequestValidationError(problems)
    return fields
