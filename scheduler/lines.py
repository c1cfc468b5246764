"""What calls may be placed from, right now: numbers with their trunks, campaigns, agents, nodes.

A snapshot of the ledger that may be a moment old. That is safe: the claim checks again that the
campaign runs and the trunk is on, and Asterisk asks for the trunk's rows at the moment of dialling.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from models.nodes import live_nodes
from models.slots import Scope
from models.statements import statement
from scheduler.agent_watch import UNREACHED_LIMIT
from scheduler.phone_numbers import country_code


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A registered number on an active trunk."""

    phone_number: str
    trunk: Scope
    trunk_id: UUID
    leading_plus: bool
    prefixes: tuple[str, ...]  #: what may be called from it

    def dialed(self, phone_number: str) -> str:
        return phone_number if self.leading_plus else phone_number.removeprefix("+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """A gateway that does not rest. One that has kept failing is `on_trial`: it gets one call, then this snapshot is over."""

    id: UUID
    on_trial: bool
    busy: bool  #: with the one call of its trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    id: UUID
    agent_id: UUID
    from_numbers: tuple[str, ...]
    scope: Scope | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    by_number: Mapping[str, Line]
    gateways: Mapping[UUID, Sequence[Gateway]]  #: by trunk, in the order they are tried
    campaigns: Sequence[Campaign]
    agents: Mapping[UUID, Scope]  #: those that have a limit
    nodes: Mapping[str, Scope]
    nodes_on_trial: Collection[str]  #: each gets one call, then this snapshot is over
    hand_overs: bool  #: some slots wait for the next gateway
    quarantine: bool  #: some calls that may kill their worker are to be made

    @property
    def scopes(self) -> list[Scope]:
        """Every scope that has a limit, each once."""
        trunks = {line.trunk_id: line.trunk for line in self.by_number.values()}
        campaigns = [campaign.scope for campaign in self.campaigns if campaign.scope]
        return [*trunks.values(), *self.nodes.values(), *campaigns, *self.agents.values()]


def load_lines(connection: Connection) -> Lines:
    """Reads the snapshot; small queries, none of which looks at calls."""
    rows = connection.exec_driver_sql(statement("load_lines")).all()
    countries: dict[UUID, set[str]] = {}
    for row in rows:
        countries.setdefault(row.trunk_id, set()).add(country_code(row.phone_number))
    by_number = {
        row.phone_number: Line(
            phone_number=row.phone_number,
            trunk=Scope(
                kind="trunk",
                id=str(row.trunk_id),
                limit=row.max_concurrent_calls,
                calls_per_second=row.max_calls_per_second,
            ),
            trunk_id=row.trunk_id,
            leading_plus=row.leading_plus,
            prefixes=tuple(sorted(countries[row.trunk_id]) if row.allowed_prefixes is None else row.allowed_prefixes),
        )
        for row in rows
    }
    gateways: dict[UUID, list[Gateway]] = {}
    for row in connection.exec_driver_sql(statement("load_gateways")):
        gateways.setdefault(row.trunk_id, []).append(Gateway(id=row.id, on_trial=row.on_trial, busy=row.busy))
    campaigns = [
        Campaign(
            id=row.id,
            agent_id=row.agent_id,
            from_numbers=tuple(row.from_numbers),
            scope=Scope(kind="campaign", id=str(row.id), limit=row.max_concurrent_calls)
            if row.max_concurrent_calls
            else None,
        )
        for row in connection.exec_driver_sql(statement("running_campaigns"), {"unreached_limit": UNREACHED_LIMIT})
    ]
    agents = {  # after the campaigns: a campaign that is there has its agent's limit
        row.id: Scope(kind="agent", id=str(row.id), limit=row.max_concurrent_calls)
        for row in connection.exec_driver_sql(statement("limited_agents"))
    }
    nodes = live_nodes(connection)
    hand_overs, quarantine = connection.exec_driver_sql(
        "SELECT EXISTS (SELECT FROM attempts WHERE hands_over),"
        " EXISTS (SELECT FROM calls WHERE rescues >= 2 AND status = 'scheduled')"
    ).one()
    return Lines(
        by_number=by_number,
        gateways=gateways,
        campaigns=campaigns,
        agents=agents,
        nodes={node.name: Scope(kind="node", id=node.name, limit=node.max_calls) for node in nodes},
        nodes_on_trial=frozenset(node.name for node in nodes if node.on_trial),
        hand_overs=hand_overs,
        quarantine=quarantine,
    )
