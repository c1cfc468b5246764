"""`/agents`: what talks to the people who answer."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from models.settings import LONGEST_CALL_LIMIT
from scheduler import agents
from scheduler.agents import MOST_CALLS
from scheduler.api.parts import Using
from scheduler.api.problems import answers
from scheduler.fields import without_defaults

router = APIRouter(prefix="/agents", tags=["agents"])

Provider = Literal["sip-trunk"]


class AgentShown(BaseModel):
    """An agent."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str
    telephony_provider: Provider = "sip-trunk"
    connect: str
    fallback: str | None
    max_call_seconds: int | None
    max_concurrent_calls: int | None
    webhook_url: str | None
    created_at: datetime


class AgentDeleted(BaseModel):
    """It is gone."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(examples=["The agent is deleted."])


class _AgentFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    telephony_provider: Provider = Field("sip-trunk", description="Calls go through the trunks of trunkline.")
    fallback: str | None = Field(
        None, description="What a person hears whom it does not reach; null: an apology.", examples=["mine/sorry"]
    )
    max_call_seconds: Annotated[StrictInt, Field(ge=1, le=LONGEST_CALL_LIMIT)] | None = Field(
        None, description="From the answer on; null: as the settings say.", examples=[600]
    )
    max_concurrent_calls: Annotated[StrictInt, Field(ge=1, le=MOST_CALLS)] | None = Field(
        None, description="Of all its batches and calls together; null: as many as its trunks carry.", examples=[20]
    )
    webhook_url: str | None = Field(
        None, description="Gets each change of its calls, signed.", examples=["https://example.com/calls"]
    )

    def given(self) -> Any:
        return self.model_dump(exclude_unset=True, exclude={"telephony_provider"})


_Name = Annotated[str, Field(description="Nobody else's.", examples=["bot"])]
_Connect = Annotated[
    str,
    Field(
        description="`audiosocket://HOST:PORT`, `dialplan://CONTEXT/EXTEN` or `playback://SOUND`.",
        examples=["audiosocket://127.0.0.1:9092"],
    ),
]


class AgentCreate(_AgentFields):
    """An agent to be made."""

    name: _Name
    connect: _Connect


class AgentUpdate(_AgentFields):
    """What is to be changed, and nothing else; null goes back to the default."""

    model_config = ConfigDict(json_schema_extra=without_defaults)

    name: _Name = ""
    connect: _Connect = ""


@router.post("", status_code=201, responses=answers(409, 422))
def create(new: AgentCreate, using: Using) -> AgentShown:
    """Makes an agent."""
    with using.transaction() as connection:
        return _shown(agents.create(connection, using.settings, **new.given()))


@router.get("")
def list_all(using: Using) -> list[AgentShown]:
    """Lists the agents, by name."""
    with using.transaction() as connection:
        return [_shown(agent) for agent in agents.list_all(connection)]


@router.get("/{agent_id}", responses=answers(404, 422))
def show(agent_id: UUID, using: Using) -> AgentShown:
    """Shows an agent."""
    with using.transaction() as connection:
        return _shown(agents.get(connection, agent_id))


@router.patch("/{agent_id}", responses=answers(404, 409, 422))
def update(agent_id: UUID, change: AgentUpdate, using: Using) -> AgentShown:
    """Changes what is given, for every call from now on."""
    with using.transaction() as connection:
        agent = agents.update(connection, using.settings, agent_id, **change.given())
    using.wake()
    return _shown(agent)


@router.delete("/{agent_id}", responses=answers(404, 409, 422))
def delete(agent_id: UUID, using: Using) -> AgentDeleted:
    """Deletes an agent that has no batches and no calls."""
    with using.transaction() as connection:
        agents.delete(connection, agent_id)
    return AgentDeleted(message="The agent is deleted.")


def _shown(agent: agents.Agent) -> AgentShown:
    return AgentShown(**asdict(agent))
