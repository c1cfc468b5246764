"""Why nothing, or not more, of a campaign is being dialled right now: every limit and condition, with its counts.

For the command line and the HTTP API alike. It looks at what the leader looks at, a moment later, and decides nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

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


def explain(connection: Connection, slots: Slots | None, campaign: Ref) -> CampaignNow:
    """`slots` is None where there is no Redis. Raises `NotFound`."""
    counts = campaign_rows.counts(connection, campaign)
    return CampaignNow(counts=counts, holdups=list(_holdups(connection, slots, counts)))


def _holdups(connection: Connection, slots: Slots | None, counts: Counts) -> Iterator[Holdup]:
    if counts.status != S.RUNNING:
        yield _not_running(connection, counts)
        return
    facts: Any = connection.exec_driver_sql(
        statement("holdups"), {"campaign": counts.campaign_id, "unclaimed_for": _UNCLAIMED_FOR}
    ).one()
    yield from _nothing_due(counts, facts)
    yield from _nobody_works(connection, facts)
    trouble = _no_redis(slots)
    if trouble:
        yield Holdup(what="no-redis", sentence=trouble)
        slots = None
    yield from _trunks(connection, slots, counts)
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


def _no_redis(slots: Slots | None) -> str | None:
    if slots is None:
        return "Redis is not running: start it with `trunkline up`."
    try:
        slots.in_use("trunk", "any")
    except Away as error:
        return f"Redis does not answer, and in doubt nothing is granted: {error}."
    return None


def _not_running(connection: Connection, counts: Counts) -> Holdup:
    row = connection.execute(
        select(campaigns.c.pause_reason, campaigns.c.accepted).where(campaigns.c.id == counts.campaign_id)
    ).one()
    name = shlex.quote(counts.name)
    match S(counts.status):
        case S.LOADING:
            sentence = f"It is being uploaded: {counts.total} rows so far."
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
    return Holdup(what=counts.status, sentence=sentence, count=counts.scheduled)


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


def _trunks(connection: Connection, slots: Slots | None, counts: Counts) -> Iterator[Holdup]:
    campaign = connection.execute(
        select(
            campaigns.c.from_numbers,
            campaigns.c.max_concurrent_calls,
            agents.c.id.label("agent_id"),
            agents.c.name.label("agent"),
            agents.c.max_concurrent_calls.label("agent_max_concurrent_calls"),
        )
        .join(agents, agents.c.id == campaigns.c.agent_id)
        .where(campaigns.c.id == counts.campaign_id)
    ).one()
    found = connection.execute(
        select(
            phone_numbers.c.phone_number,
            trunks.c.id,
            trunks.c.name,
            trunks.c.is_active,
            trunks.c.max_concurrent_calls,
            trunks.c.max_calls_per_second,
        )
        .join(trunks, trunks.c.id == phone_numbers.c.trunk_id)
        .where(phone_numbers.c.phone_number.in_(campaign.from_numbers))
        .order_by(trunks.c.name)
    ).all()
    for number in sorted(set(campaign.from_numbers) - {row.phone_number for row in found}):
        yield Holdup(
            what="number-unregistered",
            sentence=f"{number} is not registered on any trunk: `trunkline number add {number} --trunk NAME`.",
        )
    for trunk in {row.id: row for row in found}.values():
        if not trunk.is_active:
            yield Holdup(
                what="trunk-off",
                sentence=f"Trunk {trunk.name} is off: switch it on with `trunkline trunk enable {shlex.quote(trunk.name)}`.",
            )
            continue
        yield from _gateways(connection, trunk.id)
        if slots is not None:
            yield from _limits(slots, trunk)
    if slots is None:
        return
    if campaign.max_concurrent_calls is not None:
        yield from _full(slots, "campaign", counts.campaign_id, campaign.max_concurrent_calls, "The campaign")
    if campaign.agent_max_concurrent_calls is not None:
        whose = f"Agent {campaign.agent}, in all of its campaigns and calls"
        yield from _full(slots, "agent", campaign.agent_id, campaign.agent_max_concurrent_calls, whose)
    for node in live_nodes(connection):
        yield from _full(slots, "node", node.name, node.max_calls, f"Asterisk node {node.name}")


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


def _limits(slots: Slots, trunk: Any) -> Iterator[Holdup]:
    full = list(_full(slots, "trunk", trunk.id, trunk.max_concurrent_calls, f"Trunk {trunk.name}"))
    yield from full
    with suppress(Away):
        if full or not slots.token_in("trunk", trunk.id):
            return
        yield Holdup(
            what="rate",
            sentence=f"Trunk {trunk.name} may start {trunk.max_calls_per_second:g} calls a second, and they are being used.",
        )


def _full(slots: Slots, kind: str, id: str | UUID, limit: int, whose: str) -> Iterator[Holdup]:
    with suppress(Away):  # it was there a moment ago
        used = slots.in_use(kind, id)
        if used >= limit:
            sentence = f"{whose}: {used} of {limit} slots in use."
            yield Holdup(what=f"{kind}-full", sentence=sentence, count=used, limit=limit)


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"
