"""`/call` and `/executions`: one call, and what became of it; `/user/me`: who asks, and how many calls may be up."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import uuid_utils.compat
from fastapi import APIRouter, Header
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema
from pydantic.config import JsonDict
from sqlalchemy import Connection, select

from models import executions
from models.errors import Invalid, NotFound
from models.executions import Execution, LogEntry
from models.schema import calls
from models.statements import statement
from models.statuses import Status
from scheduler import single, stopping
from scheduler.api.limits import STOPS
from scheduler.api.moments import Moment
from scheduler.api.parts import Asking, Using
from scheduler.api.problems import answers, as_sent
from scheduler.concurrency import concurrency
from scheduler.idempotency import Asked, thing_for
from scheduler.keys import Key, Scope
from scheduler.presence import require_asterisk
from scheduler.retry_config import RetryConfig

router = APIRouter(tags=["calls"])

_MOST_VARIABLES = 100
_EXAMPLE: JsonDict = {
    "agent_id": "3c90c3cc-0d44-4b50-8888-8dd25736052a",
    "recipient": {"phone_number": "+12125550123", "name": "Ada"},
    "from_number": "+12025550100",
    "user_data": {"appointment": "Friday"},
}


def _text(value: object) -> object:
    """Numbers and booleans as they are written in JSON."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("must be a string, a number or a boolean")
    return json.dumps(value)


_Value = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]


class CallRecipient(BaseModel):
    """Whom to call."""

    model_config = ConfigDict(extra="forbid")

    phone_number: str = Field(description="In international form (E.164).", examples=["+12125550123"])
    name: str | None = Field(None, description="For the agent.", examples=["Ada"])


class NewCall(BaseModel):
    """A call to be made."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    agent_id: UUID = Field(description="What talks to them.")
    recipient: CallRecipient | None = None
    recipient_phone_number: str | None = Field(None, description="Instead of `recipient`.", examples=["+12125550123"])
    from_number: str | None = Field(
        None, description="A number of yours, registered on a trunk.", examples=["+12025550100"]
    )
    from_phone_number: str | None = Field(None, description="The same as `from_number`.", examples=["+12025550100"])
    user_data: dict[str, _Value] = Field(
        {}, max_length=_MOST_VARIABLES, description="Variables for the agent, which gets each as text."
    )
    scheduled_at: Moment | None = Field(
        None,
        description="When to call: ISO 8601 with an offset or `Z`, at most 366 days ahead; a time that has passed is now.",
        examples=["2026-03-01T09:30:00+05:30"],
    )
    retry_config: RetryConfig | None = None
    bypass_call_guardrails: StrictBool = Field(False, description="Kept and shown; there are no guardrails yet.")


class CallAnswer(BaseModel):
    """What became of the request; `GET /executions/{id}` tells the rest."""

    model_config = ConfigDict(extra="forbid")

    message: Literal["done"] = "done"
    status: Status
    execution_id: UUID


class ExecutionLog(BaseModel):
    """Transitions, the oldest first; of very many the newest."""

    model_config = ConfigDict(extra="forbid")

    data: list[LogEntry]


class OnTheLine(BaseModel):
    """Whom an agent talks to."""

    model_config = ConfigDict(extra="forbid")

    attempt_id: UUID
    call_id: UUID
    campaign_id: UUID | None
    campaign: str | None
    phone_number: str
    name: str | None
    variables: dict[str, str]
    from_number: str
    agent: str
    attempt_number: int
    trunk: str | None
    node: str
    initiated_at: datetime


class ConcurrencyShown(BaseModel):
    """How many calls may be up at once, and are."""

    model_config = ConfigDict(extra="forbid")

    max: int
    current: int


class Me(BaseModel):
    """The key that asks."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str
    scope: Scope
    concurrency: ConcurrencyShown


@router.post("/call", responses=answers(400, 422))
def place(
    body: NewCall,
    using: Using,
    asking: Asking,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key", description="The same key and body, within a day: the same answer, and one call."
        ),
    ] = None,
) -> CallAnswer:
    """Makes a call, before every batch: at once, or at `scheduled_at`."""
    sent = _Sent(body)
    scheduled_at = single.later(body.scheduled_at, datetime.now(UTC))
    call_id: UUID = uuid_utils.compat.uuid7()
    with ExitStack() as stack:
        bell = None if scheduled_at else stack.enter_context(using.bell())
        with using.transaction() as connection:
            execution_id = _asked_before(connection, asking, idempotency_key, body, call_id)
            if execution_id == call_id:
                sent.place(connection, call_id, scheduled_at)
                if scheduled_at is None:
                    require_asterisk(connection)
            is_later = connection.scalar(select(calls.c.scheduled_at).where(calls.c.id == execution_id)) is not None
        if bell:
            bell.wake()
    return CallAnswer(status=Status.SCHEDULED if is_later else Status.QUEUED, execution_id=execution_id)


