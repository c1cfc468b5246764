"""A call in the words of the reference service: an *execution*, as it is answered over HTTP and sent to webhooks.

What is null is not known, did not happen, or has not yet. What trunkline does not have (costs, transcripts, recordings) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from models.outcome import Disposition
from models.statements import statement
from models.statuses import FINAL, Status

MOST_LOGGED = 1000  # a call that no worker claims is granted and withdrawn twice a minute, for as long as that lasts

_RANG = FINAL | {Status.RINGING, Status.IN_PROGRESS}
_ANSWERED = FINAL | {Status.IN_PROGRESS}
_HANGUP_REASONS = {
    "callee": "Callee hung up",
    "agent": "Agent hung up",
    "operator": "Stopped by request",
    "limit": "Longest length of a call reached",
    "trunkline": "Ended by trunkline",
}


class Recipient(BaseModel):
    """Whom a call is for."""

    model_config = ConfigDict(extra="forbid")

    phone_number: str = Field(examples=["+12125550123"])
    name: str | None = Field(examples=["Ada"])


class TelephonyData(BaseModel):
    """What was seen on the line, of the call's current attempt. Durations are seconds."""

    model_config = ConfigDict(extra="forbid")

    duration: float | None = Field(description="From the answer to the end; 0 if nobody answered, null until the end.")
    to_number: str
    from_number: str | None = Field(description="Of a batch's call null until it is made: its numbers rotate.")
    call_type: Literal["outbound"] = "outbound"
    provider: Literal["sip-trunk"] = "sip-trunk"
    provider_call_id: str | None = Field(description="The SIP Call-ID, which the carrier knows the call by.")
    post_dial_delay: float | None = Field(description="From the dialling to the first ringing, or else to the answer.")
    ring_duration: float | None = Field(description="From then to the answer, or to the end.")
    hangup_by: str | None = Field(description="callee, agent, operator, limit or trunkline, where that is known.")
    hangup_reason: str | None = Field(examples=["Callee hung up"])
    hangup_provider_code: int | None = Field(
        description="The carrier's SIP status (from 300), or where there is none the Q.850 cause.", examples=[486]
    )


class Execution(BaseModel):
    """A call, and what became of it."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    agent_id: UUID
    batch_id: UUID | None = Field(description="Null: a single call.")
    status: Status
    created_at: datetime
    updated_at: datetime
    scheduled_at: datetime | None = Field(description="When it was asked to be made; null: at once.")
    conversation_time: float | None = Field(description="The same as `conversation_duration`, by its older name.")
    conversation_duration: float | None = Field(
        description="Seconds from the answer to the end; 0 if nobody answered, null until the end."
    )
    error_message: str | None = Field(description="A sentence for every end that is no success.")
    recipient: Recipient
    user_data: dict[str, str]
    retry_config: dict[str, Any] | None
    bypass_call_guardrails: bool
    telephony_data: TelephonyData
    disposition: str | None = Field(description="Why it ended.", examples=["busy"])
    explanation: str | None = Field(description="What the end means, and what to do about it.")
    sip_code: int | None
    q850_cause: int | None
    attempts: int = Field(description="How often it was given to a gateway.")


class LogEntry(BaseModel):
    """One transition, of the call or of one of its attempts."""

    model_config = ConfigDict(extra="forbid")

    at: datetime
    subject: Literal["call", "attempt"]
    attempt_id: UUID | None
    from_status: Status
    to_status: Status
    disposition: str | None
    explanation: str | None


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A call came to `status`; `at` is a moment on the clock of Postgres, as triggers write it."""

    status: Status
    at: datetime


def of_calls(connection: Connection, ids: Sequence[UUID], *, as_of: Transition | None = None) -> list[Execution]:
    """The executions of these calls, in this order; a call that there is none of is left out.

    With `as_of` they are as they were at that transition: what came later is not told, however late it is asked.
    """
    if not ids:
        return []
    at = as_of.at if as_of else None
    rows = connection.exec_driver_sql(statement("executions"), {"ids": list(ids), "at": at})
    by_id = {row.id: _execution(row, as_of) for row in rows}
    return [by_id[id] for id in ids if id in by_id]


def log_of(connection: Connection, call_id: UUID) -> list[LogEntry]:
    """The transitions of a call and its attempts in their order, the newest `MOST_LOGGED` of them."""
    rows = connection.exec_driver_sql(statement("call_log"), {"call": call_id, "most": MOST_LOGGED})
    return [LogEntry(**row) for row in rows.mappings()]


def _execution(row: Any, as_of: Transition | None) -> Execution:
    status = as_of.status if as_of else Status(row.status)
    is_over = status in FINAL
    # what was canceled while it waited to be made again did not end as its last attempt had
    told_by_attempt = not is_over or row.attempt_status == status
    sip_code, q850_cause = (row.sip_code, row.q850_cause) if told_by_attempt and is_over else (None, None)
    ringing_at = row.ringing_at if told_by_attempt and status in _RANG else None
    answered_at = row.answered_at if told_by_attempt and status in _ANSWERED else None
    ended_at = row.ended_at if told_by_attempt and is_over else None
    disposition, explanation = _why(row, status, as_of)
    talked = _talked(status, answered_at, ended_at)
    hangup_by = row.hangup_by if ended_at else None
    if disposition == Disposition.CANCELED:
        hangup_by = "operator"
    return Execution(
        id=row.id,
        agent_id=row.agent_id,
        batch_id=row.campaign_id,
        status=status,
        created_at=row.created_at,
        updated_at=as_of.at if as_of else row.updated_at,
        scheduled_at=row.scheduled_at,
        conversation_time=talked,
        conversation_duration=talked,
        error_message=explanation if is_over and status is not Status.COMPLETED else None,
        recipient=Recipient(phone_number=row.phone_number, name=row.name),
        user_data=row.variables,
        retry_config=row.retry_config,
        bypass_call_guardrails=row.bypass_call_guardrails,
        telephony_data=TelephonyData(
            duration=talked,
            to_number=row.phone_number,
            from_number=row.from_number,
            provider_call_id=row.sip_call_id if ended_at else None,
            post_dial_delay=_seconds(row.initiated_at, ringing_at or answered_at),
            ring_duration=_seconds(ringing_at, answered_at or ended_at),
            hangup_by=hangup_by,
            hangup_reason=_hangup_reason(disposition, hangup_by),
            hangup_provider_code=q850_cause if sip_code is None else sip_code,
        ),
        disposition=disposition,
        explanation=explanation,
        sip_code=sip_code,
        q850_cause=q850_cause,
        attempts=row.attempts,
    )


def _why(row: Any, status: Status, as_of: Transition | None) -> tuple[str | None, str | None]:
    """Disposition and explanation of an end: the call's own now, its attempt's of a time when it may have gone on since."""
    if status not in FINAL:
        return None, None
    if row.attempt_status == status and (as_of or row.status != status):
        return row.attempt_disposition, row.attempt_explanation
    return (row.disposition, row.explanation) if row.status == status else (None, None)


def _talked(status: Status, answered_at: datetime | None, ended_at: datetime | None) -> float | None:
    if status not in FINAL or status is Status.UNKNOWN:
        return None
    return _seconds(answered_at, ended_at) or 0.0


def _hangup_reason(disposition: str | None, hangup_by: str | None) -> str | None:
    if hangup_by is not None:
        return _HANGUP_REASONS[hangup_by]
    return disposition.replace("-", " ").capitalize() if disposition else None


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    """Never less than none: the two may be told by different clocks."""
    return max(0.0, round((until - since).total_seconds(), 3)) if since and until else None
