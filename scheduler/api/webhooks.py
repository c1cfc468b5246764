"""`/webhooks`: what receivers of webhooks need, and what did not reach them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from models import webhooks
from models.statuses import Status
from scheduler.api.parts import Using
from scheduler.api.problems import answers

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


class AskedSecret(BaseModel):
    """Whose secret."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="As the agent or the batch has it.", examples=["https://example.com/calls"])


class Secret(BaseModel):
    """What a receiver verifies signatures with."""

    model_config = ConfigDict(extra="forbid")

    url: str
    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class AskedDeliveries(BaseModel):
    """How many."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=1000, description="The newest so many.")


class UndeliveredShown(BaseModel):
    """A delivery that has failed at least once."""

    model_config = ConfigDict(extra="forbid")

    id: UUID = Field(description="The `webhook-id`.")
    call_id: UUID
    status: Status = Field(description="That the call came to.")
    at: datetime
    url: str
    tries: int
    last_error: str = Field(examples=["answered 503"])
    due_at: datetime | None = Field(description="When it is tried again; null once it is given up.")
    given_up_at: datetime | None


class Deliveries(BaseModel):
    """Those that fail, and those that were given up in the last week."""

    model_config = ConfigDict(extra="forbid")

    deliveries: list[UndeliveredShown]


@router.get("/secret", responses=answers(422))
def secret(asked: Annotated[AskedSecret, Query()], using: Using) -> Secret:
    """Shows the secret that signs what goes to an address (Standard Webhooks). Needs a key of scope admin."""
    url = webhooks.check_url(asked.url)
    with using.transaction() as connection:
        return Secret(url=url, secret=webhooks.secrets_of(connection, url)[0])


@router.post("/secret/rotate", responses=answers(422))
def rotate_secret(asked: AskedSecret, using: Using) -> Secret:
    """Makes a new secret for an address; the one before signs beside it for a day. Needs a key of scope admin."""
    url = webhooks.check_url(asked.url)
    with using.transaction() as connection:
        return Secret(url=url, secret=webhooks.replace_secret(connection, url))


@router.get("/deliveries", responses=answers(422))
def deliveries(asked: Annotated[AskedDeliveries, Query()], using: Using) -> Deliveries:
    """Lists the deliveries that fail or were given up, the newest first."""
    with using.transaction() as connection:
        found = webhooks.list_undelivered(connection, asked.limit)
    return Deliveries(deliveries=[UndeliveredShown(**asdict(one)) for one in found])