@router.get("/call/{execution_id}", responses=answers(404, 422))
@router.get("/executions/{execution_id}", responses=answers(404, 422))
def show(execution_id: UUID, using: Using) -> Execution:
    """Shows a call: where it is, and what was seen of it. `/call/{id}` and `/executions/{id}` are the same."""
    with using.transaction() as connection:
        found = executions.of_calls(connection, [execution_id])
    if not found:
        raise NotFound("call", str(execution_id))
    return found[0]


@router.get("/executions/{execution_id}/log", responses=answers(404, 422))
def show_log(execution_id: UUID, using: Using) -> ExecutionLog:
    """Shows every transition of a call and of its attempts."""
    with using.transaction() as connection:
        if connection.scalar(select(calls.c.id).where(calls.c.id == execution_id)) is None:
            raise NotFound("call", str(execution_id))
        return ExecutionLog(data=executions.log_of(connection, execution_id))


@router.post("/call/{execution_id}/stop", responses=answers(404, 409, 422))
def stop(execution_id: UUID, using: Using) -> CallAnswer:
    """Takes back a call that is still to be made, and hangs up one that is ringing or up; answers when it is over."""
    with STOPS.one():
        ended = stopping.hang_up(using.settings, execution_id)
    return CallAnswer(status=Status(ended), execution_id=execution_id)


@router.get("/attempts/{attempt_id}", responses=answers(404, 422))
def show_attempt(attempt_id: UUID, using: Using) -> OnTheLine:
    """Shows who is on the line, to an agent that knows the UUID of its AudioSocket; there is nobody once the call is over."""
    with using.transaction() as connection:
        row = connection.exec_driver_sql(statement("on_the_line"), {"attempt": str(attempt_id)}).mappings().first()
    if row is None:
        raise NotFound("attempt", str(attempt_id))
    return OnTheLine(**row)


@router.get("/user/me")
def me(using: Using, asking: Asking) -> Me:
    """Shows the key that asks, how many calls may be up at once, and how many are."""
    with using.transaction() as connection:
        now = concurrency(connection)
    return Me(
        id=asking.id,
        name=asking.name,
        scope=asking.scope,
        concurrency=ConcurrencyShown(max=now.max, current=now.current),
    )


class _Sent:
    """A call in the names that it was sent with, which are those that a refusal tells."""

    def __init__(self, body: NewCall) -> None:
        """Raises `Invalid` where a number is missing, or two of one kind differ."""
        self._body = body
        self._to, to_field = _one_of(
            ("recipient.phone_number", body.recipient.phone_number if body.recipient else None),
            ("recipient_phone_number", body.recipient_phone_number),
        )
        self._from, from_field = _one_of(
            ("from_number", body.from_number), ("from_phone_number", body.from_phone_number)
        )
        self._fields = {
            "phone_number": to_field,
            "from": from_field,
            "name": "recipient.name",
            "variables": "user_data",
        }

    def place(self, connection: Connection, call_id: UUID, scheduled_at: datetime | None) -> None:
        body = self._body
        with as_sent(self._fields):
            single.place(
                connection,
                id=call_id,
                phone_number=self._to,
                agent=body.agent_id,
                from_number=self._from,
                name=body.recipient.name if body.recipient else None,
                variables=body.user_data,
                scheduled_at=scheduled_at,
                retry_config=body.retry_config.model_dump() if body.retry_config else None,
                bypass_call_guardrails=body.bypass_call_guardrails,
            )


def _one_of(first: tuple[str, str | None], second: tuple[str, str | None]) -> tuple[str, str]:
    """The value that was given, and the name that it was given by."""
    given = [(value, field) for field, value in (first, second) if value is not None]
    if not given:
        raise Invalid(first[0], f"must be given, or {second[0]}")
    if len({value for value, _ in given}) > 1:
        raise Invalid(second[0], f"must be the same as {first[0]}, or left out")
    return given[0]


def _asked_before(connection: Connection, asking: Key, key: str | None, body: NewCall, call_id: UUID) -> UUID:
    """The call that was made for this key and body before; `call_id` if there was none."""
    if key is None:
        return call_id
    asked = Asked.of(asking.id, key, "POST /call", body.model_dump(mode="json"))
    return thing_for(connection, asked, call_id)
