"""Why nothing, or not more, of a campaign is being dialled right now: every limit and condition, with its counts.

For the command line and the HTTP API alike. It looks at what the leader looks at, a moment later, and decides nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, select

from models import roles
from models.findings import in_utc
from models.nodes import BreakerState, breakers, live_nodes
from models.schema import agents, campaigns, phone_numbers, trunks
from models.slots import Away, Slots
from models.statements import statement
from models.statuses import CampaignStatus
from scheduler import campaigns as campaign_rows
from scheduler import trunk_health
from scheduler.campaigns import Counts
from scheduler.refs import Ref

_UNCLAIMED_FOR = timedelta(seconds=3)

S = CampaignStatus


@dataclass(frozen=True, kw_only=True)
class Holdup:
    """One reason. `what` is a word for programs, `sentence` says it to a person, with what to do where that helps."""

    what: str
    sentence: str
    count: int | None = None
    limit: int | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class CampaignNow:
    """How a campaign is going, and what holds it back; nothing does where `holdups` is empty."""

    counts: Counts
    holdups: Sequence[Holdup]


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """What Redis is to be asked: how much of it is used."""

    kind: str
    id: str | UUID
    most: int
    whose: str
    calls_per_second: float | None = None


def explain(engine: Engine, slots: Slots | None, campaign: Ref) -> CampaignNow:
    """`slots` is None where there is no Redis. Redis is asked when the transaction is over: it may hang. Raises `NotFound`."""
    with engine.begin() as connection:
        counts = campaign_rows.counts(connection, campaign)
        if counts.status != S.RUNNING:
            return CampaignNow(counts=counts, holdups=[_not_running(connection, counts)])
        of_ledger = list(_of_ledger(connection, counts))
        limits = list(_limits(connection, counts))
    return CampaignNow(counts=counts, holdups=[*of_ledger, *_of_redis(slots, limits)])


def _of_ledger(connection: Connection, counts: Counts) -> Iterator[Holdup]:
    facts: Any = connection.exec_driver_sql(
        statement("holdups"), {"campaign": counts.campaign_id, "unclaimed_for": _UNCLAIMED_FOR}
    ).one()
    yield from _nothing_due(counts, facts)
    yield from _nobody_works(connection, facts)
    yield from _trunks(connection, counts)
    if facts.hand_overs:
        yield Holdup(
            what="next-gateway",
            sentence=f"{_calls(facts.hand_overs)} on the way to the next gateway of the trunk.",
            count=facts.hand_overs,
        )
    if facts.held:
        yield Holdup(
            what="unknown",
            sentence=f"{_calls(facts.held)} with an end that was not seen, each of which holds its slot for a while.",
            count=facts.held,
        )


def _of_redis(slots: Slots | None, limits: Sequence[_Limit]) -> Iterator[Holdup]:
    if slots is None:
        yield Holdup(what="no-redis", sentence="Redis is not running: start it with `trunkline up`.")
        return
    try:
        slots.in_use("trunk", "any")  # whether it answers, also where nothing has a limit
        for limit in limits:
            yield from _reached(slots, limit)
    except Away:
        sentence = "Redis does not answer, and in doubt nothing is granted: `trunkline doctor` looks at it."
        yield Holdup(what="no-redis", sentence=sentence)


def _not_running(connection: Connection, counts: Counts) -> Holdup:
    row = connection.execute(
        select(campaigns.c.pause_reason, campaigns.c.scheduled_at).where(campaigns.c.id == counts.campaign_id)
    ).one()
    name = shlex.quote(counts.name)
    match S(counts.status):
        case S.LOADING:
            sentence = f"It is being uploaded: {counts.total} rows so far."
        case S.READY if row.scheduled_at is not None:
            sentence = f"It starts by itself at {in_utc(row.scheduled_at)}, with {_calls(counts.scheduled)}."
        case S.READY:
            sentence = f"It was not started yet: `trunkline campaign start {name}`. {_calls(counts.scheduled)} waiting."
        case S.PAUSED:
            why = row.pause_reason or "It was paused by an operator."
            sentence = f"{why} `trunkline campaign resume {name}` goes on with {_calls(counts.scheduled)}."
        case S.STOPPED:
            sentence = "It was stopped by an operator, for good."
        case _:
            sentence = f"It is over: each of its {_calls(counts.total)} has had its end."
    if counts.up:
        sentence += f" {_calls(counts.up)} still up."
    until = row.scheduled_at if counts.status == S.READY else None
    return Holdup(what=counts.status, sentence=sentence, count=counts.scheduled, until=until)


def _nothing_due(counts: Counts, facts: Any) -> Iterator[Holdup]:
    if not counts.scheduled:
        yield Holdup(what="nothing-left", sentence=f"Nobody is left to be called; {_calls(counts.up)} up.", count=0)
    elif facts.next_due_at is not None and facts.next_due_at > datetime.now(UTC) and not facts.hand_overs:
        yield Holdup(
            what="nothing-due",
            sentence=f"{_calls(counts.scheduled)} waiting, and none is due before {in_utc(facts.next_due_at)}.",
            count=counts.scheduled,
            until=facts.next_due_at,
        )


def _nobody_works(connection: Connection, facts: Any) -> Iterator[Holdup]:
    if not roles.is_held(connection, roles.SCHEDULER):
        yield Holdup(what="no-scheduler", sentence="No scheduler is running: start it with `trunkline up`.")
    yield from _nodes(connection)
    if facts.unclaimed:
        yield Holdup(
            what="no-worker",
            sentence=f"{_calls(facts.unclaimed)} granted and taken by no worker: see that workers run, with `trunkline doctor`.",
            count=facts.unclaimed,
        )


def _nodes(connection: Connection) -> Iterator[Holdup]:
    heard = [breaker for breaker in breakers(connection) if breaker.is_heard]
    if not heard:
        yield Holdup(
            what="no-node", sentence="No Asterisk node is up and listened to: `trunkline doctor` says what is wrong."
        )
    for breaker in heard:
        why = f"after {breaker.failures} calls in a row that it did not take, the last one: {breaker.last_failure}"
        look = "it is tried again by itself, and `trunkline doctor` looks at it"
        if breaker.state is BreakerState.OPEN and breaker.rests_until:
            yield Holdup(
                what="node-resting",
                sentence=f"Asterisk node {breaker.node} rests until {in_utc(breaker.rests_until)}, {why}; {look}.",
                count=breaker.failures,
                until=breaker.rests_until,
            )
        elif breaker.state is BreakerState.HALF_OPEN:
            yield Holdup(
                what="node-on-trial",
                sentence=f"Asterisk node {breaker.node} gets one call at a time, {why}; `trunkline doctor` looks at it.",
                count=breaker.failures,
            )


def _trunks(connection: Connection, counts: Counts) -> Iterator[Holdup]:
    numbers = _from_numbers(connection, counts)
    found = _lines(connection, numbers)
    for number in sorted(set(numbers) - {row.phone_number for row in found}):
        yield Holdup(
            what="number-unregistered",
            sentence=f"{number} is not registered on any trunk: `trunkline number add {number} --trunk NAME`.",
        )
    for trunk in {row.id: row for row in found}.values():
        if trunk.is_active:
            yield from _gateways(connection, trunk.id)
        else:
            yield Holdup(
                what="trunk-off",
                sentence=f"Trunk {trunk.name} is off: switch it on with `trunkline trunk enable {shlex.quote(trunk.name)}`.",
            )


def _from_numbers(connection: Connection, counts: Counts) -> list[str]:
    of_campaign = select(campaigns.c.from_numbers).where(campaigns.c.id == counts.campaign_id)
    numbers: list[str] = connection.execute(of_campaign).scalar_one()
    return numbers


def _lines(connection: Connection, numbers: Sequence[str]) -> Sequence[Any]:
    """Each number that is registered, with its trunk."""
    return connection.execute(
        select(
            phone_numbers.c.phone_number,
            trunks.c.id,
            trunks.c.name,
            trunks.c.is_active,
            trunks.c.max_concurrent_calls,
            trunks.c.max_calls_per_second,
        )
        .join(trunks, trunks.c.id == phone_numbers.c.trunk_id)
        .where(phone_numbers.c.phone_number.in_(numbers))
        .order_by(trunks.c.name)
    ).all()


def _gateways(connection: Connection, trunk_id: UUID) -> Iterator[Holdup]:
    """The pause of the whole trunk, or what is known of each of its gateways."""
    gateways = trunk_health.of_gateways(connection, [trunk_id])
    for pause in trunk_health.pauses(gateways):
        failures = max(gateway.failures for gateway in pause.gateways)
        sentence = f"{pause.sentence} {pause.advice}."
        yield Holdup(what="trunk-paused", sentence=sentence, count=failures, until=pause.until)
        return
    for gateway in gateways:
        if gateway.rests:
            check = f"`trunkline trunk check {shlex.quote(gateway.trunk)}` looks at it"
            yield Holdup(
                what="gateway-resting" if gateway.rests_now else "gateway-on-trial",
                sentence=f"Gateway {gateway.address} of trunk {gateway.trunk} {gateway.now}, after {gateway.why}; {check}.",
                count=gateway.failures,
                until=gateway.rests_until if gateway.rests_now else None,
            )


def _limits(connection: Connection, counts: Counts) -> Iterator[_Limit]:
    for trunk in {row.id: row for row in _lines(connection, _from_numbers(connection, counts))}.values():
        if trunk.is_active:
            most, rate = trunk.max_concurrent_calls, trunk.max_calls_per_second
            yield _Limit(kind="trunk", id=trunk.id, most=most, whose=f"Trunk {trunk.name}", calls_per_second=rate)
    campaign = connection.execute(
        select(
            campaigns.c.max_concurrent_calls,
            agents.c.id.label("agent_id"),
            agents.c.name.label("agent"),
            agents.c.max_concurrent_calls.label("agent_max_concurrent_calls"),
        )
        .join(agents, agents.c.id == campaigns.c.agent_id)
        .where(campaigns.c.id == counts.campaign_id)
    ).one()
    if campaign.max_concurrent_calls is not None:
        most = campaign.max_concurrent_calls
        yield _Limit(kind="campaign", id=counts.campaign_id, most=most, whose="The campaign")
    if campaign.agent_max_concurrent_calls is not None:
        whose, most = f"Agent {campaign.agent}, in all of its campaigns and calls", campaign.agent_max_concurrent_calls
        yield _Limit(kind="agent", id=campaign.agent_id, most=most, whose=whose)
    for node in live_nodes(connection):
        yield _Limit(kind="node", id=node.name, most=node.max_calls, whose=f"Asterisk node {node.name}")


def _reached(slots: Slots, limit: _Limit) -> Iterator[Holdup]:
    """Raises `Away`."""
    used = slots.in_use(limit.kind, limit.id)
    if used >= limit.most:
        sentence = f"{limit.whose}: {used} of {limit.most} slots in use."
        yield Holdup(what=f"{limit.kind}-full", sentence=sentence, count=used, limit=limit.most)
    elif limit.calls_per_second is not None and slots.token_in(limit.kind, limit.id):
        rate = f"may start {limit.calls_per_second:g} calls a second, and they are being used"
        yield Holdup(what="rate", sentence=f"{limit.whose} {rate}.")


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"
