"""Campaigns as an operator sees them: their state, their counts, their calls.

Uploading is `scheduler.intake`; pausing and stopping, which wait for workers, are `scheduler.stopping`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, any_, case, func, select, update

from models.errors import Invalid, NotFound, WrongState
from models.schema import agent_health, attempts, calls, campaign_status, campaigns, phone_numbers, trunks
from models.statuses import CALL_TRANSITIONS, CAMPAIGN_ENDS, CAMPAIGN_TRANSITIONS, CampaignStatus, Status
from scheduler.refs import Ref, find

S = CampaignStatus

_ROWS_AT_ONCE = 1000

CALL_COLUMNS = (
    "call_id",
    "phone_number",
    "name",
    "status",
    "disposition",
    "sip_code",
    "q850_cause",
    "attempts",
    "from_number",
    "created_at",
    "ended_at",
    "explanation",
)
"""What `list_calls` gives of each call."""

_CALLS = select(
    calls.c.id.label("call_id"),
    calls.c.phone_number,
    calls.c.name,
    calls.c.status,
    calls.c.disposition,
    calls.c.sip_code,
    calls.c.q850_cause,
    calls.c.attempts,
    func.coalesce(attempts.c.from_number, calls.c.from_number).label("from_number"),
    calls.c.created_at,
    calls.c.ended_at,
    calls.c.explanation,
).outerjoin(attempts, attempts.c.id == calls.c.current_attempt_id)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A row of the view `campaign_status`."""

    campaign_id: UUID
    name: str
    status: str
    total: int
    scheduled: int
    queued: int
    initiated: int
    ringing: int
    in_progress: int
    completed: int
    busy: int
    no_answer: int
    failed: int
    canceled: int
    unknown: int
    rejected_rows: int
    updated_at: datetime
    pause_reason: str | None = None  #: of a pause that nobody typed

    @property
    def up(self) -> int:
        """Calls that were sent to Asterisk and are not over."""
        return self.initiated + self.ringing + self.in_progress

    @property
    def over(self) -> int:
        """Calls that are final."""
        return self.total - self.scheduled - self.queued - self.up

    @property
    def is_final(self) -> bool:
        return self.status in CAMPAIGN_ENDS


@dataclass(frozen=True, kw_only=True)
class TrunkInUse:
    """A trunk that a campaign calls through."""

    id: UUID
    name: str
    max_concurrent_calls: int


def campaign_id(connection: Connection, campaign: Ref) -> UUID:
    """Raises `NotFound`."""
    found: UUID = find(connection, select(campaigns.c.id), campaigns, campaign).id
    return found


def lock(connection: Connection, campaign: Ref) -> Row[Any]:
    """The campaign's row, locked: id, name, status. Nobody moves it until the transaction ends. Raises `NotFound`."""
    query = select(campaigns.c.id, campaigns.c.name, campaigns.c.status).with_for_update()
    return find(connection, query, campaigns, campaign)


def schedule(connection: Connection, campaign: Ref, at: datetime, *, bypass_call_guardrails: bool = False) -> None:
    """A ready campaign starts by itself at that time; may be asked for again, with another. Raises `NotFound` and `Conflict`."""
    found = campaign_id(connection, campaign)
    moved = connection.execute(
        update(campaigns)
        .where(campaigns.c.id == found, campaigns.c.status == S.READY)
        .values(scheduled_at=at.astimezone(UTC), bypass_call_guardrails=bypass_call_guardrails, updated_at=func.now())
    )
    if not moved.rowcount:
        raise _refusal(connection, found, campaign, S.READY)


