"""Every answer that is no success, as a problem (RFC 9457): one shape, a sentence, the fields that are wrong, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from models.database import reason
from models.errors import Busy, Conflict, Invalid, NotFound, TrunklineError, Unavailable, problem_of

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds, where a part does not answer


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
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return Response(body.model_dump_json(), status, headers, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Whatever a route raises becomes a problem."""

    @app.exception_handler(RequestValidationError)
    def refused(_: Request, error: RequestValidationError) -> Response:
        errors = [FieldProblem(field=_field(found["loc"]), detail=problem_of(found)) for found in error.errors()]
        return problem(422, "; ".join(f"{one.field}: {one.detail}" for one in errors), errors=errors)

    @app.exception_handler(TrunklineError)
    def of_ours(_: Request, error: TrunklineError) -> Response:
        return of_error(error)

    @app.exception_handler(HTTPException)
    def of_framework(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), headers=error.headers)

    async def no_ledger(_: Request, error: Exception) -> Response:
        why = reason(error.orig if isinstance(error, DBAPIError) else error)
        return of_error(Unavailable(f"Postgres does not answer: {why}"))

    for kind in (OperationalError, InternalError, NoConnectionFree):
        app.add_exception_handler(kind, no_ledger)

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> Response:
        return problem(500, "something is wrong with trunkline itself: its log says where")


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
            return problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER)})
    return problem(500, str(error))


def _field(location: Sequence[int | str]) -> str:
    """Without where it was found (`body`, `query`, `path`, `header`)."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
