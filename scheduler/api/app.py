"""The application, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from prometheus_client import Counter

from models.database import NEVER_IDLE, open_engine
from models.settings import Settings
from scheduler.api import (
    agents,
    batch_rows,
    batches,
    call_story,
    calls,
    gate,
    health,
    metrics,
    trunks,
    uploads,
    webhooks,
)
from scheduler.api.docs import serve_docs
from scheduler.api.parts import Parts, known_query
from scheduler.api.problems import Problem, answers, handle_problems

_ANY = (400, 408, 413, 415, 500)  # that any request may be answered with
_GATE_TIMEOUT_MS = 3000
THREADS = 40  # anyio's: so many routes run at once, loads among them, and each holds one connection at most

_SUMMARY = "A self-hosted dialer for people who have a list of phone numbers and a SIP trunk"


def make_app(settings: Settings) -> FastAPI:
    """The API on these settings. Raises `Unavailable` where there is no Postgres, and `Invalid` for an address that is none."""
    engine = open_engine(settings, "trunkline-api", pool_size=THREADS, options=NEVER_IDLE)
    # keys and health: soon or not at all, whatever the routes are waiting for
    gate_engine = open_engine(
        settings, "trunkline-api", pool_size=gate.THREADS, statement_timeout_ms=_GATE_TIMEOUT_MS, options=NEVER_IDLE
    )
    answered = Counter(
        "trunkline_api_requests", "Requests answered by this process.", ["method", "route", "status"], registry=None
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()
        gate_engine.dispose()

    app = FastAPI(
        title="trunkline",
        summary=_SUMMARY,
        version=version("trunkline"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the place it would name is the client's own Host
    )
    app.state.parts = Parts(settings=settings, engine=engine)
    app.state.readiness = health.Readiness(settings, gate_engine)
    app.state.answered = answered
    app.add_middleware(gate.Gate, settings=settings, engine=gate_engine, answered=answered)
    handle_problems(app)
    serve_docs(app)
    app.include_router(health.router, responses=answers(*_ANY))
    bearer = HTTPBearer(auto_error=False, description="A key, as `trunkline key create` shows it.")
    for part in (agents, batch_rows, batches, call_story, calls, trunks, uploads, webhooks, metrics):
        app.include_router(
            part.router,
            dependencies=[Depends(bearer), Depends(known_query)],
            responses=answers(*_ANY, 401, 403, 429, 503),
        )
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """OpenAPI knows of problems, and of no answer that is not one of ours."""
    made = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            schema = made()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(_problem_schemas())
            for path in schema["paths"].values():
                for operation in path.values():
                    found = operation["responses"].get("422")
                    if found and "application/json" in found["content"]:
                        operation["responses"]["422"] = answers(422)[422]
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _problem_schemas() -> dict[str, object]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}
