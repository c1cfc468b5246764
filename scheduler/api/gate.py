"""Who may come in: before a byte of a body is read.

    health ────────────────────────────────────────────────────────────────────────────────▶ route
    a key known before ──▶ its own limit ─┐
    anybody else ──▶ limit of the address ┴▶ a place ──▶ Postgres: key, scope ──▶ the body ──▶ route
                      429                     503         401, 403               400 408 413

Health is for everybody, and so are the documents that describe the API; all else needs `Authorization: Bearer KEY` with a key
that is known, not revoked, and of a scope that allows this. Whoever has used up the limit of an address cannot shut out
those who come from the same one with a key that has been good before.

What is bounded is how long a client may take (`bodies`, `_Answer`, `server`). Nothing ends a route that is at work: a thread goes
on whatever becomes of its request, and an answer that it had failed would not be true. Each route's own waits have their bounds.
"""

from __future__ import annotations

import time
from asyncio import timeout

import structlog
from anyio import CapacityLimiter, to_thread
from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Asked

from models.errors import TrunklineError, Unavailable
from models.settings import Settings
from scheduler import keys
from scheduler.api import bodies, docs
from scheduler.api.bodies import JSON_BYTES, Body, Upload, again, check_json, is_json, too_large
from scheduler.api.limits import UPLOADS, Limits, address_of
from scheduler.api.problems import of_error, of_http, problem
from scheduler.keys import Key, Scope

logger = structlog.get_logger(__name__)

THREADS = 8  # that ask for keys: beside those of the routes, which may all be busy

_HEALTH = frozenset({"/healthz", "/readyz"})
_DOCUMENTS = frozenset({"/docs", "/openapi.json", *docs.ASSETS})
_SIGNING = "/webhooks/secret"  # who has it can pass for us
_ADMIN = ("/sip-trunks", "/agents")
_UPLOADS = ("POST", "/batches")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # /docs is where a key is typed
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """ASGI middleware. The key of a request that passes is `request.state.key`."""

    def __init__(self, app: ASGIApp, settings: Settings, engine: Engine, answered: Counter) -> None:
        self._app = app
        self._engine = engine
        self._answered = answered
        self._limits = Limits(settings)
        self._longest_upload = settings.api_longest_upload_megabytes * 1_000_000
        self._threads = CapacityLimiter(THREADS)
        self._known: set[bytes] = set()
        """The hashes of keys that were good when they were last asked for: no more than there are in the ledger."""

    async def __call__(self, asked: Asked, receive: Receive, send: Send) -> None:
        if asked["type"] != "http":
            await self._app(asked, receive, send)
            return
        method = asked["method"]
        answer = _Answer(send, head=method == "HEAD")
        asked = {**asked, "method": "GET" if method == "HEAD" else method}  # the server leaves out the body
        try:
            await self._answer(asked, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:
            if answer.status is not None:
                raise  # the server logs it, and cuts the connection
            logger.exception("unexpected", method=method, route=_route(asked))
            refusal = problem(500, "something is wrong with trunkline itself: its log says where")
            await refusal(asked, receive, answer)
        finally:
            if answer.status is not None:
                known = method if method in _METHODS else "other"
                self._answered.labels(known, _route(asked), str(answer.status)).inc()

    async def _answer(self, asked: Asked, receive: Receive, send: Send) -> None:
        try:
            if asked["path"] in _HEALTH:
                await self._pass_on(asked, receive, send)
            elif asked["path"] in _DOCUMENTS:
                await self._limits.count_stranger(address_of(asked["client"]))
                await self._pass_on(asked, receive, send)
            else:
                given = _given(asked)
                await self._check_rate(asked, given)
                with self._limits.place():
                    asked["state"] = {**asked.get("state", {}), "key": await self._key_for(asked, given)}
                    await self._pass_on(asked, receive, send)
        except HTTPException as error:
            await of_http(error)(asked, receive, send)
        except TrunklineError as error:
            await of_error(error)(asked, receive, send)

    async def _check_rate(self, asked: Asked, given: str | None) -> None:
        """Raises HTTPException 429, before Postgres is asked anything."""
        if given is not None and (sha256 := keys.sha256_of(given)) in self._known:
            await self._limits.count_key(sha256.hex())
        else:
            await self._limits.check_stranger(address_of(asked["client"]))

    async def _key_for(self, asked: Asked, given: str | None) -> Key:
        """Raises HTTPException 401 and 403, and `Unavailable`."""
        key = None
        if given is not None:
            try:
                key = await to_thread.run_sync(self._find, given, limiter=self._threads)
            except (DBAPIError, NoConnectionFree):
                raise Unavailable("Postgres does not answer") from None
        if key is None:
            await self._limits.count_stranger(address_of(asked["client"]))
            raise HTTPException(401, "needs a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        needed = needed_for(asked["method"], asked["path"])
        if not key.scope.includes(needed):
            raise HTTPException(403, f"needs a key of scope {needed}; this one is {key.scope}")
        return key

    def _find(self, given: str) -> Key | None:
        with self._engine.begin() as connection:
            key = keys.find(connection, given)
        (self._known.discard if key is None else self._known.add)(keys.sha256_of(given))
        return key

    async def _pass_on(self, asked: Asked, receive: Receive, send: Send) -> None:
        """To the route, with the body under watch: an upload as it comes, JSON whole and looked at."""
        headers = Headers(scope=asked)
        is_upload = (asked["method"], asked["path"]) == _UPLOADS
        most = self._longest_upload if is_upload else JSON_BYTES
        if int(headers.get("content-length", "0")) > most:
            raise too_large(most)
        if is_upload:
            with UPLOADS.one():
                await self._app(asked, Upload(receive, most=most), send)
            return
        body = Body(receive, most=most)
        if not is_json(headers.get("content-type", "")):
            await self._app(asked, body, send)
            return
        whole = await body.whole()
        if whole:
            await to_thread.run_sync(check_json, whole)
        await self._app(asked, again(whole, receive), send)


class _Answer:
    """The `send` of one request: adds the headers that every answer has, and remembers whether there was one.

    Raises ClientDisconnect for HEAD, where the body would be made piece by piece, and when the client takes too long to read.
    """

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send = send
        self._head = head
        self._waited = 0.0
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self._head and "content-length" not in headers:
                await self._send(message)
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                raise ClientDisconnect
        began = time.monotonic()
        try:
            async with timeout(bodies.LONGEST - self._waited):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None
        self._waited += time.monotonic() - began


def needed_for(method: str, path: str) -> Scope:
    """The scope that a request needs."""
    if path.startswith(_SIGNING):
        return Scope.ADMIN
    if method in {"GET", "HEAD", "OPTIONS"}:
        return Scope.READ
    return Scope.ADMIN if path.startswith(_ADMIN) else Scope.CALL


def _given(asked: Asked) -> str | None:
    """The key that was sent along."""
    scheme, _, given = Headers(scope=asked).get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _route(asked: Asked) -> str:
    """As the documents write it: a path may hold what is nobody's business, and there is no end of paths."""
    return str(getattr(asked.get("route"), "path", ""))
