"""A node that takes no calls is left alone, tried again with one call, and never for the sake of one worker that is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from asterisk.ami import AmiError, MaybeSent, NeverSent, Refused, TooLate, Unwritable
from asterisk.pool import Accepted, AmiPool, Originate
from deploy.embedded.valkey import Valkey
from models import nodes
from models.database import open_engine
from models.nodes import LONGEST_REST, REST_AFTER, Breaker
from models.slots import LeaderSlots, Slots, connect
from scheduler import call_story
from scheduler.grants import Granter, Round
from scheduler.lines import load_lines
from scheduler.metrics import LedgerCollector
from scheduler.presence import require_asterisk
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows
from workers.originate import Originator

DOWN = NeverSent("AMI is not up: connection lost")


class Scripted(AmiPool):
    """Says of every Originate what the test wants."""

    def __init__(self) -> None:
        super().__init__([])
        self.says: Callable[[str, Originate], AmiError | None] = lambda node, order: None

    def originate_many(self, orders: object) -> list[Accepted | AmiError]:
        results: list[Accepted | AmiError] = []
        for node, order in orders:  # type: ignore[attr-defined]
            results.append(self.says(node, order) or Accepted(attempt_id=order.attempt_id))
        return results


@dataclass(frozen=True, kw_only=True)
class World:
    rows: Rows
    slots: Slots
    granter: Granter
    pool: Scripted
    originator: Originator

    def grant(self) -> Round:
        with self.rows.engine.connect() as connection:
            with connection.begin():
                lines = load_lines(connection)
            return self.granter.grant(connection, lines)

    def dial(self, error: AmiError | None, many: int = 1) -> list[UUID]:
        """So many granted calls in one task, all with the same outcome."""
        self.pool.says = lambda node, order: error
        attempts = self.rows.grant(self.rows.campaign(many))
        self.originator.originate(attempts)
        return attempts

    def breaker(self, node: str = "n1") -> Breaker:
        with self.rows.engine.begin() as connection:
            return next(breaker for breaker in nodes.breakers(connection) if breaker.node == node)

    def live(self) -> list[str]:
        with self.rows.engine.begin() as connection:
            return [node.name for node in nodes.live_nodes(connection)]

    def pass_by(self, time: timedelta) -> None:
        """As if it had passed since everything that is known of nodes."""
        self.rows.run(
            "UPDATE node_health SET failing_since = failing_since - %(t)s, rests_until = rests_until - %(t)s", t=time
        )

    def lengthen_rest(self) -> None:
        """By a minute, so that it lasts however slow the machine is."""
        self.pass_by(-timedelta(minutes=1))

    def open_breaker(self) -> None:
        self.dial(DOWN)
        self.pass_by(timedelta(seconds=1))
        self.dial(DOWN, REST_AFTER)
        self.lengthen_rest()
        assert self.breaker().state == "open"


@pytest.fixture
def world(database: Database, valkey: Valkey) -> Iterator[World]:
    engine = open_engine(database.settings, "trunkline-test")
    rows = Rows(engine=engine)
    rows.run("UPDATE trunks SET max_calls_per_second = 100000, max_concurrent_calls = 50")
    client = connect(valkey.url)
    leader = LeaderSlots(valkey.url, 1)
    leader.rebuild([], [])
    pool = Scripted()
    originator = Originator(database.settings, engine, pool, Slots(client))
    yield World(rows=rows, slots=Slots(client), granter=Granter(leader), pool=pool, originator=originator)
    leader.close()
    client.close()
    engine.dispose()


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        MaybeSent("Originate: no answer within 3 s"),
        Refused("Originate", "Extension does not exist."),
        Refused("Originate", "Permission denied"),
    ],
)
def test_a_node_that_takes_nothing_for_half_a_second_rests(world: World, error: AmiError) -> None:
    world.dial(error, REST_AFTER - 1)
    assert world.breaker().state == "closed"
    world.pass_by(timedelta(seconds=1))
    world.dial(error)
    world.lengthen_rest()
    breaker = world.breaker()
    assert (breaker.state, breaker.failures, breaker.last_failure) == ("open", REST_AFTER, str(error))
    assert world.live() == []
    world.rows.campaign(5)
    assert world.grant().attempt_ids == ()


@pytest.mark.parametrize(
    "error", [TooLate("its turn"), Unwritable("the caller ID"), Refused("Originate", "Invalid channel")]
)
def test_what_is_not_the_nodes_is_not_put_down_to_it(world: World, error: AmiError) -> None:
    for _ in range(3):
        world.dial(error, REST_AFTER)
        world.pass_by(timedelta(seconds=1))
    assert (world.breaker().state, world.breaker().failures) == ("closed", 0)


def test_many_that_break_at_once_are_not_a_node_that_takes_nothing(world: World) -> None:
    world.dial(DOWN, 4 * REST_AFTER)
    world.pass_by(-timedelta(minutes=1))
    world.dial(DOWN, 4 * REST_AFTER)
    assert world.breaker().state == "closed"


def test_a_worker_that_is_cut_off_does_not_stop_the_node_for_one_that_is_not(world: World) -> None:
    for _ in range(4):
        world.dial(DOWN, 3 * REST_AFTER)
        world.pass_by(timedelta(milliseconds=400))
        world.dial(None)
        assert (world.breaker().state, world.breaker().failures) == ("closed", 0)
        world.pass_by(timedelta(milliseconds=400))
    assert world.live() == ["n1"]


def test_a_rest_doubles_with_every_trial_that_fails_to_a_minute_at_most(world: World) -> None:
    world.open_breaker()
    for seconds in (2, 4, 8, 16, 32, 60, 60):
        world.pass_by(timedelta(minutes=2))
        assert world.breaker().state == "half-open"
        world.dial(DOWN)
        left = world.rows.value("SELECT rests_until - now() FROM node_health")
        assert timedelta(seconds=seconds - 1) < left <= timedelta(seconds=seconds) <= LONGEST_REST


def test_what_was_claimed_before_the_rest_was_over_is_no_trial(world: World) -> None:
    world.open_breaker()
    before = world.breaker().rests_until
    world.dial(DOWN, 3)
    assert world.breaker().rests_until == before
    late = world.rows.grant(world.rows.campaign(1))
    world.rows.claim(late)
    world.rows.run("UPDATE node_health SET rests_until = clock_timestamp()")
    with world.rows.engine.begin() as connection:
        nodes.not_taken(connection, "n1", late, "late")
    assert world.breaker().state == "half-open"


def test_after_the_rest_it_gets_one_call_at_a_time_until_one_is_taken(world: World) -> None:
    world.open_breaker()
    world.pass_by(timedelta(minutes=2))
    world.rows.run("DELETE FROM attempts; DELETE FROM calls")
    world.rows.campaign(5)
    [trial] = world.grant().attempt_ids
    assert world.grant().attempt_ids == (), "its one call is on the way"
    assert world.live() == []
    world.pool.says = lambda node, order: None
    world.originator.originate([trial])
    assert (world.breaker().state, world.breaker().failures) == ("closed", 0)
    assert len(world.grant().attempt_ids) == 4


def test_a_call_that_one_node_did_not_take_goes_to_another_that_does_and_waits_for_nothing(world: World) -> None:
    world.rows.run("INSERT INTO nodes (name, max_calls, heard_at, listening_since) VALUES ('n2', 10, now(), now())")
    [first] = world.dial(DOWN)
    assert world.rows.call_of(first).due_at <= world.rows.value("SELECT now()")
    world.open_breaker()
    assert world.live() == ["n2"]
    world.rows.run("DELETE FROM attempts; DELETE FROM calls")
    world.rows.campaign(5)
    assert {world.rows.attempt(id).node for id in world.grant().attempt_ids} == {"n2"}


def test_a_node_on_trial_gets_one_call_and_another_node_the_rest(world: World) -> None:
    world.rows.run("INSERT INTO nodes (name, max_calls, heard_at, listening_since) VALUES ('n2', 10, now(), now())")
    world.open_breaker()
    world.pass_by(timedelta(minutes=2))
    world.rows.run("DELETE FROM attempts; DELETE FROM calls")
    world.rows.campaign(5)
    granted = [world.rows.attempt(id).node for id in world.grant().attempt_ids]
    assert sorted(granted) == ["n1", "n2", "n2", "n2", "n2"]


def test_what_was_lost_with_the_link_is_left_to_the_listener(world: World) -> None:
    [attempt] = world.dial(MaybeSent("Originate: link lost before the answer"))
    assert world.rows.attempt(attempt).status == "initiated"
    assert world.breaker().failures == 1


def test_a_single_call_is_refused_or_explained_while_every_node_rests(world: World) -> None:
    world.open_breaker()
    world.rows.run("UPDATE calls SET due_at = now()")
    attempt = world.rows.value("SELECT id FROM attempts ORDER BY id DESC LIMIT 1")
    with world.rows.engine.begin() as connection:
        with pytest.raises(Exception, match=r"takes no calls .*is not up"):
            require_asterisk(connection)
        story = call_story.tell(connection, world.rows.call_of(attempt).id)
    assert "left alone for a while" in (story.explanation or "")


def test_the_state_of_each_breaker_is_a_metric(world: World) -> None:
    def told() -> dict[str, float]:
        told = LedgerCollector(world.rows.engine, world.slots).collect()
        samples = [sample for family in told for sample in family.samples]
        return {sample.labels["state"]: sample.value for sample in samples if sample.name == "trunkline_node_breaker"}

    assert told() == {"closed": 1, "open": 0, "half-open": 0}
    world.open_breaker()
    assert told() == {"closed": 0, "open": 1, "half-open": 0}
    world.pass_by(timedelta(minutes=2))
    assert told() == {"closed": 0, "open": 0, "half-open": 1}
