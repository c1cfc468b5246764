"""`/healthz`: is the process alive; `/readyz`: is everything there that a call needs. Both are for everybody, and name no address.

The worker of webhooks is listed, and does not decide: a receiver that is down, or nobody who delivers, stops no call.
"""

from __future__ import annotations

import time
from asyncio import Lock
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Literal

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine

from models.nodes import BreakerState, breakers
from models.roles import SCHEDULER, is_held
from models.settings import Settings
from scheduler.api.problems import RETRY_AFTER
from scheduler.presence import redis_client
from workers.app import make_app

logger = structlog.get_logger(__name__)

router = APIRouter(tags=["health"])

LOOKS_FOR = 2.5  # seconds; who hangs longer is down
_KEPT_FOR = 2.0  # seconds: what anybody may ask must not cost a look each
_WORKER_ANSWERS_IN = 1.5


class Alive(BaseModel):
    model_config = ConfigDict(extra="forbid")

    status: Literal["ok"] = "ok"


class State(StrEnum):
    OK = "ok"
    DOWN = "down"
    UNKNOWN = "unknown"  #: who would know does not answer


class PartStates(BaseModel):
    model_config = ConfigDict(extra="forbid")

    postgres: State = State.DOWN
    redis: State = State.DOWN
    asterisk: State = State.UNKNOWN  #: a node is heard, and takes calls
    scheduler: State = State.UNKNOWN  #: somebody leads
    workers: State = State.UNKNOWN  #: one answers, at least
    webhooks: State = State.UNKNOWN  #: a worker of theirs answers; no call needs it


_NOT_NEEDED = {"webhooks"}  # by a call: what is not delivered waits in the outbox, and nobody must stop dialling for it


class Ready(BaseModel):
    """What a call needs, by name, and who delivers webhooks: they may be late, so without them it is ready all the same."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ready", "not ready"]
    parts: PartStates


class Readiness:
    """Looks once for all who ask within two seconds. A look that hangs is left behind, and not begun again before it ends."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._one = Lock()
        self._looks = {
            ask: CapacityLimiter(1) for ask in (self._ask_postgres, self._ask_redis, self._ask_webhook_workers)
        }
        self._parts = PartStates()
        self._looked_at = 0.0

    async def look(self) -> Ready:
        async with self._one:
            if not self._looked_at or time.monotonic() - self._looked_at > _KEPT_FOR:
                found: dict[str, State] = {}
                with anyio.move_on_after(LOOKS_FOR):
                    async with anyio.create_task_group() as group:
                        for ask, limiter in self._looks.items():
                            group.start_soon(self._look, ask, limiter, found)
                self._parts, self._looked_at = PartStates(**found), time.monotonic()
        states = self._parts.model_dump(exclude=_NOT_NEEDED).values()
        ready = all(state is State.OK for state in states)
        return Ready(status="ready" if ready else "not ready", parts=self._parts)

    async def _look(
        self, ask: Callable[[Callable[[str, bool], None]], None], limiter: CapacityLimiter, found: dict[str, State]
    ) -> None:
        def say(part: str, is_there: bool) -> None:
            found[part] = State.OK if is_there else State.DOWN

        try:
            await to_thread.run_sync(partial(ask, say), limiter=limiter, abandon_on_cancel=True)
        except Exception as error:  # whatever it is, the part is not there; what it says may name a host
            logger.info("not_ready", error=f"{type(error).__name__}: {error}")

    def _ask_postgres(self, say: Callable[[str, bool], None]) -> None:
        with self._engine.begin() as connection:
            say("postgres", True)
            say("scheduler", is_held(connection, SCHEDULER))
            heard = [breaker for breaker in breakers(connection) if breaker.is_heard]
            say("asterisk", any(breaker.state is not BreakerState.OPEN for breaker in heard))

    def _ask_redis(self, say: Callable[[str, bool], None]) -> None:
        with redis_client(self._settings):
            say("redis", True)
        say("workers", self._answers("worker*"))

    def _ask_webhook_workers(self, say: Callable[[str, bool], None]) -> None:
        with redis_client(self._settings):
            say("webhooks", self._answers("webhooks*"))

    def _answers(self, names: str) -> bool:
        """Whether one of the workers that are called so does: those that dial and those of webhooks answer alike."""
        app = make_app(self._settings)
        try:
            asked = app.control.inspect(timeout=_WORKER_ANSWERS_IN, limit=1, pattern=names, matcher="glob")
            return bool(asked.ping())
        finally:
            app.close()


@router.get("/healthz")
async def healthz() -> Alive:
    """The process answers; it asks nobody else."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Ready, "description": "Something is not there."}})
async def readyz(request: Request, response: Response) -> Ready:
    """Whether everything is there that a call needs, each part by name; at most three seconds.

    `webhooks` is listed as well, and does not count: calls go out without it, and what is not delivered waits.
    """
    readiness: Readiness = request.app.state.readiness
    ready = await readiness.look()
    if ready.status != "ready":
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return ready
