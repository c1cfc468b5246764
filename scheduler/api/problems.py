"""Every answer that is no success, as a problem (RFC 9457): one shape, a sentence, the fields that are wrong, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DataError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from models.database import reason
from models.errors import Busy, Conflict, Invalid, NotFound, TrunklineError, Unavailable, problem_of
from scheduler.api.bodies import is_json

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds, where a part does not answer
_ERRORS, _LONGEST = 20, 1000  # that are said; characters


class FieldProblem(BaseModel):
    """One thing that is wrong with what was sent."""

    model_config = ConfigDict(extra="forbid")

    field: str  #: as `recipient.phone_number`
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="forbid")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the problems that it answers with, beside those of the gate."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem(
    status: int, detail: str, *, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """`detail` and `errors` may quote what was sent: they are cut, and half a surrogate pair in them is written as ASCII."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_cut(detail),
        errors=[FieldProblem(field=_cut(one.field), detail=_cut(one.detail)) for one in errors[:_ERRORS]],
    )
    return Response(json.dumps(body.model_dump()), status, headers, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Whatever a route raises becomes a problem."""

    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> Response:
        if wanted := _other_media_type(request):
            return problem(415, f"the body must be {wanted}", headers={"Accept": wanted})
        errors = [FieldProblem(field=_field(found["loc"]), detail=problem_of(found)) for found in error.errors()]
        return problem(422, "; ".join(f"{one.field}: {one.detail}" for one in errors), errors=errors)

    @app.exception_handler(TrunklineError)
    def of_ours(_: Request, error: TrunklineError) -> Response:
        return of_error(error)

    @app.exception_handler(HTTPException)
    def of_framework(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error.headers = {"Allow": _allowed(request)}
        return of_http(error)

    async def no_ledger(_: Request, error: Exception) -> Response:
        why = reason(error.orig if isinstance(error, DBAPIError) else error)  # it names our hosts
        logger.warning("no_ledger", error=why)
        return of_error(Unavailable("Postgres does not answer"))

    for kind in (OperationalError, InternalError, NoConnectionFree):
        app.add_exception_handler(kind, no_ledger)

    @app.exception_handler(DataError)
    def not_kept(_: Request, error: DataError) -> Response:
        return problem(422, f"a value cannot be kept: {reason(error.orig)}")


def of_http(error: HTTPException) -> Response:
    """The problem that an error of the framework's kind is."""
    return problem(error.status_code, str(error.detail), headers=error.headers)


def of_error(error: TrunklineError) -> Response:
    """The problem that an error of ours is."""
    match error:
        case Invalid():
            return problem(422, str(error), errors=[FieldProblem(field=error.field, detail=error.problem)])
        case NotFound():
            return problem(404, str(error))
        case Busy():
            return problem(409, str(error), headers={"Retry-After": str(RETRY_AFTER)})
        case Conflict():
            return problem(409, str(error))
        case Unavailable():
            if error.to_anybody != str(error):
                logger.warning("unavailable", error=str(error))
            return problem(503, error.to_anybody, headers={"Retry-After": str(RETRY_AFTER)})
    return problem(500, str(error))


@contextmanager
def as_sent(names: Mapping[str, str]) -> Iterator[None]:
    """What is wrong with a value is said of the field that it was sent in; an agent that is not there is a wrong `agent_id`."""
    try:
        yield
    except NotFound as error:
        if error.kind != "agent":
            raise
        raise Invalid("agent_id", f"there is no agent {error.name}") from error
    except Invalid as error:
        field, dot, rest = error.field.partition(".")
        raise Invalid(f"{names.get(field, field)}{dot}{rest}", error.problem) from error


def _allowed(request: Request) -> str:
    """Every method of the path: the framework names those of its first route."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = {method.upper() for method in request.app.openapi()["paths"].get(path, {"get": None})}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _other_media_type(request: Request) -> str | None:
    """What the body of this route has to be, if it came as something else."""
    body = getattr(request.scope.get("route"), "body_field", None)
    wanted = getattr(body and body.field_info, "media_type", None)
    came = request.headers.get("content-type", "")
    if wanted is None or not came or (wanted == "application/json" and is_json(came)):
        return None
    return None if came.partition(";")[0].strip().lower() == wanted else str(wanted)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _field(location: Sequence[int | str]) -> str:
    """Without where it was found (`body`, `query`, `path`, `header`)."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
