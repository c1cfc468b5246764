"""What became of one call, attempt by attempt, with what to do: for a person who asks why.

Told from the ledger alone, so it may be asked for at any time; a call that is still to be made says what
it waits for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from models import contexts
from models.contexts import Context
from models.errors import NotFound
from models.explanations import Ending, Waiting, advise, needs_context, said_by_far_side
from models.nodes import BreakerState, breakers
from models.sightings import Attempt, ending_of
from models.statements import statement
from models.statuses import FINAL, Status

_NOT_SENT = {Status.SCHEDULED, Status.QUEUED}
_FACTS = (
    "disposition", "explanation", "sip_code", "q850_cause", "agent_status", "hangup_by", "rx_packets", "tx_packets",
    "rx_lost", "tx_lost", "last_reply", "initiated_at", "channel_at", "ringing_at", "answered_at", "ended_at",
    "hold_until",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttemptStory:
    """One Originate. What is None is not known, or did not happen."""

    attempt_id: UUID
    trunk: str | None
    gateway: str | None  #: HOST[:PORT]; None: taken off the trunk since
    node: str
    from_number: str
    dialed_number: str
    status: str
    disposition: str | None
    sip: str | None  #: what the far side said, as `486 Busy Here`
    sip_code: int | None
    q850_cause: int | None
    last_reply: int | None  #: the status of the last SIP reply that came, 100 and 180 too; 0: none did
    rang: bool
    queued_at: datetime
    initiated_at: datetime | None
    ringing_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    post_dial_delay: float | None  #: seconds from the claim to the first ringing, or else to the answer
    ring_time: float | None  #: seconds from then to the answer, or to the end
    talk_time: float | None
    hangup_by: str | None
    sip_call_id: str | None  #: what the provider's support asks for
    codec: str | None
    media_address: str | None
    rx_packets: int | None
    tx_packets: int | None
    rx_lost: int | None
    tx_lost: int | None
    explanation: str | None


@dataclass(frozen=True, kw_only=True)
class GatewayFault:
    """What the newest probe of a gateway found wrong."""

    gateway: str
    probed_at: datetime
    finding: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class CallStory:
    """A call; its names are the fields of `trunkline explain CALL_ID --json`, and of `GET /call/{id}/explain`."""

    call_id: UUID
    phone_number: str
    name: str | None
    agent: str | None
    campaign: str | None  #: None: a single call
    status: str
    disposition: str | None
    explanation: str | None  #: of its last attempt; of one that has not left yet, what it waits for
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None
    attempts: tuple[AttemptStory, ...]
    what_to_do: str  #: empty: nothing
    gateway_faults: tuple[GatewayFault, ...]  #: as they are now, of the gateways that were tried


def tell(connection: Connection, call_id: UUID) -> CallStory:
    """Raises `NotFound`."""
    call = connection.exec_driver_sql(statement("story_of_call"), {"call": call_id}).one_or_none()
    if call is None:
        raise NotFound("call", str(call_id))
    rows = connection.exec_driver_sql(statement("story_of_attempts"), {"call": call_id}).all()
    faults = connection.exec_driver_sql(statement("faults_of_gateways"), {"call": call_id})
    explanation, what_to_do = call.explanation, ""
    if call.status in _NOT_SENT:
        state = f"{call.campaign_status}: {call.pause_reason}" if call.pause_reason else call.campaign_status
        advice = advise(Ending(why=_waits_for(connection, call), error=state or ""), _line(call))
        explanation, what_to_do = advice.means, advice.do
    elif rows and call.status in FINAL and (ending := _ending(rows[-1])):
        around = contexts.of_attempts(connection, [rows[-1].attempt_id])
        what_to_do = advise(ending, around.get(rows[-1].attempt_id)).do
        if rows[-1].trunk is None and needs_context(ending):
            what_to_do += " Its trunk is deleted by now, so that is for the one that is used instead."
    return CallStory(
        call_id=call.call_id,
        phone_number=call.phone_number,
        name=call.name,
        agent=call.agent,
        campaign=call.campaign,
        status=call.status,
        disposition=call.disposition,
        explanation=explanation,
        created_at=call.created_at,
        due_at=call.due_at,
        ended_at=call.ended_at,
        attempts=tuple(_attempt(row) for row in rows),
        what_to_do=what_to_do,
        gateway_faults=tuple(GatewayFault(**fault) for fault in faults.mappings()),
    )


def _waits_for(connection: Connection, call: Any) -> Waiting:
    if call.status == Status.QUEUED:
        return Waiting.WORKER
    if call.hands_over:
        return Waiting.NEXT_GATEWAY
    if call.is_early:
        return Waiting.NOT_DUE
    if call.campaign_status is not None and call.campaign_status != "running":
        return Waiting.CAMPAIGN
    if call.from_number is not None and not call.is_registered:
        return Waiting.NUMBER_UNREGISTERED
    if call.trunk_active is False:
        return Waiting.TRUNK_OFF
    if call.gateways_rest:
        return Waiting.GATEWAYS_REST
    heard = [breaker for breaker in breakers(connection) if breaker.is_heard]
    if not heard:
        return Waiting.NO_NODE
    if all(breaker.state is BreakerState.OPEN for breaker in heard):
        return Waiting.NODES_REST
    return Waiting.SLOT


def _line(call: Any) -> Context:
    return Context(
        trunk=call.trunk,
        trunk_active=call.trunk_active,
        caller_id=call.from_number,
        campaign=call.campaign,
        campaign_status=call.campaign_status,
    )


def _ending(row: Any) -> Ending | None:
    """Of an attempt that ended as it was seen to; what was withdrawn has said all in its explanation."""
    if row.status not in FINAL:
        return None
    facts = {name: getattr(row, name) for name in _FACTS}
    return ending_of(Attempt(id=row.attempt_id, call_id=row.call_id, node=row.node, status=Status(row.status), **facts))


def _attempt(row: Any) -> AttemptStory:
    heard_at, ending = row.ringing_at or row.answered_at, _ending(row)
    told = {
        name: getattr(row, name)
        for name in row._fields
        if name not in {"call_id", "agent_status", "channel_at", "hold_until"}
    }
    return AttemptStory(
        **told,
        sip=said_by_far_side(ending) if ending else None,
        rang=row.ringing_at is not None,
        post_dial_delay=_seconds(row.initiated_at, heard_at),
        ring_time=_seconds(row.ringing_at, row.answered_at or row.ended_at),
        talk_time=_seconds(row.answered_at, row.ended_at),
    )


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    return round((until - since).total_seconds(), 3) if since and until else None