def start_scheduled(connection: Connection) -> list[str]:
    """Starts the campaigns whose time has come, and says their names. For the leader."""
    due = connection.execute(
        select(campaigns.c.id, campaigns.c.name)
        .where(campaigns.c.status == S.READY, campaigns.c.scheduled_at <= func.now())
        .order_by(campaigns.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    for row in due:
        start(connection, row.id)
    return [row.name for row in due]


def start(connection: Connection, campaign: Ref, *, bypass_call_guardrails: bool | None = None) -> None:
    """ready → running; None: as it was scheduled. The caller wakes the leader after the commit.

    Raises `NotFound` and `Conflict`.
    """
    said = {} if bypass_call_guardrails is None else {"bypass_call_guardrails": bypass_call_guardrails}
    _run(connection, campaign, S.READY, said)


def resume(connection: Connection, campaign: Ref) -> None:
    """paused → running. The caller wakes the leader after the commit. Raises `NotFound` and `Conflict`."""
    _run(connection, campaign, S.PAUSED, {})


def counts(connection: Connection, campaign: Ref) -> Counts:
    """How the campaign is going, in one read that never counts calls. Raises `NotFound`."""
    row = connection.execute(
        select(campaign_status).where(campaign_status.c.campaign_id == campaign_id(connection, campaign))
    ).mappings()
    return Counts(**row.one())


def all_counts(connection: Connection) -> list[Counts]:
    """How every campaign is going, the newest first."""
    rows = connection.execute(
        select(campaign_status)
        .join(campaigns, campaigns.c.id == campaign_status.c.campaign_id)
        .order_by(campaigns.c.created_at.desc(), campaigns.c.name)
    )
    return [Counts(**row) for row in rows.mappings()]


def trunks_of(connection: Connection, campaign: Ref) -> list[TrunkInUse]:
    """The trunks of the campaign's numbers. Raises `NotFound`."""
    rows = connection.execute(
        select(trunks.c.id, trunks.c.name, trunks.c.max_concurrent_calls)
        .distinct()
        .join(phone_numbers, phone_numbers.c.trunk_id == trunks.c.id)
        .join(campaigns, phone_numbers.c.phone_number == any_(campaigns.c.from_numbers))
        .where(campaigns.c.id == campaign_id(connection, campaign))
        .order_by(trunks.c.name)
    )
    return [TrunkInUse(**row) for row in rows.mappings()]


def list_calls(connection: Connection, campaign: Ref, status: str | None = None) -> Iterator[Row[tuple[object, ...]]]:
    """The campaign's calls with `CALL_COLUMNS`, by phone number: the order of an index, so that the
    first row comes at once and ten million take no memory. The connection is busy until the end.

    Raises `NotFound`, and `Invalid` for a word that is no status of a call.
    """
    if status is not None and status not in CALL_TRANSITIONS:
        raise Invalid("status", f"must be one of {', '.join(CALL_TRANSITIONS)}")
    query = _CALLS.where(calls.c.campaign_id == campaign_id(connection, campaign)).order_by(calls.c.phone_number)
    if status is not None:
        query = query.where(calls.c.status == Status(status))
    return iter(connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query))


def calls_by_id(connection: Connection, ids: Sequence[UUID]) -> list[tuple[object, ...]]:
    """These calls with `CALL_COLUMNS`, by phone number."""
    found = connection.execute(_CALLS.where(calls.c.id.in_(ids)).order_by(calls.c.phone_number))
    return [tuple(row) for row in found]


def _run(connection: Connection, campaign: Ref, old: CampaignStatus, said: Mapping[str, object]) -> None:
    if S.RUNNING not in CAMPAIGN_TRANSITIONS[old]:
        raise AssertionError(old)
    found = campaign_id(connection, campaign)
    moved = connection.execute(
        update(campaigns)
        .where(campaigns.c.id == found, campaigns.c.status == old)
        .values(
            status=S.RUNNING.value,
            pause_reason=None,
            scheduled_at=case(
                (campaigns.c.scheduled_at <= func.now(), campaigns.c.scheduled_at)
            ),  # a later one is over
            started_at=func.coalesce(campaigns.c.started_at, func.now()),
            updated_at=func.now(),
            **said,
        )
        .returning(campaigns.c.agent_id)
    ).scalar_one_or_none()
    if moved is not None:  # what its agent missed before says nothing of now
        connection.execute(agent_health.delete().where(agent_health.c.agent_id == moved))
        return
    raise _refusal(connection, found, campaign, old)


def _refusal(connection: Connection, campaign_id: UUID, campaign: Ref, old: CampaignStatus) -> NotFound | WrongState:
    row = connection.execute(
        select(campaigns.c.name, campaigns.c.status).where(campaigns.c.id == campaign_id)
    ).one_or_none()
    if row is None:
        return NotFound("campaign", str(campaign))
    name, status = row
    verb = "started" if old is S.READY else "resumed"
    advice = {
        S.LOADING: "wait until its upload has ended",
        S.READY: f"start it with `trunkline campaign start {shlex.quote(name)}`",
        S.RUNNING: "nothing is to be done",
        S.PAUSED: f"continue it with `trunkline campaign resume {shlex.quote(name)}`",
    }.get(S(status), "upload a new campaign")
    sentence = f"campaign: {name!r} is {status}, and only a {old} one can be {verb}: {advice}"
    return WrongState(sentence, state=status, needed=old)
