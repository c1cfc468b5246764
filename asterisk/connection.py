"""One kept AMI connection to one Asterisk, which never lies about what was sent.

The one wrapper of panoramisk: its protocol and its message classes frame, parse and render AMI; all that decides
(reconnecting, futures, order, deadlines) is here, because panoramisk's own manager sends unanswered actions again after
a reconnect, and a second Originate is a second phone call.

          start()                  Login accepted          FullyBooted
    down ─────────▶ connecting ──────────────▶ booting ───────────────▶ up
      ▲                 │ refused, timeout         │ ended, too long      │ ended, no answer to Ping,
      └── back-off ◀────┴──────────────────────────┴──────────────────────┘ on_event said False

    AmiError (from `asterisk.ami`)
    ├── NeverSent         not one byte left: the link was down, or the input was refused (Unwritable)
    ├── MaybeSent         written, then the link was lost or the deadline passed; Asterisk may have acted
    ├── Refused           Asterisk answered Response: Error (see `.message`)
    └── LoginRefused      the user or the secret is wrong; tried again slowly

- An action is written at most once. Whoever waits for one when the link ends gets `MaybeSent` or `NeverSent`, at once.
- `on_event` is called only between `on_up` and `on_down`, in the order of the wire. Anything before or after is a gap,
  and the caller's to reconcile.
- The AMI user needs class `system` in `read`: without it Asterisk never says FullyBooted, and while it boots it takes
  logins and refuses calls. (CoreStatus would ask for a class that a sender does not need.)
- Not thread-safe: everything runs on the loop that called `start`; `AmiPool` is for threads.
- Neither logs nor errors contain a header's value: numbers and secrets travel in them. Errors name no address either: what
  became of an attempt is told to people who need not know where Asterisk is.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import random
import socket
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import structlog
from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.message import Message

from asterisk.ami import (
    AmiError,
    AmiMessage,
    AmiResponse,
    Headers,
    LoginRefused,
    MaybeSent,
    NeverSent,
    Refused,
    writable,
)
from models.settings import Login

__all__ = [
    "AmiConnection",
    "AmiError",
    "AmiMessage",
    "AmiResponse",
    "Headers",
    "LoginRefused",
    "MaybeSent",
    "NeverSent",
    "Refused",
    "Timings",
]

logger = structlog.get_logger(__name__)
logging.getLogger("panoramisk").setLevel(logging.WARNING)  # at INFO and DEBUG it logs whole actions, secrets included

_LONGEST_MESSAGE = 1 << 20  # characters without an end of message: that is no AMI server


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long to wait for what."""

    connect: timedelta = timedelta(seconds=5)  # for TCP, and again for the answer to Login (a refusal takes 1 s)
    boot: timedelta = timedelta(seconds=60)  # for FullyBooted; then a new login, whose FullyBooted passes event filters
    ping_interval: timedelta = timedelta(seconds=5)
    ping_deadline: timedelta = timedelta(seconds=5)
    back_off_min: timedelta = timedelta(milliseconds=200)
    back_off_max: timedelta = timedelta(seconds=10)
    action: timedelta = timedelta(seconds=10)


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    """An action that was written; `rows` collects the events of a list action."""

    action: str
    since: float
    answer: asyncio.Future[AmiResponse]
    rows: list[AmiMessage] | None


