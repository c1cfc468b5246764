"""AMI for threads: what the Celery worker and the command line send with.

One background thread runs the asyncio side; every node gets one kept connection per AMI user, opened at first use.
Callers wait for it only in its first `Timings.connect`; after that a node that is down is `NeverSent` at once, and its
connection comes back by itself.

- An Originate is written at most once; nothing here ever retries.
- Everything on the line is checked here for the last time: with `Channel: PJSIP/...` no dialplan runs before the answer.
- Originate and Hangup use the node's `sender`; the list of channels needs class `reporting` in `write`, which only the
  `listener` has.
- A pool does not survive a fork: make one in the process that uses it.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypeVar, TypeVarTuple
from uuid import UUID

import structlog
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asterisk.ami import TooLate, Unwritable
from asterisk.connection import AmiConnection, AmiError, LoginRefused, MaybeSent, NeverSent, Refused, Timings
from models.settings import Login, Node

__all__ = ["Accepted", "AmiError", "AmiPool", "MaybeSent", "NeverSent", "Originate", "Refused"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = structlog.get_logger(__name__)

_ATTEMPT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # one fixed length: Asterisk compares by prefix
_ENDPOINT = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # no `/`, `@`, `&`: each would make it another dial string
_CONTEXT = re.compile(r"trunkline-agent")  # of ours the only one that talks to people
_EXTEN = re.compile(r"[A-Za-z0-9_.+*#-]{1,79}")
_FAMILY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MARKS = re.compile(r"att[0-9]{10}")
_CALLER_ID = re.compile(r"\+[1-9][0-9]{6,14}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")  # no functions: NAME(...) would run one
# an agent's address, a sound, a number: no `,` or `;` to split at, no quote, and no `$`, `{` or `(` to be evaluated
_VALUE = re.compile(r"[A-Za-z0-9_.:/&*#+\[\]-]*")
_MOST_VARIABLES = 64
_HANGS_AFTER = 0.5  # seconds
_TIMERS_ARE_LATE = 0.002  # seconds, epoll's being whole milliseconds: added up, turns would pass that nobody has missed
_SENDING = Timings(
    # Asterisk answers an asynchronous Originate at once; one that it answers later is dialled all the same, and heard.
    # Meanwhile a thread waits here that could send to another node.
    action=timedelta(seconds=3),
    ping_interval=timedelta(seconds=2),
    ping_deadline=timedelta(seconds=3),
)
_AT_THE_END = r"trunkline-end\,s\,1"  # a Variable is split at its commas, but not at these


@dataclass(frozen=True, kw_only=True)
class Originate:
    """One attempt, as Asterisk is asked for it.

    `attempt_id` becomes ActionID, ChannelId and the AOR that Asterisk looks up in the ledger: no dialled number is on the
    line. `caller_id` is a registered number in E.164 with `+`. The call is ended `ring_timeout + longest_call` after the
    channel was made. `mark_family` names the family of Asterisk's own database where the mark is written with the channel.
    A hangup handler is pushed as well: it runs at every end, before the Hangup event, and says what Asterisk knows then.
    """

    attempt_id: UUID
    endpoint: str
    context: str
    exten: str
    ring_timeout: timedelta
    caller_id: str
    longest_call: timedelta
    variables: Mapping[str, str]
    mark_family: str
    send_at: float = -math.inf  #: by `time.monotonic()`; not before
    too_late_at: float = math.inf  #: from then on it is `TooLate`
    line: str = ""  #: whose calls a second it counts among
    spacing: timedelta = timedelta(0)  #: at least so long after the last one of this line really left

    def headers(self) -> list[tuple[str, str]]:
        """The header lines, checked. Raises `Unwritable`, naming the field and never its value."""
        attempt = str(self.attempt_id)
        for what, value, pattern in (
            ("attempt id", attempt, _ATTEMPT),
            ("endpoint", self.endpoint, _ENDPOINT),
            ("context", self.context, _CONTEXT),
            ("extension", self.exten, _EXTEN),
            ("caller ID", self.caller_id, _CALLER_ID),
            ("mark family", self.mark_family, _FAMILY),
            *(("variable's name", name, _VARIABLE) for name in self.variables),
            *((f"variable {name:.80}", value, _VALUE) for name, value in self.variables.items()),
        ):
            if not pattern.fullmatch(value):
                raise Unwritable(f"attempt {attempt}: the {what} is not one that may be sent to Asterisk")
        ring_ms = self.ring_timeout // timedelta(milliseconds=1)
        if ring_ms <= 0 or self.longest_call <= timedelta(0):
            raise Unwritable(f"attempt {attempt}: no time to ring or to talk")
        variables = {
            "TIMEOUT(absolute)": str(math.ceil((self.ring_timeout + self.longest_call) / timedelta(seconds=1))),
            f"DB({self.mark_family}/{attempt})": "1",
            "CHANNEL(hangup_handler_push)": _AT_THE_END,
            **self.variables,
        }
        if len(variables) > _MOST_VARIABLES:
            raise Unwritable(f"attempt {attempt}: more than {_MOST_VARIABLES} variables")
        return [
            ("ActionID", attempt),
            ("ChannelId", attempt),
            ("Channel", f"PJSIP/{self.endpoint}/{attempt}"),
            ("Context", self.context),
            ("Exten", self.exten),
            ("Priority", "1"),
            ("Timeout", str(ring_ms)),
            ("CallerID", self.caller_id),
            *(("Variable", f"{name}={value}") for name, value in variables.items()),
            ("Async", "true"),
        ]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Asterisk has queued the call; whether it rings is seen in the events."""

    attempt_id: UUID


