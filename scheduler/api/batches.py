"""`/batches`: campaigns, in the words of the reference service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from models.errors import Conflict, NotFound, WrongState
from models.statuses import Status
from scheduler import batches, campaigns, deletion, holdups, resolving, stopping
from scheduler.api.forms import body_of, described
from scheduler.api.limits import STOPS
from scheduler.api.moments import Moment
from scheduler.api.parts import Parts, Using
from scheduler.api.problems import answers
from scheduler.presence import require_asterisk
from scheduler.resolving import Decision
from scheduler.retry_config import RetryConfig
from scheduler.single import later

router = APIRouter(prefix="/batches", tags=["batches"])

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Cursor = Annotated[UUID | None, Query(description="The `next_cursor` of the page before.")]


class Batch(BaseModel):
    """A list of people, and how far their calls are."""

    model_config = ConfigDict(extra="forbid")

    batch_id: UUID
    name: str
    agent_id: UUID
    status: Literal["loading", "ready", "scheduled", "running", "paused", "completed", "stopped"] = Field(
        description="`scheduled`: ready, and starts by itself at `scheduled_at`."
    )
    pause_reason: str | None = Field(description="Of a pause that nobody asked for.")
    created_at: datetime
    updated_at: datetime
    scheduled_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    from_phone_numbers: list[str]
    max_concurrent_calls: int | None
    file_name: str | None
    total_contacts: int = Field(description="Rows of the file; while it is loading, so far.")
    valid_contacts: int = Field(description="Those that are called.")
    rejected: int = Field(description="Those that cannot be.")
    duplicate: int = Field(description="Those with the number of a row before.")
    suppressed: int
    execution_status: dict[Status, int] = Field(description="How many calls are in each status.")
    webhook_url: str | None
    retry_config: RetryConfig | None
    bypass_call_guardrails: bool


class BatchPage(BaseModel):
    """The newest first."""

    model_config = ConfigDict(extra="forbid")

    data: list[Batch]
    has_more: bool
    next_cursor: UUID | None


class Start(BaseModel):
    """When to start."""

    model_config = ConfigDict(extra="forbid")

    scheduled_at: Moment | None = Field(
        None,
        description="ISO 8601 with an offset or `Z`, at most 366 days ahead; now where it has passed or is left out.",
        examples=["2026-03-01T09:30:00+05:30"],
    )
    bypass_call_guardrails: bool = Field(False, strict=True, description="Kept and shown; there are no guardrails yet.")


async def _start(request: Request) -> Start:
    return await body_of(request, Start) or Start.model_validate({})


class Stop(BaseModel):
    """How to stop."""

    model_config = ConfigDict(extra="forbid")

    hang_up: bool = Field(False, strict=True, description="Ends the calls that are up as well.")


class Resolve(BaseModel):
    """What to do with calls whose end cannot be known (`unknown`)."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision = Field(
        description="`call-again`: as soon as there is a slot, though some may have been talked to."
        " `leave`: they stay unknown, and their slots are released."
    )
    call_ids: list[UUID] | None = Field(None, min_length=1, max_length=1000, description="Only these.")


class Started(BaseModel):
    """It runs, or will."""

    model_config = ConfigDict(extra="forbid")

    message: Literal["success"] = "success"
    state: Literal["running", "scheduled"]
    scheduled_at: datetime | None = None


class Stopped(BaseModel):
    """What a stop or a pause did; nothing of the batch is dialled any more."""

    model_config = ConfigDict(extra="forbid")

    message: Literal["success"] = "success"
    state: Literal["stopped", "paused"]
    withdrawn: int = Field(description="Granted, and taken back before they were dialled.")
    canceled: int = Field(description="That will not be made.")
    still_up: int


class Deleted(BaseModel):
    """It is gone."""

    model_config = ConfigDict(extra="forbid")

    message: Literal["success"] = "success"
    state: Literal["deleted"] = "deleted"


class Resolved(BaseModel):
    """What was done with unknown calls."""

    model_config = ConfigDict(extra="forbid")

    called_again: int
    left: int
    still_up: int = Field(description="Not decided on, since they are up: their end will be seen.")
    not_known: int = Field(description="Not decided on, since their node does not answer and they may be up there.")
    ask_again_at: datetime | None = Field(description="When the longest of these is over for certain.")


class Holdup(BaseModel):
    """One reason why nothing, or not more, is dialled."""

    model_config = ConfigDict(extra="forbid")

    what: str = Field(examples=["trunk-full"])
    sentence: str = Field(examples=["Trunk main: 10 of 10 slots in use."])
    count: int | None
    limit: int | None
    until: datetime | None


class Explanation(BaseModel):
    """What holds a batch back right now; nothing does where `holdups` is empty."""

    model_config = ConfigDict(extra="forbid")

    batch_id: UUID
    status: str
    holdups: list[Holdup]


