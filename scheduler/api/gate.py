"""Who may come in: before a byte of a body is read.

Health is for everybody, and so are the documents that describe the API; all else needs `Authorization: Bearer KEY` with a key
that is known, not revoked, and of a scope that allows this.
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from models.errors import Unavailable
from scheduler import keys
from scheduler.api.problems import of_error, problem
from scheduler.keys import Key, Scope

_OPEN = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
_SIGNING = "/webhooks/secret"  # who has it can pass for us
_ADMIN = ("/sip-trunks", "/agents")


class Gate:
    """ASGI middleware. The key of a request that passes is `request.state.key`."""

    def __init__(self, app: ASGIApp, engine: Callable[[], Engine]) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, asked: Asked, receive: Receive, send: Send) -> None:
        if asked["type"] != "http" or asked["path"] in _OPEN:
            await self._app(asked, receive, send)
            return
        scheme, _, given = Headers(scope=asked).get("authorization", "").partition(" ")
        try:
            key = await to_thread.run_sync(self._find, given.strip()) if scheme.lower() == "bearer" else None
        except (DBAPIError, NoConnectionFree):
            await of_error(Unavailable("Postgres does not answer"))(asked, receive, send)
            return
        if key is None:
            refusal = problem(401, "needs a key: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})
            await refusal(asked, receive, send)
        elif not key.scope.includes(needed := needed_for(asked["method"], asked["path"])):
            await problem(403, f"needs a key of scope {needed}; this one is {key.scope}")(asked, receive, send)
        else:
            asked.setdefault("state", {})["key"] = key
            await self._app(asked, receive, send)

    def _find(self, given: str) -> Key | None:
        with self._engine().begin() as connection:
            return keys.find(connection, given)


def needed_for(method: str, path: str) -> Scope:
    """The scope that a request needs."""
    if path.startswith(_SIGNING):
        return Scope.ADMIN
    if method in {"GET", "HEAD", "OPTIONS"}:
        return Scope.READ
    return Scope.ADMIN if path.startswith(_ADMIN) else Scope.CALL