class AmiPool:
    """Synchronous, thread-safe AMI to all nodes. Once closed, every method raises `NeverSent`."""

    def __init__(self, nodes: Iterable[Node], *, timings: Timings | None = None) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._timings = timings or _SENDING
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._closed = False
        self._connections: dict[tuple[str, Login], AmiConnection] = {}
        self._last_sent: dict[str, float] = {}  # by line; loop time
        self._patient_until: dict[AmiConnection, float] = {}  # loop time

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_up(self, node: str, timeout: timedelta) -> None:
        """Return once calls can be sent to the node. Raises `LoginRefused` or `NeverSent`."""
        self._call(self._wait_up, node, timeout)

    def originate_many(self, orders: Sequence[tuple[str, Originate]]) -> list[Accepted | AmiError]:
        """Send all at the same time, each once, to the node it names; the results stand in the order of the orders.

        `Refused` with `is_nodes`, such as "Extension does not exist." from one that has just started, is the node's state,
        not the call's.
        """
        return self._call(self._originate_many, orders)

    def hang_up(self, node: str, attempt_id: UUID) -> bool:
        """End the attempt's call, ringing or up; False if there is no such channel (yet). Raises `AmiError`."""
        return self._call(self._hang_up, node, attempt_id)

    def channels(self, node: str) -> set[str]:
        """The attempts that have a channel now: every Uniqueid that is a UUID. Raises `AmiError`."""
        return self._call(self._channels, node)

    def forget_marks(self, node: str, family: str) -> None:
        """Have the dialplan delete a family of marks from Asterisk's own database: AMI's own action wants class system.

        Returns when Asterisk has accepted it. Raises `AmiError`.
        """
        self._call(self._forget_marks, node, family)

    def close(self) -> None:
        """Close every connection, then end the thread. Who still waits gets `MaybeSent` or `NeverSent`."""
        with self._lock:
            self._closed = True
            if self._portal is not None:
                self._portal.call(self._stop_all)
                self._portal = None
                self._stack.close()

    def _call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        with self._lock:
            if self._closed:
                raise NeverSent("the AMI pool is closed")
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name="ami-pool"))
            portal = self._portal
        try:
            return portal.call(function, *args)
        except RuntimeError as error:
            if self._closed:  # by another thread, before the function began
                raise NeverSent("the AMI pool is closed") from error
            raise

    # from here on everything runs in the background thread

    async def _connection(self, node_name: str, *, listener: bool = False) -> AmiConnection:
        node = self._nodes.get(node_name)
        if node is None:
            raise NeverSent(f"there is no Asterisk node {node_name!r}")
        if self._closed:
            raise NeverSent("the AMI pool is closed")
        login = node.listener if listener else node.sender
        connection = self._connections.get((node_name, login))
        if connection is None:
            connection = self._connections[node_name, login] = AmiConnection(
                host=node.host,
                port=node.port,
                login=login,
                events="system",  # FullyBooted, and none of the calls' events
                on_event=lambda event: None,
                timings=self._timings,
            )
            now = asyncio.get_running_loop().time()
            self._patient_until[connection] = now + self._timings.connect.total_seconds()
            await connection.start()
        return connection

    async def _ready(self, node_name: str, *, listener: bool = False) -> AmiConnection:
        """The connection, up or not: one that is new gets the time to come up, one that has failed does not."""
        connection = await self._connection(node_name, listener=listener)
        patience = self._patient_until[connection] - asyncio.get_running_loop().time()
        if not connection.is_up and patience > 0:
            try:
                await connection.wait_up(timedelta(seconds=patience))
            except LoginRefused as error:
                raise NeverSent(str(error)) from error
        return connection

    async def _stop_all(self) -> None:
        for connection in self._connections.values():
            await connection.stop()

    async def _wait_up(self, node: str, timeout: timedelta) -> None:  # noqa: ASYNC109 - passed on
        await (await self._connection(node)).wait_up(timeout)

    async def _originate_many(self, orders: Sequence[tuple[str, Originate]]) -> list[Accepted | AmiError]:
        return await asyncio.gather(*(self._originate(node, order) for node, order in orders))

    async def _originate(self, node: str, order: Originate) -> Accepted | AmiError:
        try:
            headers = order.headers()
            connection = await self._ready(node)
            await self._its_turn(order, connection)
            sent = asyncio.get_running_loop().time()
            await connection.action("Originate", headers)
            self._push_back(order, sent)
        except AmiError as error:
            return error
        except Exception as error:  # one fault must not hide what became of the other orders
            logger.error("ami_pool_fault", attempt=str(order.attempt_id), error=type(error).__name__)
            return MaybeSent(f"unexpected {type(error).__name__}")
        return Accepted(attempt_id=order.attempt_id)

    async def _its_turn(self, order: Originate, connection: AmiConnection) -> None:
        """One that leaves late pushes back those behind it, instead of letting them catch up.

        Raises `TooLate`; or `NeverSent` while the link answers nothing: what is written now would reach Asterisk in one
        moment with all that was written before, faster than the trunk allows.
        """
        while (now := time.monotonic()) < order.too_late_at:
            due = max(order.send_at, self._last_sent.get(order.line, -math.inf) + order.spacing.total_seconds())
            if connection.unanswered_for > _HANGS_AFTER:
                raise NeverSent(f"it has answered nothing for {connection.unanswered_for:.1f} s")
            if now >= due:
                self._last_sent[order.line] = due if now - due < _TIMERS_ARE_LATE else now
                return
            await asyncio.sleep(due - now)
        raise TooLate("its turn has passed")

    def _push_back(self, order: Originate, sent: float) -> None:
        """One whose answer was late may have reached Asterisk only now, with others: the next waits longer for each of them."""
        now = asyncio.get_running_loop().time()
        if now - sent > _HANGS_AFTER:
            last = max(self._last_sent.get(order.line, -math.inf), time.monotonic())
            self._last_sent[order.line] = last + order.spacing.total_seconds()

    async def _hang_up(self, node: str, attempt_id: UUID) -> bool:
        if not _ATTEMPT.fullmatch(str(attempt_id)):
            raise Unwritable("the attempt id is not a UUID")  # Channel could also be a /regular expression/
        try:
            await (await self._ready(node)).action("Hangup", {"Channel": str(attempt_id), "Cause": "16"})
        except Refused as refusal:
            if refusal.message.lower().startswith("no such channel"):
                return False
            raise
        return True

    async def _forget_marks(self, node: str, family: str) -> None:
        if not _MARKS.fullmatch(family):
            raise Unwritable("the family is not one of marks")
        channel = f"Local/{family}@trunkline-maintenance/n"
        await (await self._ready(node)).action("Originate", {"Channel": channel, "Application": "Hangup"})

    async def _channels(self, node: str) -> set[str]:
        rows = await (await self._ready(node, listener=True)).collect("CoreShowChannels")
        return {row.get("Uniqueid") for row in rows if _ATTEMPT.fullmatch(row.get("Uniqueid"))}
