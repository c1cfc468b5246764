"""What may come in as a body: so much of it, not more slowly than this, and JSON that means one thing only."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import time
from asyncio import timeout
from collections.abc import Iterator
from email.message import Message as Header
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from models.errors import Invalid, Unavailable

JSON_BYTES = 1_000_000
PATIENCE = 10.0  # seconds that a client may be silent in the middle of a body
SLOWEST = 10_000  # bytes a second, over the whole body
LONGEST = 900.0  # seconds that we wait for a client to send the whole of a body, or to read the whole of an answer
DISK_LEFT = 1_000_000_000  # bytes that uploads leave: Postgres may be on the same disk
DEEPEST = 50  # of JSON; FastAPI and the ledger go down by recursion

_LOOKED_EVERY = 1_000_000  # bytes of an upload
_LONGEST_INTEGER = 100  # digits; what Python needs for more of them grows with their square
_ODD = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")  # what must be looked at more closely


class Body:
    """The `receive` of one request: counts what comes, and gives up on a client that keeps us waiting.

    Raises HTTPException 413 and 408, which FastAPI lets through as they are. Only the time spent waiting counts: a route
    may take as long as it needs between two pieces.
    """

    def __init__(self, receive: Receive, *, most: int) -> None:
        self._receive = receive
        self._most = most
        self._came = 0
        self._waited = 0.0
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()  # whether the client is still there
        asked = time.monotonic()
        try:
            async with timeout(min(PATIENCE, PATIENCE + self._came / SLOWEST - self._waited, LONGEST - self._waited)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body comes too slowly", {"Connection": "close"}) from None
        self._waited += time.monotonic() - asked
        self._came += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._came > self._most:
            raise too_large(self._most)
        return message

    async def whole(self) -> bytes:
        """Raises ClientDisconnect."""
        pieces = []
        while not self._ended:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
        return b"".join(pieces)


class Upload(Body):
    """The same, of a body that is kept on the disk as it comes. Raises `Unavailable` as `check_disk`."""

    _looked = 0

    async def __call__(self) -> Message:
        message = await super().__call__()
        if self._came - self._looked >= _LOOKED_EVERY:
            self._looked = self._came
            check_disk()
        return message


def check_disk() -> None:
    """Raises `Unavailable` when there is so little left of it where uploads are kept that Postgres could be the next to find none."""
    if shutil.disk_usage(tempfile.gettempdir()).free < DISK_LEFT:
        raise Unavailable(f"less than {DISK_LEFT / 1e9:g} GB of the disk is free, which uploads leave to Postgres")


def too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body must be at most {most} bytes", {"Connection": "close"})


def again(body: bytes, receive: Receive) -> Receive:
    """The `receive` of a request whose body has been read."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


def is_json(content_type: str) -> bool:
    """As FastAPI sees it, which takes it apart with this parser."""
    header = Header()
    header["content-type"] = content_type
    subtype = header.get_content_subtype()
    return header.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def check_utf8(content_type: str) -> None:
    """Raises HTTPException 400: of other codecs some fail, and others make what nobody can keep.

    As Starlette sees it, which takes it apart with this parser: of a name given twice the other takes the first.
    """
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8")
    if charset.lower() not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise HTTPException(400, "the form must be UTF-8")


def check_json(body: bytes) -> None:
    """Raises HTTPException 400 for what is no JSON (RFC 8259), `Invalid` for text that the ledger cannot hold.

    A name that stands twice in an object is refused: two who read it may take different ones.
    """
    try:
        text = body.decode()
        found = json.loads(
            text, object_pairs_hook=once_each, parse_constant=_no_number, parse_float=_float, parse_int=_integer
        )
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not UTF-8") from None
    except RecursionError:
        raise HTTPException(400, f"the body is nested deeper than {DEEPEST}") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if text.count("[") + text.count("{") <= DEEPEST and not _ODD.search(text):
        return
    for path, value in _all_of(found):
        if len(path) > DEEPEST:
            raise HTTPException(400, f"the body is nested deeper than {DEEPEST}")
        if isinstance(value, str) and not _can_be_kept(value):
            raise Invalid(".".join(path) or "body", "must have no NUL (U+0000) and no half of a surrogate pair in it")
        if path and not _can_be_kept(path[-1]):
            raise Invalid(
                ".".join(path[:-1]) or "body", "must have no name with NUL (U+0000) or half of a surrogate pair in it"
            )


def _all_of(found: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with where it stands, without recursion."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), found)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [((*path, name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, str(at)), inner) for at, inner in enumerate(value)]


def _can_be_kept(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these. Raises ValueError for a name that stands twice in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError("a number is too long")
    return int(text)
