"""`/agents`: what talks to the people who answer."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from scheduler import agents
from scheduler.api.parts import Using
from scheduler.api.problems import answers

router = APIRouter(prefix="/agents", tags=["agents"])


class AgentShown(BaseModel):
    """An agent."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str
    telephony_provider: Literal["sip-trunk"] = "sip-trunk"
    connect: str
    fallback: str | None
    max_call_seconds: int | None
    max_concurrent_calls: int | None
    webhook_url: str | None
    created_at: datetime


@router.get("/{agent_id}", responses=answers(404, 422))
def show(agent_id: UUID, using: Using) -> AgentShown:
    """Shows an agent."""
    with using.transaction() as connection:
        return AgentShown(**asdict(agents.get(connection, agent_id)))
