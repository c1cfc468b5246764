"""What an Asterisk says of itself over AMI, with the narrow classes that trunkline's users have.

    log in as listener and as sender ──▶ ask: version, start, which actions each user may do
                                     ──▶ Originate Local/doctor@trunkline-maintenance/n

That extension dials nobody and never answers: it reports, in events of its own, how this Asterisk is
set up and what it sees of the ledger, and leaves two rows in CEL under an id of ours. The id is not a
UUID, so no listener takes it for an attempt; it has a letter that is not ASCII, so that an encoding
that is wrong shows.

Facts only; what is right is for `trunkline doctor` to say.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote
from uuid import UUID

from asterisk.ami import AmiMessage
from asterisk.connection import AmiConnection, AmiError, LoginRefused, Timings
from models.settings import Login, Node

_ALIEN = "ü"
_UP_WITHIN = timedelta(seconds=4)
_ANSWER_WITHIN = timedelta(seconds=2)
_REPORT_WITHIN = timedelta(seconds=4)
CALL_EVENTS = frozenset({"Newchannel", "Hangup", "OriginateResponse"})
"""Of class call, without which no call's fate is heard; they come in no fixed order."""

_EXTENSION = "doctor"
_CONTEXT = "trunkline-maintenance"


@dataclass(frozen=True, kw_only=True)
class Access:
    """What became of one AMI user's login, and the names of the actions it may do."""

    user: str
    error: str | None = None
    refused: bool = False  #: the user or its secret is wrong
    actions: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Everything that could be found out; what could not is empty."""

    listener: Access
    sender: Access
    version: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)  #: CoreSettings, with lower-case names
    probe: str = ""  #: the id under which CEL rows are to be expected; empty when nothing was originated
    refusal: str | None = None  #: what Asterisk answered instead of running the extension
    heard: frozenset[str] = frozenset()  #: names of the events about the probe that reached the listener's user
    report: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  #: by part, what the extension said
    their_clock: datetime | None = None  #: Asterisk's own, when it reported; None with timestampevents off
    reported_at: datetime | None = None  #: our clock, between the Originate and its first event
    spread: timedelta = timedelta(0)  #: how far off `reported_at` can be


def inspect(node: Node, *, gateway_id: UUID | None = None) -> Inspection:
    """Looks at one Asterisk, in at most twelve seconds. Raises nothing that a network can cause."""
    return asyncio.run(_inspect(node, gateway_id))


async def _inspect(node: Node, gateway_id: UUID | None) -> Inspection:
    ears = _Ears()
    listener, sender = _connection(node, node.listener, ears), _connection(node, node.sender, None)
    try:
        hears, speaks = await asyncio.gather(_enter(listener, node.listener), _enter(sender, node.sender))
        found = Inspection(listener=hears, sender=speaks)
        if hears.error is None:
            settings = await _ask(listener, "CoreSettings")
            found = replace(found, version=settings.get("asteriskversion", ""), settings=settings)
        if hears.error is None and speaks.error is None:
            found = await _examine(found, ears, sender, gateway_id)
        return found
    finally:
        await asyncio.gather(listener.stop(), sender.stop())


def _connection(node: Node, login: Login, ears: _Ears | None) -> AmiConnection:
    return AmiConnection(
        host=node.host,
        port=node.port,
        login=login,
        events="on" if ears else "system",
        on_event=ears.hear if ears else lambda event: None,
        timings=Timings(connect=timedelta(seconds=3), action=_ANSWER_WITHIN),
    )


async def _enter(connection: AmiConnection, login: Login) -> Access:
    await connection.start()
    try:
        await connection.wait_up(_UP_WITHIN)
    except AmiError as error:
        return Access(user=login.username, error=str(error), refused=isinstance(error, LoginRefused))
    actions = await _ask(connection, "ListCommands")
    return Access(user=login.username, actions=frozenset(actions))


async def _ask(connection: AmiConnection, action: str) -> Mapping[str, str]:
    """The answer's headers with lower-case names; none where the user may not ask."""
    try:
        return (await connection.action(action)).headers
    except AmiError:
        return {}


async def _examine(found: Inspection, ears: _Ears, sender: AmiConnection, gateway_id: UUID | None) -> Inspection:
    probe = f"doctor-{secrets.token_hex(8)}-{_ALIEN}"
    order = [
        ("ActionID", probe),
        ("ChannelId", probe),
        ("Channel", f"Local/{_EXTENSION}@{_CONTEXT}/n"),
        ("Context", _CONTEXT),
        ("Exten", _EXTENSION),
        ("Priority", "1"),
        ("Timeout", "3000"),
        ("Variable", f"TL_GATEWAY={gateway_id or ''}"),
    ]
    ears.listen_for(probe)
    before = datetime.now(UTC)
    try:
        await sender.action("Originate", order)
    except AmiError as error:
        return replace(found, refusal=getattr(error, "message", str(error)))
    with suppress(TimeoutError):
        await asyncio.wait_for(ears.complete.wait(), _REPORT_WITHIN.total_seconds())
    after = ears.first_at or datetime.now(UTC)
    return replace(
        found,
        probe=probe,
        heard=frozenset(ears.heard),
        report={part: dict(values) for part, values in ears.report.items()},
        their_clock=ears.their_clock,
        reported_at=before + (after - before) / 2,
        spread=(after - before) / 2,
    )


class _Ears:
    """Collects what the listener's user hears of one probe."""

    def __init__(self) -> None:
        self.complete = asyncio.Event()
        self.heard: set[str] = set()
        self.report: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.first_at: datetime | None = None
        self.their_clock: datetime | None = None
        self._probe: str | None = None

    def listen_for(self, probe: str) -> None:
        self._probe = probe

    def hear(self, event: AmiMessage) -> None:
        if self._probe is None or self._probe not in (
            event.get("Linkedid"),
            event.get("Uniqueid"),
            event.get("ActionID"),
        ):
            return
        self.heard.add(event.name)
        if event.name == "UserEvent" and event.get("UserEvent") == "Doctor":
            if self.first_at is None:
                self.first_at = datetime.now(UTC)
                with suppress(ValueError):
                    self.their_clock = datetime.fromtimestamp(float(event.get("Timestamp")), UTC)
            said = {name: unquote(value) for name, value in event.headers.items() if name not in _OF_EVERY_EVENT}
            self.report[event.get("part")] |= said
        if "end" in self.report and self.heard >= CALL_EVENTS:
            self.complete.set()


_OF_EVERY_EVENT = frozenset({
    "event", "privilege", "timestamp", "userevent", "part", "channel", "channelstate", "channelstatedesc", "calleridnum",
    "calleridname", "connectedlinenum", "connectedlinename", "language", "accountcode", "context", "exten", "priority",
    "uniqueid", "linkedid", "content",
})  # fmt: skip
