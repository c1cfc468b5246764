"""Agents: what talks to the people who answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, Unpack
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from models.agents import Kind, check_sound, parse_connect
from models.errors import Conflict, Invalid, NotFound
from models.schema import agents, calls, campaigns
from models.settings import LONGEST_CALL_LIMIT, Settings
from models.webhooks import check_url
from scheduler.fields import thing_name
from scheduler.refs import Ref, find, is_named

MOST_CALLS = 100_000  #: a limit above this is a slip of the finger, and has to fit an integer


@dataclass(frozen=True, kw_only=True)
class Agent:
    id: UUID
    name: str
    connect: str
    created_at: datetime
    fallback: str | None  #: the sound for the person whom it did not reach; None: the default
    max_call_seconds: int | None  #: None: the longest call of the settings
    webhook_url: str | None
    max_concurrent_calls: int | None  #: None: as many as its trunks carry


class Options(TypedDict, total=False):
    """What an agent may have, or None."""

    fallback: str | None
    max_call_seconds: int | None
    webhook_url: str | None
    max_concurrent_calls: int | None


class Change(Options, total=False):
    """What is to be changed."""

    name: str
    connect: str


def check_connect(text: str, settings: Settings) -> str:
    """The `connect` of an agent that may be called here.

    Raises `Invalid` for a form that is not understood and for a dialplan context that is not allowed.
    """
    connect = parse_connect(text)
    if connect.kind is Kind.DIALPLAN and connect.parts[0] not in settings.allowed_contexts:
        allowed = ", ".join(sorted(settings.allowed_contexts)) or "none"
        raise Invalid(
            "connect",
            f"context {connect.parts[0]!r} is not allowed: name it in TRUNKLINE_DIALPLAN_CONTEXTS (there now: {allowed})",
        )
    return str(connect)


def create(connection: Connection, settings: Settings, name: str, connect: str, **more: Unpack[Options]) -> Agent:
    """Raises `Invalid`, and `Conflict` for a name that is taken."""
    row = (
        connection.execute(
            insert(agents)
            .values(id=uuid_utils.compat.uuid7(), **_checked(settings, {"name": name, "connect": connect, **more}))
            .on_conflict_do_nothing(index_elements=[agents.c.name])
            .returning(agents)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise _taken(name)
    return Agent(**row)


def update(connection: Connection, settings: Settings, agent: Ref, **change: Unpack[Change]) -> Agent:
    """Changes what is given, for every call from now on; what may be None goes back to its default by it.

    Raises `NotFound`, `Invalid`, and `Conflict` for a name that is taken.
    """
    chosen = is_named(agents, agent)
    changes = _checked(settings, change)
    if not changes:
        return get(connection, agent)
    try:
        row = (
            connection.execute(agents.update().where(chosen).values(changes).returning(agents)).mappings().one_or_none()
        )
    except IntegrityError as error:
        raise _taken(change["name"]) from error
    if row is None:
        raise NotFound("agent", str(agent))
    return Agent(**row)


def _checked(settings: Settings, fields: Change) -> dict[str, object]:
    checked: dict[str, object] = dict(fields)
    if "name" in fields:
        checked["name"] = thing_name(fields["name"], field="name")
    if "connect" in fields:
        checked["connect"] = check_connect(fields["connect"], settings)
    if (sound := fields.get("fallback")) is not None:
        checked["fallback"] = check_sound(sound, field="fallback")
    if (seconds := fields.get("max_call_seconds")) is not None and not 1 <= seconds <= LONGEST_CALL_LIMIT:
        raise Invalid("max_call_seconds", f"must be from 1 to {LONGEST_CALL_LIMIT}")
    if (most := fields.get("max_concurrent_calls")) is not None and not 1 <= most <= MOST_CALLS:
        raise Invalid("max_concurrent_calls", f"must be from 1 to {MOST_CALLS}")
    if (url := fields.get("webhook_url")) is not None:
        checked["webhook_url"] = check_url(url)
    return checked


def _taken(name: str) -> Conflict:
    return Conflict(f"name: there is already an agent {name!r}: choose another name")


def get(connection: Connection, agent: Ref) -> Agent:
    """Raises `NotFound`."""
    return Agent(**find(connection, select(agents), agents, agent)._mapping)


def list_all(connection: Connection) -> list[Agent]:
    """All agents by name."""
    return [Agent(**row) for row in connection.execute(select(agents).order_by(agents.c.name)).mappings()]


def delete(connection: Connection, agent: Ref) -> None:
    """Raises `NotFound`, and `Conflict` for an agent that has campaigns or calls: their history names it."""
    found = find(connection, select(agents.c.id, agents.c.name).with_for_update(), agents, agent)
    agent_id, name = found.id, found.name
    # a campaign's calls have its agent, so only single calls are looked at one by one
    used = connection.execute(
        select(
            or_(
                select(campaigns.c.id).where(campaigns.c.agent_id == agent_id).exists(),
                select(calls.c.id).where(calls.c.campaign_id.is_(None), calls.c.agent_id == agent_id).exists(),
            )
        )
    ).scalar_one()
    if used:
        raise Conflict(f"agent: {name!r} has campaigns or calls and stays, because their history names it")
    connection.execute(agents.delete().where(agents.c.id == agent_id))
