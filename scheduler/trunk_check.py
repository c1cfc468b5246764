"""Is a trunk fit to call with? Each gateway is looked at, and the calls are asked what they have shown.

A point is `ok` where something was seen to hold, `wrong` where something was seen not to, with what to do,
and `unknown` where nothing was seen: a carrier may ignore OPTIONS, and only a call shows whether a password
is right. Only Postgres is needed; a test call needs everything up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine, select

from models.errors import Conflict, Invalid, TrunklineError
from models.findings import Verdict
from models.schema import trunk_gateways
from models.settings import Settings
from models.slots import Slots
from models.statuses import FINAL, Status
from scheduler import agents, single, trunks
from scheduler.phone_numbers import e164
from scheduler.presence import require_asterisk
from scheduler.probe import Gateway, Viewpoint, probe
from scheduler.prober import record, transport_word
from scheduler.refs import Ref
from scheduler.stopping import hang_up
from scheduler.trunk_evidence import Attempt, attempts_of
from scheduler.trunk_points import Look, Point, points_of
from scheduler.trunks import Trunk

_AGENT, _PLAYS = "trunk-check", "playback://hello-world"
_TEST_CALL_LASTS = timedelta(seconds=60)  # beside the ringing: its turn, a sentence played, its end seen


@dataclass(frozen=True, kw_only=True)
class TrunkCheck:
    trunk: str
    points: tuple[Point, ...]

    @property
    def is_wrong(self) -> bool:
        return any(point.verdict is Verdict.WRONG for point in self.points)


def check(engine: Engine, settings: Settings, trunk_ref: Ref) -> TrunkCheck:
    """Looks at the trunk's gateways now, and at what its calls have shown. Raises `NotFound`.

    What was found of the gateways is written to `gateway_probes`, as the prober does.
    """
    with engine.begin() as connection:
        trunk = trunks.get(connection, trunk_ref)
        gateways = _gateways(connection, trunk)
        attempts = attempts_of(connection, trunk.id)
    looks = asyncio.run(_look_at(gateways, Viewpoint.of(settings)))
    with engine.begin() as connection:
        for look in looks:
            record(connection, look.id, look.found)
    now_valid = [attempt for attempt in attempts if attempt.initiated_at >= trunk.updated_at]
    return TrunkCheck(trunk=trunk.name, points=tuple(points_of(settings, trunk, looks, now_valid)))


def check_by_call(
    engine: Engine,
    settings: Settings,
    slots: Slots,
    trunk_ref: Ref,
    *,
    to: str,
    from_number: str | None = None,
    on_change: Callable[[single.CallState], None] = lambda _: None,
) -> TrunkCheck:
    """Calls `to` through the trunk, plays a sentence to whoever answers, waits for the end, then checks.

    `from_number` None is the trunk's first. Raises `NotFound`, `Invalid` for numbers that cannot be used,
    `Conflict` where somebody's agent has the name of ours, and `Unavailable` while no Asterisk is up.
    """
    number = e164(to)
    with engine.begin() as connection:
        trunk = trunks.get(connection, trunk_ref)
    caller = _caller(trunk, from_number)
    if caller is None or not trunk.is_active:
        sentence = "Not made: the trunk is off." if caller else "Not made: the trunk has no number to call from."
        return _and(check(engine, settings, trunk.id), Verdict.WRONG, sentence)
    with engine.begin() as connection:
        require_asterisk(connection)
        _have_agent(connection, settings)
        call_id = single.place(connection, phone_number=number, agent=_AGENT, from_number=caller)
    slots.wake()
    end = _wait_for_end(engine, settings, call_id, on_change)
    done = check(engine, settings, trunk.id)
    with engine.begin() as connection:
        made = [attempt for attempt in attempts_of(connection, trunk.id) if attempt.call_id == call_id]
    why = f"{end.status.value}. {end.explanation or ''}".strip()
    return _and(done, _of_test_call(end, made), f"{number}, called from {caller}: {why}")


def _have_agent(connection: Connection, settings: Settings) -> None:
    """Made by the first check. Raises `Conflict` for another one of that name: it is not ours to talk to people with."""
    with suppress(Conflict):
        agents.create(connection, settings, _AGENT, _PLAYS)
    connect = agents.get(connection, _AGENT).connect
    if connect != _PLAYS:
        raise Conflict(
            f"agent: a test call needs an agent {_AGENT!r} that connects to {_PLAYS}, and there is one that connects to"
            f" {connect}: change that back, or make yours anew under another name"
        )


def _and(done: TrunkCheck, verdict: Verdict, sentence: str) -> TrunkCheck:
    return replace(done, points=(*done.points, Point(verdict=verdict, about="test-call", sentence=sentence)))


def _caller(trunk: Trunk, from_number: str | None) -> str | None:
    """Raises `Invalid` for a number that is not the trunk's."""
    if from_number is None:
        return trunk.phone_numbers[0] if trunk.phone_numbers else None
    number = e164(from_number, field="from")
    if number not in trunk.phone_numbers:
        raise Invalid("from", f"{number} is not registered on trunk {trunk.name!r}: take one of its numbers")
    return number


def _wait_for_end(
    engine: Engine, settings: Settings, call_id: UUID, on_change: Callable[[single.CallState], None]
) -> single.CallState:
    """The end of the call, which is ended or taken back when it lasts too long."""
    state = single.wait(engine, call_id, on_change, within=settings.ring_timeout + _TEST_CALL_LASTS)
    if state.status in FINAL:
        return state
    with suppress(TrunklineError):  # over this very moment, or its end is seen later: it is said what is known
        hang_up(settings, call_id)
    waited = f"It had no turn in {settings.ring_timeout + _TEST_CALL_LASTS}: the trunk is full, or its gateways rest."
    return replace(
        state, explanation=waited if state.status is Status.SCHEDULED else "It lasted too long, and was ended."
    )


def _of_test_call(end: single.CallState, made: Sequence[Attempt]) -> Verdict:
    if any(attempt.got_through for attempt in made):
        return Verdict.OK
    return Verdict.WRONG if end.status is Status.FAILED else Verdict.UNKNOWN


def _gateways(connection: Connection, trunk: Trunk) -> dict[UUID, Gateway]:
    """In the order they are tried."""
    g = trunk_gateways.c
    rows = connection.execute(
        select(g.id, g.gateway_address, g.port).where(g.trunk_id == trunk.id).order_by(g.priority, g.id)
    )
    transport = transport_word(trunk.transport)
    return {row.id: Gateway(host=row.gateway_address, port=row.port, transport=transport) for row in rows}


async def _look_at(gateways: dict[UUID, Gateway], viewpoint: Viewpoint) -> list[Look]:
    found = await asyncio.gather(*(probe(gateway, viewpoint) for gateway in gateways.values()))
    return [Look(id=i, gateway=gateway, found=one) for (i, gateway), one in zip(gateways.items(), found, strict=True)]
