"""An agent's limit: of all its campaigns and single calls together, and nobody else waits for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.carrier import witness
from deploy.carrier.people import numbers
from deploy.embedded.valkey import Valkey
from models.database import open_engine
from models.slots import LeaderSlots, Slots, connect
from scheduler.grants import MOST_A_ROUND, Granter
from scheduler.holdups import explain
from scheduler.housekeeping import Housekeeping
from scheduler.lines import Lines, load_lines
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, Rows, ended, uuid7
from tests.integration.system import System, until
from tests.integration.test_campaign import is_over, seen_of, write_csv


@dataclass(frozen=True, kw_only=True)
class World:
    """A trunk of 1000 slots, an agent of three, one of none; and the leader's side of it."""

    rows: Rows
    other: UUID
    slots: Slots
    leader: LeaderSlots
    granter: Granter

    def limit(self, most: int | None) -> None:
        self.rows.run("UPDATE agents SET max_concurrent_calls = %(n)s WHERE id = %(a)s", n=most, a=self.rows.agent)

    def campaign(self, calls: int, agent: UUID | None = None) -> UUID:
        campaign = self.rows.campaign(calls)
        for table, column in (("campaigns", "id"), ("calls", "campaign_id")):
            self.rows.run(
                f"UPDATE {table} SET agent_id = %(a)s WHERE {column} = %(c)s", a=agent or self.rows.agent, c=campaign
            )
        return campaign

    def single_calls(self, calls: int, agent: UUID | None = None) -> None:
        self.rows.run(
            "INSERT INTO calls (id, agent_id, phone_number, from_number)"
            " SELECT unnest(%(ids)s::uuid[]), %(a)s, '+12125550101', %(f)s",
            ids=[uuid7() for _ in range(calls)],
            a=agent or self.rows.agent,
            f=FROM,
        )

    def lines(self) -> Lines:
        with self.rows.engine.begin() as connection:
            return load_lines(connection)

    def grant(self, lines: Lines | None = None) -> list[UUID]:
        """What one round grants."""
        with self.rows.engine.connect() as connection:
            return list(self.granter.grant(connection, lines or self.lines()).attempt_ids)

    def granted(self) -> dict[UUID, int]:
        """How many calls each agent has open."""
        rows = self.rows.all(
            "SELECT c.agent_id, count(*) FROM attempts a JOIN calls c ON c.id = a.call_id"
            " WHERE a.status IN ('queued', 'initiated') GROUP BY c.agent_id"
        )
        return {row[0]: row[1] for row in rows}

    def in_use(self) -> int:
        return self.slots.in_use("agent", self.rows.agent)

    def end(self, attempts: list[UUID]) -> None:
        self.rows.claim(attempts)
        self.slots.free(self.rows.record(*(ended(attempt, 17, 486) for attempt in attempts)))


@pytest.fixture
def world(database: Database, valkey: Valkey) -> Iterator[World]:
    engine = open_engine(database.settings, "trunkline-test")
    rows = Rows(engine=engine)
    rows.run("UPDATE trunks SET max_concurrent_calls = 1000, max_calls_per_second = 100000")
    rows.run("UPDATE nodes SET max_calls = 1000")
    other = uuid4()
    rows.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, 'other', 'playback://a')", id=other)
    client = connect(valkey.url)
    leader = LeaderSlots(valkey.url, 1)
    leader.rebuild([], [])
    world = World(rows=rows, other=other, slots=Slots(client), leader=leader, granter=Granter(leader))
    world.limit(3)
    yield world
    leader.close()
    client.close()
    engine.dispose()


def test_campaigns_and_single_calls_of_an_agent_share_its_limit(world: World) -> None:
    for _ in range(2):
        world.campaign(10)
    world.single_calls(1)
    first = world.grant()
    world.grant()
    assert world.granted() == {world.rows.agent: 3}
    assert world.in_use() == 3
    world.end(first[:2])
    assert world.in_use() == len(first) - 2 + (3 - len(first))
    world.grant()
    assert world.granted() == {world.rows.agent: 3}


def test_a_full_agent_keeps_nobody_elses_calls_waiting(world: World) -> None:
    world.single_calls(2 * MOST_A_ROUND)
    world.campaign(2 * MOST_A_ROUND)
    world.single_calls(5, world.other)
    world.campaign(7, world.other)
    for _ in range(3):
        world.grant()
    assert world.granted() == {world.rows.agent: 3, world.other: 12}
    with world.rows.engine.connect() as connection:
        assert not world.granter.grant(connection, world.lines()).more_due, "its calls are not even picked"


def test_an_agent_without_a_limit_has_no_slots_of_its_own(world: World) -> None:
    world.limit(None)
    world.campaign(5)
    world.grant()
    assert world.granted() == {world.rows.agent: 5}
    assert world.in_use() == 0
    assert all(scope.kind != "agent" for scope in world.lines().scopes)


def test_single_calls_of_an_agent_whose_limit_is_newer_than_the_lines_wait_for_newer_ones(world: World) -> None:
    world.limit(None)
    before = world.lines()
    world.limit(1)
    world.single_calls(2)
    assert world.grant(before) == []
    world.grant()
    assert world.granted() == {world.rows.agent: 1}