@router.get("", responses=answers(422))
def list_all(using: Using, limit: Limit = 100, cursor: Cursor = None) -> BatchPage:
    """Lists batches, the newest first, those that are being loaded too."""
    with using.transaction() as connection:
        found = batches.page(connection, before=cursor, limit=limit + 1)
    shown = [Batch(**one) for one in found[:limit]]
    more = len(found) > limit
    return BatchPage(data=shown, has_more=more, next_cursor=shown[-1].batch_id if more else None)


@router.get("/{agent_id}/all", responses=answers(404, 422))
def list_of_agent(agent_id: UUID, using: Using, limit: Limit = 1000, cursor: Cursor = None) -> list[Batch]:
    """Lists an agent's batches, the newest first; the next page follows the last `batch_id` of this one."""
    with using.transaction() as connection:
        return [Batch(**one) for one in batches.page(connection, agent_id=agent_id, before=cursor, limit=limit)]


@router.get("/{batch_id}", responses=answers(404, 422))
def show(batch_id: UUID, using: Using) -> Batch:
    """Shows a batch: how far its calls are, or how far its file is loaded."""
    with as_batch(), using.transaction() as connection:
        return Batch(**batches.get(connection, batch_id))


@router.delete("/{batch_id}", responses=answers(404, 409, 422))
def delete(batch_id: UUID, using: Using) -> Deleted:
    """Deletes a batch that does not run, with its calls."""
    with as_batch(), using.transaction() as connection:
        deletion.delete_campaign(connection, batch_id)
    return Deleted()


@router.post("/{batch_id}/schedule", responses=answers(400, 404, 409, 422), openapi_extra=described(Start))
def schedule(batch_id: UUID, using: Using, asked: Annotated[Start, Depends(_start)]) -> Started:
    """Starts a batch, now or later. One that is to start later may be scheduled anew."""
    at = later(asked.scheduled_at, datetime.now(UTC))
    bypass = asked.bypass_call_guardrails
    with as_batch():
        if at is None:
            _run(using, batch_id, partial(campaigns.start, bypass_call_guardrails=bypass))
            return Started(state="running")
        with using.transaction() as connection:
            campaigns.schedule(connection, batch_id, at, bypass_call_guardrails=bypass)
    return Started(state="scheduled", scheduled_at=at.astimezone(UTC))


@router.post("/{batch_id}/pause", responses=answers(404, 409, 422))
def pause(batch_id: UUID, using: Using) -> Stopped:
    """Sends no more calls of a batch; those that are up go on."""
    with as_batch(), STOPS.one():
        done = stopping.pause(using.settings, batch_id)
    return Stopped(state="paused", withdrawn=done.withdrawn, canceled=done.canceled, still_up=done.still_up)


@router.post("/{batch_id}/resume", responses=answers(404, 409, 422))
def resume(batch_id: UUID, using: Using) -> Started:
    """Goes on with a batch that is paused."""
    with as_batch():
        _run(using, batch_id, campaigns.resume)
    return Started(state="running")


@router.post("/{batch_id}/stop", responses=answers(400, 404, 409, 422))
def stop(batch_id: UUID, using: Using, body: Stop | None = None) -> Stopped:
    """Stops a batch for good: what is not dialled yet is canceled."""
    with as_batch(), STOPS.one():
        done = stopping.stop(using.settings, batch_id, hang_up=body is not None and body.hang_up)
    return Stopped(state="stopped", withdrawn=done.withdrawn, canceled=done.canceled, still_up=done.still_up)


@router.post("/{batch_id}/resolve", responses=answers(400, 404, 409, 422))
def resolve(batch_id: UUID, body: Resolve, using: Using) -> Resolved:
    """Decides on the calls whose end cannot be known: call again, or leave."""
    with as_batch(), STOPS.one():
        done = resolving.resolve(using.settings, body.decision, campaign=batch_id, calls=body.call_ids)
    return Resolved(**vars(done))


@router.get("/{batch_id}/explain", responses=answers(404, 422))
def explain(batch_id: UUID, using: Using) -> Explanation:
    """Says why nothing, or not more, of a batch is dialled right now."""
    with as_batch(), using.glance() as slots:
        now = holdups.explain(using.engine, slots, batch_id)
    return Explanation(
        batch_id=batch_id, status=now.counts.status, holdups=[Holdup(**vars(one)) for one in now.holdups]
    )


def _run(using: Parts, batch_id: UUID, run: Callable[[Connection, UUID], None]) -> None:
    """With Redis and Asterisk there: a batch that waits unseen for a dead part would ring hours later."""
    with using.bell() as slots:
        with using.transaction() as connection:
            run(connection, batch_id)
            require_asterisk(connection)
        slots.wake()


@contextmanager
def as_batch() -> Iterator[None]:
    """What is wrong with a campaign, said of a batch."""
    try:
        yield
    except NotFound as error:
        raise NotFound("batch" if error.kind == "campaign" else error.kind, error.name) from error
    except WrongState as error:
        raise Conflict(f"batch is not {error.needed}: it is {error.state}") from error
