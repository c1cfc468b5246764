"""`trunkline campaign status --watch`: a campaign as it goes, from counts alone."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta

import redis
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from models.errors import Invalid
from models.settings import Settings
from models.slots import Away, Slots, connect
from scheduler import campaigns, trunk_health
from scheduler.campaigns import Counts, TrunkInUse
from scheduler.cli import terminal

_EVERY = 0.5  # seconds
_WINDOW = 10.0  # seconds that rates are taken over
_ENDS = ("completed", "busy", "no_answer", "failed", "canceled", "unknown")


@dataclass(kw_only=True)
class Pace:
    """How fast counts change, over the last seconds. Clocks are passed in, monotonic, in seconds."""

    _seen: deque[tuple[float, int, int]] = field(default_factory=deque)

    def see(self, counts: Counts, at: float) -> None:
        self._seen.append((at, counts.over + counts.up, counts.over))
        while len(self._seen) > 2 and at - self._seen[1][0] >= _WINDOW:
            self._seen.popleft()

    @property
    def started_a_second(self) -> float:
        """Calls sent to Asterisk."""
        return self._rate(1)

    def time_left(self, counts: Counts) -> timedelta | None:
        """Until every call is over at this pace; None while there is no pace."""
        ended_a_second = self._rate(2)
        if ended_a_second <= 0:
            return None
        return timedelta(seconds=math.ceil((counts.total - counts.over) / ended_a_second))

    def _rate(self, column: int) -> float:
        if len(self._seen) < 2:
            return 0.0
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return max(0.0, (last[column] - first[column]) / seconds) if seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class View:
    """One look: the counts, the slots in use of each trunk (None: Redis does not say), why trunks have paused by themselves."""

    counts: Counts
    slots: Mapping[TrunkInUse, int | None]
    pauses: tuple[str, ...] = ()


def watch(engine: Engine, settings: Settings, name: str) -> None:
    """Shows the campaign until it is final; Ctrl-C ends the watching only.

    Raises `NotFound`, and what SQLAlchemy raises when Postgres goes away.
    """
    screen = terminal.screen()
    views = _views(engine, settings, name)
    if not screen.is_terminal:
        _tell_changes(views)
        return
    pace = Pace()
    with Live(console=screen, auto_refresh=False) as live:
        for view in views:
            pace.see(view.counts, time.monotonic())
            live.update(render(view, pace), refresh=True)


def summary(counts: Counts) -> str:
    """The counts as a line, without what is 0."""
    parts = [(counts.scheduled, "scheduled"), (counts.queued, "queued"), (counts.up, "up")]
    parts += [(getattr(counts, end), end.replace("_", "-")) for end in _ENDS]
    told = ", ".join(f"{number} {word}" for number, word in parts if number)
    return f"{counts.status}: {counts.over} of {counts.total} over" + (f"; {told}" if told else "")


def render(view: View, pace: Pace) -> RenderableType:
    """The picture on a terminal; `Text` takes names as they are."""
    counts = view.counts
    left = pace.time_left(counts)
    bar = Table.grid(padding=(0, 1))  # a bar alone has no end of line
    bar.add_row(
        ProgressBar(total=max(1, counts.total), completed=counts.over, width=50),
        Text(f"{counts.over / max(1, counts.total):.0%}"),
    )
    return Group(
        Text(terminal.shown(counts.name), style="bold", no_wrap=True, overflow="ellipsis"),
        bar,
        Text(summary(counts)),
        *([Text(terminal.shown(counts.pause_reason))] if counts.pause_reason else []),
        *(Text(f"trunk {terminal.shown(trunk.name)}: {_used(trunk, used)}") for trunk, used in view.slots.items()),
        *(Text(terminal.shown(pause)) for pause in view.pauses),
        Text(
            "" if counts.is_final else f"{pace.started_a_second:.1f} calls/s, {left if left is not None else '?'} left"
        ),
    )


def _used(trunk: TrunkInUse, used: int | None) -> str:
    if used is None:
        return "slots in use are not known, Redis does not answer"
    return f"{used} of {trunk.max_concurrent_calls} slots in use"


def _tell_changes(views: Iterator[View]) -> None:
    told: tuple[Counts, tuple[str, ...]] | None = None
    for view in views:
        if (view.counts, view.pauses) != told:
            told = (view.counts, view.pauses)
            reasons = [reason for reason in (view.counts.pause_reason, *view.pauses) if reason]
            terminal.say("; ".join([f"{view.counts.updated_at:%H:%M:%S} {summary(view.counts)}", *reasons]))


def _views(engine: Engine, settings: Settings, name: str) -> Iterator[View]:
    """One look every half second, the last one when the campaign is final."""
    with closing(_Used(settings)) as used:
        while True:
            with engine.connect() as connection:
                counts = campaigns.counts(connection, name)
                trunks = campaigns.trunks_of(connection, name)
                health = trunk_health.of_gateways(connection, [trunk.id for trunk in trunks])
            pauses = () if counts.is_final else tuple(pause.sentence for pause in trunk_health.pauses(health))
            yield View(counts=counts, slots={trunk: used.of(trunk) for trunk in trunks}, pauses=pauses)
            if counts.is_final:
                return
            time.sleep(_EVERY)


class _Used:
    """Slots in use, as far as Redis says; it is for people, so nothing ends when it does not."""

    def __init__(self, settings: Settings) -> None:
        try:
            url = settings.redis_url.get_secret_value() if settings.redis_url else None
            self._client: redis.Redis | None = connect(url) if url else None
        except Invalid:
            self._client = None

    def of(self, trunk: TrunkInUse) -> int | None:
        if self._client is None:
            return None
        try:
            return Slots(self._client).in_use("trunk", trunk.id)
        except Away:
            return None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