class AmiConnection:
    """A kept connection to one Asterisk, coming back by itself until `stop`.

    `on_event` must not block. False from it means "I cannot take this": the link is ended and made anew, so that the
    gap shows. An exception from it is logged and the stream goes on. `events` is the classes asked for at login
    ("on": all that the user may read; a connection that only sends wants no more than "system").
    `on_up` and `on_down` alternate; `on_down` gets the reason.
    `max_in_flight` actions may wait for their answer at once; more wait for their turn within their deadline.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        login: Login,
        on_event: Callable[[AmiMessage], bool | None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
        events: str = "on",
        timings: Timings = Timings(),
        max_in_flight: int = 64,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.last_error: AmiError | None = None
        self._host, self._port, self._login, self._events = host, port, login, events
        self._on_event, self._on_up, self._on_down = on_event, on_up, on_down
        self._timings, self._max_in_flight = timings, max_in_flight
        self._clock, self._jitter, self._pause = clock, jitter, pause
        self._log = logger.bind(host=host, port=port, user=login.username)
        self._link: _Link | None = None  # set only while up
        self._up_since: float | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Logged in, Asterisk fully booted, and no Ping unanswered."""
        return self._link is not None

    @property
    def unanswered_for(self) -> float:
        """Seconds since the oldest action that waits for its answer was written; 0 when none does."""
        return self._link.unanswered_for if self._link else 0.0

    async def start(self) -> None:
        """Begin connecting, and keep at it; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_connected(), name=f"ami-{self._host}:{self._port}")

    async def stop(self) -> None:
        """Close the link and plan no other. Actions that wait get `MaybeSent`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def wait_up(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - the deadline decides the error raised
        """Return once the connection is up.

        Raises `LoginRefused` as soon as that is known, `NeverSent` with the last error after `timeout`.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                while not self.is_up:
                    if isinstance(self.last_error, LoginRefused):
                        raise LoginRefused(str(self.last_error))
                    await self._changed.wait()
        except TimeoutError:
            raise NeverSent(f"AMI is not up: {self.last_error or 'still connecting'}") from None

    async def action(
        self,
        name: str,
        headers: Headers = (),
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 - never or maybe sent: only we know
    ) -> AmiResponse:
        """Write one action, once, and return the first Response to it.

        An Originate is always sent with `Async: true`; its outcome comes as events, to whoever listens.
        Raises `NeverSent`, `MaybeSent` or `Refused`.
        """
        return await self._up_link().exchange(name, headers, timeout or self._timings.action)

    async def collect(
        self,
        name: str,
        headers: Headers = (),
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 - as in `action`
    ) -> list[AmiMessage]:
        """Write one list action and return its events, without the one that completes the list.

        Raises as `action` does; a list that was cut short is `MaybeSent`, never a shorter list.
        """
        rows: list[AmiMessage] = []
        await self._up_link().exchange(name, headers, timeout or self._timings.action, rows=rows)
        return rows

    def _up_link(self) -> _Link:
        if self._link is None:
            raise NeverSent(f"AMI is not up: {self.last_error or 'not connected yet'}")
        return self._link

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            self._up_since = None
            try:
                await self._hold_one_link()
            except AmiError as error:
                self.last_error = error
            except Exception as error:  # a fault of ours must not leave a dead connection behind
                self.last_error = AmiError(f"unexpected {type(error).__name__}")
                self._log.error("ami_fault", error=type(error).__name__, where=_where(error))
            most = self._timings.back_off_max.total_seconds()
            if self._was_up_for(most):
                failures = 0
            delay = min(most, self._timings.back_off_min.total_seconds() * 2 ** min(failures, 30))
            if isinstance(self.last_error, LoginRefused):
                delay = most
            failures += 1
            self._pulse()
            self._log.warning("ami_not_connected", error=str(self.last_error), failures=failures)
            await self._pause(delay * (0.5 + self._jitter() / 2))

    def _was_up_for(self, seconds: float) -> bool:
        return self._up_since is not None and self._clock() - self._up_since >= seconds

    async def _hold_one_link(self) -> None:
        """Connect, log in, ping until the link ends. Always raises the reason."""
        connect = self._timings.connect
        link = _Link(self._went_up, self._went_down, self._take_event, self._max_in_flight)
        try:
            async with asyncio.timeout(connect.total_seconds()):
                await asyncio.get_running_loop().create_connection(lambda: link, self._host, self._port)
        except OSError as error:  # TimeoutError is one
            raise NeverSent(f"cannot connect: {_reason(error)}") from error  # it is kept and shown: no address in it
        try:
            login = {"Username": self._login.username, "Secret": self._login.secret, "Events": self._events}
            try:
                await link.exchange("Login", login, connect, urgent=True)
            except Refused as refusal:
                raise LoginRefused(f"AMI user {self._login.username!r}: {refusal.message}") from None
            if not self.is_up:
                self.last_error = AmiError("logged in, no FullyBooted yet (booting, or no class system in read)")
            boot_until = self._clock() + self._timings.boot.total_seconds()
            while not link.ended.done():
                if not self.is_up and self._clock() >= boot_until:
                    link.end("no FullyBooted in time: Asterisk hangs, or the AMI user has no class system in read")
                await asyncio.wait({link.ended}, timeout=self._timings.ping_interval.total_seconds())
                if not link.ended.done():
                    await self._ping(link)
            raise AmiError(link.ended.result())
        finally:
            link.end("stopped")

    async def _ping(self, link: _Link) -> None:
        """End the link when its Ping has no answer in time: nothing else ever notices a half-open peer."""
        try:
            await link.exchange("Ping", (), self._timings.ping_deadline, urgent=True)
        except Refused:
            pass  # an answer all the same
        except AmiError:
            link.end(f"no answer to Ping within {self._timings.ping_deadline.total_seconds():g} s")

    def _went_up(self, link: _Link) -> None:
        self._link, self._up_since, self.last_error = link, self._clock(), None
        self._pulse()
        self._log.info("ami_up")
        self._call("on_up", self._on_up)

    def _went_down(self, link: _Link, reason: str) -> None:
        if self._link is link:
            self._link, self.last_error = None, AmiError(reason)
            self._log.warning("ami_down", reason=reason)
            self._call("on_down", lambda: self._on_down(reason))

    def _take_event(self, link: _Link, event: AmiMessage) -> None:
        if self._link is link and self._call(event.name, lambda: self._on_event(event)) is False:
            link.end("the events were more than could be taken in")

    def _call(self, what: str, callback: Callable[[], bool | None]) -> bool | None:
        """Call the user's function; its exception would otherwise close the link."""
        try:
            return callback()
        except Exception as error:
            self._log.error("ami_callback_failed", what=what, error=type(error).__name__, where=_where(error))
            return None

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Link(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """One TCP connection, from connect to its end; knows who waits for which ActionID."""

    encoding = "utf8"

    def __init__(
        self,
        on_up: Callable[[_Link], None],
        on_end: Callable[[_Link, str], None],
        on_event: Callable[[_Link, AmiMessage], None],
        max_in_flight: int,
    ) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_up, self._on_end, self._on_event = on_up, on_end, on_event
        self._decoder = codecs.getincrementaldecoder("utf8")(errors="replace")
        self._waiting: dict[str, _Waiting] = {}
        self._in_flight = asyncio.Semaphore(max_in_flight)
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._own_ids, self._ids_given = uuid.uuid4().hex, 0
        self._logged_in = self._booted = False

    async def exchange(
        self,
        name: str,
        headers: Headers,
        within: timedelta,
        *,
        rows: list[AmiMessage] | None = None,
        urgent: bool = False,
    ) -> AmiResponse:
        """Write the action and wait for its Response (with `rows`: for the end of its list, events into `rows`).

        `urgent` goes past the actions that wait for their turn.
        """
        fields = writable(name, headers)
        if rows is not None and "ActionID" in fields:
            raise NeverSent(f"{name}: a list action takes an ActionID of ours")
        self._ids_given += 1
        kind = "one" if rows is None else "list"
        action_id = str(fields.setdefault("ActionID", f"{self._own_ids}-{kind}-{self._ids_given}"))
        waiting: _Waiting | None = None
        try:
            async with asyncio.timeout(within.total_seconds()), nullcontext() if urgent else self._in_flight:
                await self._may_write.wait()
                if self.ended.done():
                    raise NeverSent(f"{name}: {self.ended.result()}")
                if action_id in self._waiting:
                    raise NeverSent(f"{name}: an action with this ActionID is in flight")
                loop = asyncio.get_running_loop()
                waiting = _Waiting(action=name, since=loop.time(), answer=loop.create_future(), rows=rows)
                self._waiting[action_id] = waiting
                self.transport.write(str(Action(fields)).encode())
                return await waiting.answer
        except TimeoutError:
            late = f"{name}: no answer within {within.total_seconds():g} s"
            raise NeverSent(f"{late}, nothing was written") if waiting is None else MaybeSent(late) from None
        finally:
            if waiting is not None:
                self._waiting.pop(action_id, None)

    @property
    def unanswered_for(self) -> float:
        oldest = next(iter(self._waiting.values()), None)  # they stand in the order in which they were written
        return asyncio.get_running_loop().time() - oldest.since if oldest else 0.0

    def end(self, reason: str) -> None:
        """Close at once, fail whoever waits. Only the first reason counts."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self.transport.abort()
        self._may_write.set()  # wakes those who have written nothing: they see `ended`
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(MaybeSent(f"{waiting.action}: link lost before the answer: {reason}"))
        self._on_end(self, reason)

    # what asyncio calls

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"connection lost: {exc or 'closed by Asterisk'}")

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        # panoramisk decodes segment by segment and drops what is cut: hand it whole characters only
        super().data_received(self._decoder.decode(data).encode())
        if len(self.queue[-1]) > _LONGEST_MESSAGE:
            self.end("a message without an end: this is no AMI server")

    # what panoramisk calls

    def handle_message(self, message: Message) -> None:
        headers = {
            name.lower(): value if isinstance(value, str) else "\n".join(value) for name, value in message.items()
        }
        if "event" in headers:  # OriginateResponse has a header Response as well
            self._event(AmiMessage(name=headers["event"], headers=headers))
        else:
            self._response(AmiResponse(success=message.success, message=headers.get("message", ""), headers=headers))

    def _response(self, response: AmiResponse) -> None:
        waiting = self._waiting.get(response.headers.get("actionid", ""))
        if waiting is None or waiting.answer.done():
            logger.info("ami_late_response", success=response.success)  # its action has timed out, or it has none
        elif not response.success:
            waiting.answer.set_exception(Refused(waiting.action, response.message))
        elif waiting.rows is None:
            self._logged_in = self._logged_in or waiting.action == "Login"
            waiting.answer.set_result(response)

    def _event(self, event: AmiMessage) -> None:
        action_id = event.get("ActionID")
        if action_id.startswith(self._own_ids + "-list-"):
            waiting = self._waiting.get(action_id)
            if waiting is None or waiting.rows is None or waiting.answer.done():
                return  # nobody waits for this list any more
            if event.name.endswith("Complete") or event.get("EventList").lower() == "complete":
                waiting.answer.set_result(AmiResponse(success=True, message="", headers=event.headers))
            else:
                waiting.rows.append(event)
        elif event.name == "FullyBooted" and self._logged_in and not self._booted:
            self._booted = True
            self._on_up(self)
        else:
            self._on_event(self, event)


def _reason(error: OSError) -> str:
    """Why there is no connection; asyncio's own text names the address."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if error.errno is not None:
        return os.strerror(error.errno)
    return "no answer" if isinstance(error, TimeoutError) else "none of its addresses takes it"


def _where(error: BaseException) -> list[str]:
    """The traceback without the exception's text, which may quote a header."""
    return traceback.format_tb(error.__traceback__)[-3:]
