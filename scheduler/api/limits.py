"""How many requests may come: of a key, of an address, at once, of a kind that takes long at once.

Kept in the process: each of several has limits of its own, and forgets them when it ends.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.exceptions import HTTPException

from models.errors import Unavailable
from models.settings import Settings

_ASK_AGAIN = "1"  # second: a place is free as soon as any request has its answer


class Hands:
    """For what keeps one of the routes' threads for long: so many at once, and the others are left to the rest. Thread-safe."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._free = threading.BoundedSemaphore(most)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises `Unavailable` while too many are under way."""
        if not self._free.acquire(blocking=False):
            raise Unavailable(f"{self._most} {self._what} are under way: try again in a moment")
        try:
            yield
        finally:
            self._free.release()


CHECKS = Hands(8, "checks of trunks")
STOPS = Hands(16, "stops")
"""Pauses, hang-ups and decisions too: each waits up to some fifteen seconds for claims in hand and for nodes."""

UPLOADS = Hands(16, "uploads")
"""Their bodies coming, kept, or being loaded: what they take of the disk together is bounded."""


class Limits:
    """Raises HTTPException 429 and 503, with when to ask again."""

    def __init__(self, settings: Settings) -> None:
        # two counts a client; the library's moving window keeps every moment, and tidies up in threads
        self._rates = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._of_a_key = RateLimitItemPerMinute(settings.api_requests_per_minute, namespace="key")
        self._of_strangers = RateLimitItemPerMinute(settings.api_strangers_requests_per_minute, namespace="address")
        self._most = settings.api_requests_at_once
        self._at_once = 0

    async def count_key(self, key: str) -> None:
        if not await self._rates.hit(self._of_a_key, key):
            raise await self._too_many(self._of_a_key, key)

    async def count_stranger(self, address: str) -> None:
        if not await self._rates.hit(self._of_strangers, address):
            raise await self._too_many(self._of_strangers, address)

    async def check_stranger(self, address: str) -> None:
        """Counts nothing: it may turn out to be no stranger."""
        if not await self._rates.test(self._of_strangers, address):
            raise await self._too_many(self._of_strangers, address)

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._at_once >= self._most:
            raise HTTPException(503, "too many requests at once", {"Retry-After": _ASK_AGAIN})
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    async def _too_many(self, limit: RateLimitItemPerMinute, who: str) -> HTTPException:
        free_at = (await self._rates.get_window_stats(limit, who)).reset_time
        wait = max(1, math.ceil(free_at - time.time()))
        return HTTPException(429, f"more than {limit.amount} requests a minute", {"Retry-After": str(wait)})


def address_of(client: tuple[str, int] | None) -> str:
    """Who counts as one: an IPv4 address, or the /64 that an IPv6 host has for itself."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # what a proxy has said
        return host[:64]
    return host if address.version == 4 else str(ipaddress.IPv6Network((int(address), 64), strict=False))