def test_the_ledger_gives_the_agents_slots_back_to_a_redis_that_forgot(world: World) -> None:
    world.campaign(5)
    world.grant()
    with world.rows.engine.connect() as connection:
        house = Housekeeping(connection)
        world.leader.rebuild(house.holders(), [])
        assert world.in_use() == 3
        assert world.grant() == []
        assert world.leader.audit(house.holders()).put_back == 0


def test_a_call_that_goes_to_the_next_gateway_keeps_its_agents_slot(world: World) -> None:
    world.limit(1)
    world.rows.run(
        "INSERT INTO trunk_gateways (id, trunk_id, gateway_address, port, priority) VALUES (%(id)s, %(t)s, '127.0.0.2', 5070, 2)",
        id=uuid4(),
        t=world.rows.trunk,
    )
    world.campaign(3)
    [first] = world.grant()
    world.rows.claim([first])
    assert world.rows.record(ended(first, 34, 503)) == []
    assert world.grant() == [], "its slot is held"
    with world.rows.engine.connect() as connection:
        [second] = world.granter.hand_over(connection, world.lines()).attempt_ids
    assert world.in_use() == 1
    assert world.grant() == []
    world.end([second])
    assert world.in_use() == 0


def test_it_is_said_that_the_agent_is_full(world: World) -> None:
    campaign = world.campaign(5)
    world.grant()
    holdups = explain(world.rows.engine, world.slots, campaign).holdups
    [full] = [holdup for holdup in holdups if holdup.what == "agent-full"]
    assert (full.count, full.limit) == (3, 3)
    assert "3 of 3 slots" in full.sentence


# ------------------------------------------------------------------------------------------------ at the carrier


def test_two_campaigns_of_an_agent_never_have_more_calls_up_than_it_may(system: System, tmp_path: Path) -> None:
    from_number = system.add_trunk("shared", slots=20, calls_per_second=100)
    system.trunkline("agent", "create", "three", "--connect", "playback://hello-world", "--max-concurrent-calls", 3)
    system.trunkline("agent", "create", "any", "--connect", "playback://hello-world")
    people = {
        "three a": numbers({"01": 20}, skip=0),
        "three b": numbers({"01": 20}, skip=20),
        "any": numbers({"01": 40}, skip=40),
    }
    for name, to in people.items():
        file = write_csv(tmp_path / f"{name}.csv", to)
        agent = name.split()[0]
        system.trunkline("campaign", "upload", file, "--name", name, "--agent", agent, "--from", from_number)
    for name in people:
        system.trunkline("campaign", "start", name)
    agent_id = system.value("SELECT id FROM agents WHERE name = 'three'")
    until(lambda: system.slots.in_use("agent", agent_id) == 3, what="the agent is full")
    until(lambda: is_over(system, "any"), within=60, what="the other agent's campaign is over")
    assert not is_over(system, "three a"), "the full agent's is not, and kept nobody waiting"
    until(lambda: is_over(system, "three a") and is_over(system, "three b"), within=120, what="all is over")
    of_three = seen_of(system, people["three a"] + people["three b"])
    assert len(of_three) == 40
    assert witness.peak_at_once(of_three) == 3
    assert witness.peak_at_once(seen_of(system, people["any"])) > 3
    until(lambda: system.slots.in_use("agent", agent_id) == 0, what="every slot is free again")


def test_a_limit_that_is_set_while_calls_are_up_counts_them(system: System, api: httpx.Client, tmp_path: Path) -> None:
    from_number = system.add_trunk("late limit", slots=20, calls_per_second=100)
    agent = api.post("/agents", json={"name": "late limit", "connect": "playback://demo-congrats"}).json()
    first, later = numbers({"00": 5}, skip=100), numbers({"01": 10}, skip=120)
    calls = [system.call(UUID(agent["id"]), from_number, to) for to in first]
    until(lambda: {system.status(call) for call in calls} == {"in-progress"}, what="five are up")
    assert api.patch(f"/agents/{agent['id']}", json={"max_concurrent_calls": 2}).json()["max_concurrent_calls"] == 2
    file = write_csv(tmp_path / "late.csv", later)
    system.trunkline(
        "campaign", "upload", file, "--name", "late", "--agent", "late limit", "--from", from_number, "--start"
    )
    until(lambda: system.slots.in_use("agent", agent["id"]) == 5, what="they count")
    shown = json.loads(system.trunkline("explain", "late", "--json"))
    assert "5 of 2 slots in use" in json.dumps(shown)
    assert seen_of(system, later) == []
    for call in calls[:4]:
        system.trunkline("hang-up", call)
    until(lambda: len(seen_of(system, later)) >= 1, what="there is room for one")
    system.trunkline("hang-up", calls[4])
    until(lambda: len(seen_of(system, later)) >= 3)
    assert witness.peak_at_once(seen_of(system, later)) <= 2
    system.trunkline("campaign", "stop", "late", "--hang-up")
