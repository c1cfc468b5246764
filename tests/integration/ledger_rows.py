"""Rows of the ledger for tests, made by the functions that make them in earnest where there are such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import uuid_utils.compat
from sqlalchemy import Engine

from models import ledger
from models.ledger import DueCall, Grant
from models.sightings import Sight, Sighting

TIMER_B = timedelta(milliseconds=6400)
FROM = "+12025550100"


def uuid7() -> UUID:
    return uuid_utils.compat.uuid7()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One trunk with one gateway, one node, one agent; campaigns and calls as the test wants them."""

    engine: Engine
    trunk: UUID = field(default_factory=uuid4)
    gateway: UUID = field(default_factory=uuid4)
    agent: UUID = field(default_factory=uuid4)
    _people: count[int] = field(default_factory=lambda: count(1_000_000))

    def __post_init__(self) -> None:
        self.run("INSERT INTO trunks (id, name, auth_type) VALUES (%(id)s, %(id)s, 'ip-based')", id=self.trunk)
        self.run(
            "INSERT INTO trunk_gateways (id, trunk_id, gateway_address, port) VALUES (%(id)s, %(trunk)s, '127.0.0.1', 5070)",
            id=self.gateway,
            trunk=self.trunk,
        )
        self.run("INSERT INTO phone_numbers (phone_number, trunk_id) VALUES (%(n)s, %(t)s)", n=FROM, t=self.trunk)
        self.run(
            "INSERT INTO agents (id, name, connect) VALUES (%(id)s, %(id)s, 'playback://demo-congrats')", id=self.agent
        )
        self.run("INSERT INTO nodes (name, max_calls, heard_at, listening_since) VALUES ('n1', 200, now(), now())")

    def campaign(self, calls: int, status: str = "running") -> UUID:
        campaign_id = uuid7()
        self.run(
            "INSERT INTO campaigns (id, name, agent_id, from_numbers, status, started_at)"
            " VALUES (%(id)s, %(id)s, %(agent)s, %(numbers)s, %(status)s, now())",
            id=campaign_id,
            agent=self.agent,
            numbers=[FROM],
            status=status,
        )
        self.run(
            "INSERT INTO calls (id, campaign_id, agent_id, phone_number)"
            " SELECT * FROM unnest(%(ids)s::uuid[], %(campaigns)s::uuid[], %(agents)s::uuid[], %(people)s::text[])",
            ids=[uuid7() for _ in range(calls)],
            campaigns=[campaign_id] * calls,
            agents=[self.agent] * calls,
            people=[f"+1212{next(self._people)}" for _ in range(calls)],
        )
        return campaign_id

    def grant(self, campaign_id: UUID, most: int = 1000) -> list[UUID]:
        """Attempts for the due calls of a campaign, as the leader writes them."""
        with self.engine.begin() as connection:
            due = ledger.pick_campaign_calls(connection, {campaign_id: most}, most=most)
            grants = [self.plan(call) for call in due]
            if grants:
                ledger.grant(connection, grants)
        return [grant.id for grant in grants]

    def plan(self, call: DueCall) -> Grant:
        return Grant(
            id=uuid7(),
            call_id=call.id,
            campaign_id=call.campaign_id,
            trunk_id=self.trunk,
            gateway_id=self.gateway,
            node="n1",
            dialed_number=call.phone_number,
            from_number=FROM,
        )

    def claim(self, attempt_ids: Sequence[UUID]) -> list[UUID]:
        with self.engine.begin() as connection:
            return [claim.id for claim in ledger.claim(connection, attempt_ids)]

    def record(self, *sightings: Sighting) -> list[UUID]:
        with self.engine.begin() as connection:
            return [row.id for row in ledger.record(connection, sightings, timer_b=TIMER_B).over]

    def attempt(self, attempt_id: UUID) -> Any:
        return self.one("SELECT * FROM attempts WHERE id = %(id)s", id=attempt_id)

    def call_of(self, attempt_id: UUID) -> Any:
        return self.one(
            "SELECT c.* FROM calls c JOIN attempts a ON a.call_id = c.id WHERE a.id = %(id)s", id=attempt_id
        )

    def moves(self, attempt_id: UUID) -> list[tuple[str, str, str]]:
        """The transitions of an attempt and of its call, in order."""
        return [
            tuple(row)
            for row in self.all(
                "SELECT subject, from_status, to_status FROM call_events"
                " WHERE call_id = (SELECT call_id FROM attempts WHERE id = %(id)s)"
                " AND (subject = 'call' OR attempt_id = %(id)s) ORDER BY at",
                id=attempt_id,
            )
        ]

    def all(self, sql: str, **parameters: object) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.exec_driver_sql(sql, parameters or None).all())

    def one(self, sql: str, **parameters: object) -> Any:
        (row,) = self.all(sql, **parameters)
        return row

    def value(self, sql: str, **parameters: object) -> Any:
        return self.one(sql, **parameters)[0]

    def run(self, sql: str, **parameters: object) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql, parameters or None)


def saw(
    attempt_id: UUID,
    sight: Sight,
    *,
    cause: int | None = None,
    sip_code: int | None = None,
    channel_at: datetime | None = None,
) -> Sighting:
    return Sighting(
        attempt_id=attempt_id, at=datetime.now(UTC), sight=sight, cause=cause, sip_code=sip_code, channel_at=channel_at
    )


def ended(attempt_id: UUID, cause: int, sip_code: int | None = None) -> Sighting:
    return saw(attempt_id, Sight.ENDED, cause=cause, sip_code=sip_code)
