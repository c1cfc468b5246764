"""`/call/{id}/explain` and `/call/{id}/resolve`: why a call ended as it did, and what to do where that cannot be known."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from scheduler import call_story, resolving
from scheduler.api.batches import Resolved
from scheduler.api.limits import STOPS
from scheduler.api.parts import Using
from scheduler.api.problems import answers
from scheduler.call_story import CallStory
from scheduler.resolving import Decision

router = APIRouter(prefix="/call", tags=["calls"])


class ResolveCall(BaseModel):
    """What to do with a call whose end cannot be known (`unknown`)."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision = Field(
        description="`call-again`: as soon as there is a slot, though they may have been talked to."
        " `leave`: it stays unknown, and its slot is released."
    )


@router.get("/{execution_id}/explain", responses=answers(404, 422))
def explain(execution_id: UUID, using: Using) -> CallStory:
    """Tells what became of a call, attempt by attempt, and what to do; of one that is still to be made, what it waits for."""
    with using.transaction() as connection:
        return call_story.tell(connection, execution_id)


@router.post("/{execution_id}/resolve", responses=answers(400, 404, 409, 422))
def resolve(execution_id: UUID, body: ResolveCall, using: Using) -> Resolved:
    """Decides on a call whose end cannot be known: call again, or leave."""
    with STOPS.one():
        return Resolved(**vars(resolving.resolve(using.settings, body.decision, calls=[execution_id])))
