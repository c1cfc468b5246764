"""The application, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from models.database import NEVER_IDLE, open_engine
from models.settings import Settings
from scheduler.api import agents, calls, health, trunks
from scheduler.api.gate import Gate
from scheduler.api.parts import Parts, known_query
from scheduler.api.problems import MEDIA_TYPE, Problem, answers, handle_problems

THREADS = 40  # anyio's: so many routes run at once, and each holds one connection at most

_SUMMARY = "A self-hosted dialer for people who have a list of phone numbers and a SIP trunk"


def make_app(settings: Settings) -> FastAPI:
    """The API on these settings. Raises `Unavailable` where there is no Postgres, and `Invalid` for an address that is none."""
    engine = open_engine(settings, "trunkline-api", pool_size=THREADS, options=NEVER_IDLE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(
        title="trunkline",
        summary=_SUMMARY,
        version=version("trunkline"),
        lifespan=lifespan,
        redoc_url=None,
        responses=answers(401, 403, 413, 429, 503),
    )
    app.state.parts = Parts(settings=settings, engine=engine)
    app.add_middleware(Gate, engine=lambda: engine)
    handle_problems(app)
    app.include_router(health.router)
    bearer = [Depends(HTTPBearer(auto_error=False, description="A key, as `trunkline key create` shows it."))]
    for part in (agents, calls, trunks):
        app.include_router(part.router, dependencies=[*bearer, Depends(known_query)])
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


__all__ = ["MEDIA_TYPE", "make_app"]
