"""Why nothing, or not more, is being dialled: each reason is named, with its counts, and no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from deploy.embedded.valkey import Valkey
from models.database import open_engine
from models.roles import SCHEDULER, hold
from models.slots import LeaderSlots, Lease, Scope, Slots, connect
from scheduler.holdups import CampaignNow, Holdup, explain
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, Rows


@dataclass(frozen=True, kw_only=True)
class World:
    rows: Rows
    slots: Slots
    leader: LeaderSlots
    campaign: UUID
    scheduler: ExitStack  #: closed, nobody leads any more

    def explain(self, slots: Slots | None = None) -> CampaignNow:
        return explain(self.rows.engine, slots or self.slots, str(self.campaign))

    def only(self, slots: Slots | None = None) -> Holdup:
        [holdup] = self.explain(slots).holdups
        return holdup

    def take(self, scope: Scope, many: int) -> None:
        leases = [Lease(attempt_id=uuid4(), scopes=(scope,)) for _ in range(many)]
        assert len(self.leader.take([scope], leases).granted) == many

    def trunk(self, calls_per_second: float | None = None) -> Scope:
        return Scope(kind="trunk", id=str(self.rows.trunk), limit=10, calls_per_second=calls_per_second)


@pytest.fixture
def world(database: Database, valkey: Valkey) -> Iterator[World]:
    """A campaign of five calls that nothing holds back."""
    engine = open_engine(database.settings, "trunkline-test")
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        scheduler = stack.enter_context(ExitStack())
        assert scheduler.enter_context(hold(database.settings, SCHEDULER, threading.Event())) is not None
        client = stack.enter_context(connect(valkey.url))
        leader = LeaderSlots(valkey.url, 1)
        stack.callback(leader.close)
        leader.rebuild([], [])
        rows = Rows(engine=engine)
        yield World(rows=rows, slots=Slots(client), leader=leader, campaign=rows.campaign(5), scheduler=scheduler)


def test_nothing_holds_back_a_campaign_that_nothing_holds_back(world: World) -> None:
    assert list(world.explain().holdups) == []


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        ("UPDATE campaigns SET status = 'paused'", "paused", ["operator", "`trunkline campaign resume ", "5 calls"]),
        (
            "UPDATE campaigns SET status = 'paused', pause_reason = 'Its agent is down.'",
            "paused",
            ["agent is down", "resume"],
        ),
        ("UPDATE campaigns SET status = 'ready'", "ready", ["`trunkline campaign start ", "5 calls"]),
        ("UPDATE campaigns SET status = 'stopped'", "stopped", ["operator"]),
        ("UPDATE calls SET status = 'canceled'", "nothing-left", ["0 calls"]),
        (
            "UPDATE calls SET due_at = '2099-01-02 03:04:05Z'",
            "nothing-due",
            ["5 calls", "2099-01-02 03:04:05 UTC"],
        ),
        ("UPDATE trunks SET is_active = false", "trunk-off", ["trunk enable"]),
        ("DELETE FROM phone_numbers", "number-unregistered", [FROM, "number add"]),
        ("UPDATE nodes SET heard_at = now() - interval '1 minute'", "no-node", ["Asterisk", "doctor"]),
        (
            "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
            " SELECT id, 5, 'congestion', 1, '2099-01-02 03:04:05Z' FROM trunk_gateways",
            "trunk-paused",
            ["127.0.0.1:5070", "5 failures", "congestion", "one call", "2099-01-02 03:04:05 UTC", "trunk check"],
        ),
        (
            "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
            " SELECT id, 5, 'congestion', 1, now() FROM trunk_gateways",
            "trunk-paused",
            ["127.0.0.1:5070", "5 failures", "congestion", "one call at a time"],
        ),
        (
            "WITH second AS (INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority)"
            " SELECT trunk_id, '127.0.0.1', 5080, 2 FROM trunk_gateways RETURNING id)"
            " INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
            " SELECT id, 5, 'congestion', 1, '2099-01-02 03:04:05Z' FROM second",
            "gateway-resting",
            ["127.0.0.1:5080", "5 failures", "congestion", "2099-01-02 03:04:05 UTC", "trunk check"],
        ),
        (
            "WITH second AS (INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority)"
            " SELECT trunk_id, '127.0.0.1', 5080, 2 FROM trunk_gateways RETURNING id)"
            " INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
            " SELECT id, 5, 'congestion', 1, now() FROM second",
            "gateway-on-trial",
            ["127.0.0.1:5080", "one call at a time"],
        ),
        (
            "INSERT INTO node_health (node, failures, last_failure, rests, rests_until)"
            " VALUES ('n1', 7, 'AMI user refused', 1, '2099-01-02 03:04:05Z')",
            "node-resting",
            ["n1", "7 calls", "AMI user refused", "2099-01-02 03:04:05 UTC", "by itself", "doctor"],
        ),
        (
            "INSERT INTO node_health (node, failures, last_failure, rests, rests_until)"
            " VALUES ('n1', 7, 'AMI user refused', 1, now())",
            "node-on-trial",
            ["n1", "one call at a time", "AMI user refused", "doctor"],
        ),
    ],
)
def test_each_reason_is_named(world: World, change: str, what: str, words: list[str]) -> None:
    world.rows.run(change)
    holdup = world.only()
    assert holdup.what == what
    assert all(word in holdup.sentence for word in words), holdup.sentence


def test_full_slots_are_counted(world: World) -> None:
    world.take(world.trunk(), 10)
    assert (world.only().what, world.only().count, world.only().limit) == ("trunk-full", 10, 10)


def test_the_campaigns_own_limit_and_a_full_node_are_named(world: World) -> None:
    world.rows.run("UPDATE campaigns SET max_concurrent_calls = 2")
    world.rows.run("UPDATE nodes SET max_calls = 1")
    world.take(Scope(kind="campaign", id=str(world.campaign), limit=2), 2)
    world.take(Scope(kind="node", id="n1", limit=1), 1)
    assert [holdup.what for holdup in world.explain().holdups] == ["campaign-full", "node-full"]


def test_the_calls_a_second_are_named_where_slots_are_free(world: World) -> None:
    world.rows.run("UPDATE trunks SET max_calls_per_second = 0.01")
    world.take(world.trunk(0.01), 1)
    holdup = world.only()
    assert holdup.what == "rate"
    assert "0.01 calls a second" in holdup.sentence


def test_grants_that_no_worker_takes_are_counted(world: World) -> None:
    world.rows.grant(world.campaign, 3)
    assert list(world.explain().holdups) == [], "they may be on their way"
    world.rows.run("UPDATE attempts SET queued_at = queued_at - interval '10 seconds'")
    assert (world.only().what, world.only().count) == ("no-worker", 3)


def test_without_a_scheduler_that_is_said(world: World) -> None:
    world.scheduler.close()
    assert world.only().what == "no-scheduler"


def test_without_redis_that_is_said_once(world: World) -> None:
    with connect("redis://127.0.0.1:1/0") as nobody:
        assert world.only(Slots(nobody)).what == "no-redis"
