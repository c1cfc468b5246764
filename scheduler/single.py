"""Single calls: one person, picked before every campaign, now or at a time that was asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, Engine, Select, func, insert, select

from models.errors import Invalid, NotFound
from models.schema import agents, call_events, calls, phone_numbers, trunks
from models.statuses import FINAL, Status
from scheduler import trunks as trunk_rows
from scheduler.fields import value
from scheduler.fields import variables as check_variables
from scheduler.phone_numbers import allowed, e164
from scheduler.refs import Ref, find

FARTHEST = timedelta(days=366)
"""A call is scheduled for so long ahead at most: a later one is a slip of the pen."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class CallState:
    """Where a call is. `explanation` belongs to the end."""

    status: Status
    at: datetime
    disposition: str | None
    explanation: str | None = None


def place(
    connection: Connection,
    *,
    phone_number: str,
    agent: Ref,
    from_number: str,
    name: str | None = None,
    variables: Mapping[str, str] | None = None,
    scheduled_at: datetime | None = None,
    retry_config: Mapping[str, object] | None = None,
    bypass_call_guardrails: bool = False,
    id: UUID | None = None,
) -> UUID:
    """Writes a call that is due now, or at `scheduled_at`, and returns its id (`id`, or a new one).

    After the commit the caller wakes the leader (`Slots.wake`) for one that is due now; it sees to the others at their time.

    Raises `Invalid` for a value that cannot be dialled or stored, for a `from` that is not registered
    or whose trunk is off, and for a number that its trunk may not call; `NotFound` for the agent.
    """
    number = e164(phone_number)
    caller = e164(from_number, field="from")
    person = value(name, field="name") if name else None
    values = check_variables(variables or {})
    # the agent stays as long as this transaction
    stays = select(agents.c.id).with_for_update(key_share=True, read=True)
    agent_id = find(connection, stays, agents, agent).id
    line = connection.execute(
        select(trunks.c.id, trunks.c.name, trunks.c.is_active)
        .join(phone_numbers, phone_numbers.c.trunk_id == trunks.c.id)
        .where(phone_numbers.c.phone_number == caller)
    ).first()
    if line is None:
        raise Invalid("from", f"{caller} is not registered on any trunk: register it on the one it belongs to")
    if not line.is_active:
        raise Invalid("from", f"{caller} is on trunk {line.name!r}, which is off: switch it on")
    prefixes = trunk_rows.prefixes(connection, line.id)
    if not allowed(number, prefixes):
        raise Invalid(
            "phone_number",
            f"trunk {line.name!r} may only call numbers that start with {', '.join(prefixes)}:"
            " add to its allowed prefixes what else it may call",
        )
    call_id: UUID = id or uuid_utils.compat.uuid7()
    connection.execute(
        insert(calls).values(
            id=call_id,
            agent_id=agent_id,
            phone_number=number,
            name=person,
            variables=values,
            from_number=caller,
            status=Status.SCHEDULED.value,
            due_at=scheduled_at or func.now(),
            scheduled_at=scheduled_at,
            retry_config=dict(retry_config) if retry_config is not None else None,
            bypass_call_guardrails=bypass_call_guardrails,
        )
    )
    return call_id


def later(at: datetime | None, now: datetime) -> datetime | None:
    """The time of a call that is to be made later; None is at once, as it is for a time that has passed.

    Raises `Invalid` for one that is more than a year ahead.
    """
    if at is None or at <= now:
        return None
    if at > now + FARTHEST:
        raise Invalid("scheduled_at", f"must be within {FARTHEST.days} days from now")
    return at


def wait(
    engine: Engine, call_id: UUID, on_change: Callable[[CallState], None], *, within: timedelta | None = None
) -> CallState:
    """Tells every status of the call, in order and none left out, until it is final, and returns that one.

    It reads `call_events`, so a status that lasted a millisecond is told as well. It waits as long as
    the call does, or until `within` is over, and then returns what it is by then; Ctrl-C leaves the call
    as it is. Raises `NotFound`.
    """
    deadline = math.inf if within is None else time.monotonic() + within.total_seconds()
    with engine.connect() as connection:
        call = connection.execute(_call(call_id)).first()
    if call is None:
        raise NotFound("call", str(call_id))
    state = CallState(status=Status.SCHEDULED, at=call.created_at, disposition=None)
    on_change(state)
    while state.status not in FINAL and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        with engine.connect() as connection:
            for event in connection.execute(_events_after(call_id, state.at)).all():
                state = CallState(status=Status(event.to_status), at=event.at, disposition=event.disposition)
                if state.status in FINAL:
                    call = connection.execute(_call(call_id)).one()
                    state = CallState(
                        status=state.status, at=state.at, disposition=state.disposition, explanation=call.explanation
                    )
                on_change(state)
    return state


def _call(call_id: UUID) -> Select[tuple[datetime, str | None]]:
    return select(calls.c.created_at, calls.c.explanation).where(calls.c.id == call_id)


def _events_after(call_id: UUID, at: datetime) -> Select[tuple[str, str | None, datetime]]:
    e = call_events.c
    return (
        select(e.to_status, e.disposition, e.at)
        .where(e.call_id == call_id, e.subject == "call", e.at > at)
        .order_by(e.at)
    )
