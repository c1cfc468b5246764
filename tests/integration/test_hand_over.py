"""What the leader does with calls that one gateway did not deliver, and with those it may not make: ledger and slots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from deploy.embedded.valkey import Valkey
from models.database import open_engine
from models.sightings import Sight
from models.slots import LeaderSlots, Slots, connect, held_keys
from models.statements import statement
from models.statuses import Status
from scheduler import call_story
from scheduler.grants import Granter, Round
from scheduler.lines import load_lines
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, Rows, ended, saw


@dataclass(frozen=True, kw_only=True)
class World:
    """A trunk of one slot with a second gateway, and the leader's side of it."""

    rows: Rows
    second: UUID
    slots: Slots
    leader: LeaderSlots
    granter: Granter

    def grant(self) -> Round:
        with self.rows.engine.connect() as connection:
            with connection.begin():
                lines = load_lines(connection)
            return self.granter.grant(connection, lines)

    def hand_over(self) -> Round:
        with self.rows.engine.connect() as connection:
            with connection.begin():
                lines = load_lines(connection)
            return self.granter.hand_over(connection, lines)

    def undelivered(self, campaign: UUID) -> UUID:
        """The attempt of a call of the campaign that the first gateway refused with 503."""
        [attempt] = self.grant().attempt_ids
        self.rows.claim([attempt])
        assert self.rows.record(ended(attempt, 34, 503)) == [], "its slot is not freed"
        assert self.rows.call_of(attempt).campaign_id == campaign
        return attempt

    def in_use(self) -> int:
        return self.slots.in_use("trunk", self.rows.trunk)

    def holders(self) -> list[tuple[UUID, str]]:
        return [
            (
                row.id,
                held_keys(trunk_id=row.trunk_id, node=row.node, campaign_id=row.campaign_id, agent_id=row.agent_id),
            )
            for row in self.rows.all(statement("open_attempts"))
        ]


@pytest.fixture
def world(database: Database, valkey: Valkey) -> Iterator[World]:
    engine = open_engine(database.settings, "trunkline-test")
    rows = Rows(engine=engine)
    rows.run("UPDATE trunks SET max_concurrent_calls = 1, max_calls_per_second = 1000")
    second = uuid4()
    rows.run(
        "INSERT INTO trunk_gateways (id, trunk_id, gateway_address, port, priority) VALUES (%(id)s, %(t)s, '127.0.0.2', 5070, 2)",
        id=second,
        t=rows.trunk,
    )
    client = connect(valkey.url)
    leader = LeaderSlots(valkey.url, 1)
    leader.rebuild([], [])
    yield World(rows=rows, second=second, slots=Slots(client), leader=leader, granter=Granter(leader))
    leader.close()
    client.close()
    engine.dispose()


def test_the_next_gateway_gets_the_call_in_the_slot_that_it_has(world: World) -> None:
    campaign = world.rows.campaign(3)
    first = world.undelivered(campaign)
    assert (world.rows.call_of(first).status, world.in_use()) == ("scheduled", 1)
    assert world.grant().attempt_ids == (), "nobody else gets the slot, and no other round the call"
    [audit] = [world.leader.audit(world.holders())]
    assert (audit.freed, audit.put_back) == (0, 0), "it is held in the ledger too"

    [next_one] = world.hand_over().attempt_ids
    row = world.rows.attempt(next_one)
    assert (row.call_id, row.gateway_id, row.tried_gateways) == (
        world.rows.attempt(first).call_id,
        world.second,
        [world.rows.gateway],
    )
    assert world.in_use() == 1
    assert not world.rows.attempt(first).hands_over
    assert [id for id, _ in world.holders()] == [next_one]
    world.rows.claim([next_one])
    assert world.rows.record(ended(next_one, 34, 503)) == [next_one], "no gateway is left: it is over"
    call = world.rows.call_of(next_one)
    assert (call.status, call.disposition, call.attempts) == ("failed", "congestion", 2)


def test_a_redis_that_forgot_gives_the_slot_back_before_it_is_handed_over(world: World) -> None:
    world.undelivered(world.rows.campaign(1))
    world.leader.rebuild(world.holders(), [])
    assert world.in_use() == 1
    [next_one] = world.hand_over().attempt_ids
    assert world.in_use() == 1
    assert world.rows.attempt(next_one).gateway_id == world.second


def test_what_was_paused_meanwhile_is_due_again_and_its_slot_free(world: World) -> None:
    campaign = world.rows.campaign(1)
    first = world.undelivered(campaign)
    world.rows.run("UPDATE campaigns SET status = 'paused'")
    done = world.hand_over()
    assert (done.attempt_ids, done.given_up) == ((), (first,))
    world.slots.free(done.given_up)
    assert world.in_use() == 0
    world.rows.run("UPDATE campaigns SET status = 'running'; UPDATE calls SET due_at = due_at - interval '1 minute'")
    [again] = world.grant().attempt_ids
    assert world.rows.attempt(again).gateway_id == world.rows.gateway, "a new beginning, with the first gateway"


def test_a_call_that_was_canceled_meanwhile_stays_so(world: World) -> None:
    first = world.undelivered(world.rows.campaign(1))
    world.rows.run(statement("cancel_call"), call=world.rows.attempt(first).call_id, explanation="Stopped.")
    done = world.hand_over()
    assert (done.attempt_ids, done.given_up) == ((), (first,))
    assert world.rows.call_of(first).status == "canceled"
    assert world.holders() == []


def test_a_call_whose_other_gateway_went_to_rest_meanwhile_ends_as_it_did(world: World) -> None:
    first = world.undelivered(world.rows.campaign(1))
    world.rows.run(
        "INSERT INTO gateway_health (gateway_id, failures, rests, rests_until) VALUES (%(g)s, 5, 1, now() + interval '1 minute')",
        g=world.second,
    )
    done = world.hand_over()
    assert (done.attempt_ids, done.given_up) == ((), (first,))
    call = world.rows.call_of(first)
    assert (call.status, call.disposition, call.sip_code) == ("failed", "congestion", 503)


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE nodes SET listening_since = clock_timestamp() + interval '1 second'",  # a gap: it may have rung unheard
        "UPDATE trunks SET is_active = false",
        "UPDATE campaigns SET status = 'stopped'",
        "DELETE FROM trunk_gateways WHERE gateway_address = '127.0.0.2'",
    ],
)
def test_without_a_way_or_the_whole_story_an_end_is_an_end(world: World, meanwhile: str) -> None:
    world.rows.campaign(1)
    [attempt] = world.grant().attempt_ids
    world.rows.claim([attempt])
    world.rows.run(meanwhile)
    assert world.rows.record(ended(attempt, 34, 503)) == [attempt]
    assert world.rows.call_of(attempt).status == "failed"


def test_while_the_other_gateway_is_tried_with_another_call_this_one_is_due_again(world: World) -> None:
    first = world.undelivered(world.rows.campaign(1))
    world.rows.run("UPDATE trunks SET max_concurrent_calls = 2")
    world.rows.run(
        "INSERT INTO gateway_health (gateway_id, failures, rests, rests_until) VALUES (%(g)s, 5, 1, now() - interval '1 s')",
        g=world.second,
    )
    [other] = world.rows.grant(world.rows.campaign(1))
    world.rows.run("UPDATE attempts SET gateway_id = %(g)s WHERE id = %(id)s", g=world.second, id=other)
    done = world.hand_over()
    assert (done.attempt_ids, done.given_up) == ((), (first,))
    assert (world.rows.call_of(first).status, world.rows.attempt(first).hands_over) == ("scheduled", False)


def test_on_a_full_trunk_what_waits_for_a_token_alone_is_asked_for_when_the_token_comes(world: World) -> None:
    world.rows.run("UPDATE trunks SET max_concurrent_calls = 3")
    world.rows.campaign(3)
    attempts = [attempt for _ in range(3) for attempt in world.grant().attempt_ids]
    world.rows.claim(attempts)
    assert world.rows.record(*(ended(attempt, 34, 503) for attempt in attempts)) == []
    world.rows.run("UPDATE trunks SET max_calls_per_second = 20")
    done = world.hand_over()
    assert len(done.attempt_ids) in {1, 2}
    assert done.more_due
    assert done.ask_again_in is not None
    assert done.ask_again_in <= timedelta(milliseconds=60), "20 a second, and no slot of the three has to come free"


def test_the_agent_is_told_of_the_first_time_that_somebody_is_called_whatever_gateways_it_took(world: World) -> None:
    world.undelivered(world.rows.campaign(1))
    [next_one] = world.hand_over().attempt_ids
    world.rows.claim([next_one])
    number = "SELECT attempt_number FROM call_context WHERE attempt_id = %(id)s"
    assert world.rows.value(number, id=str(next_one)) == 1


def test_what_asterisk_could_not_place_goes_to_the_next_gateway_at_once(world: World) -> None:
    world.rows.campaign(1)
    [first] = world.grant().attempt_ids
    world.rows.claim([first])
    assert world.rows.record(saw(first, Sight.NOT_PLACED)) == []
    assert world.rows.attempt(first).status == Status.WITHDRAWN
    [next_one] = world.hand_over().attempt_ids
    assert world.rows.attempt(next_one).gateway_id == world.second


def test_late_evidence_of_the_attempt_that_ended_takes_neither_call_nor_slot(world: World) -> None:
    first = world.undelivered(world.rows.campaign(1))
    assert world.rows.record(saw(first, Sight.CALLEE_HUNG_UP), ended(first, 34, 503)) == []
    assert (world.rows.call_of(first).status, world.rows.attempt(first).hands_over) == ("scheduled", True)
    [next_one] = world.hand_over().attempt_ids
    assert world.rows.record(ended(first, 34, 503)) == []
    assert world.rows.call_of(next_one).status == "queued"


def test_a_number_that_its_trunk_may_not_call_any_more_is_not_dialled(world: World) -> None:
    campaign = world.rows.campaign(2)
    world.rows.run("UPDATE trunks SET allowed_prefixes = ARRAY['+44']")
    for _ in range(2):
        done = world.grant()
        assert (done.attempt_ids, done.more_due, done.ask_again_in) == ((), True, timedelta(0)), "at once the next ones"
    for call in world.rows.all("SELECT * FROM calls WHERE campaign_id = %(c)s", c=campaign):
        assert (call.status, call.disposition, call.attempts) == ("failed", "not-placed", 0)
        assert "+44" in call.explanation
        assert "--allowed-prefix" in call.explanation


def test_a_call_says_that_it_waits_for_the_next_gateway_or_for_one_that_rests(world: World) -> None:
    def story(call_id: UUID) -> str:
        with world.rows.engine.begin() as connection:
            return str(call_story.tell(connection, call_id).explanation)

    first = world.undelivered(world.rows.campaign(1))
    assert "goes to the next one" in story(world.rows.call_of(first).id)
    single = uuid4()
    world.rows.run(
        "INSERT INTO calls (id, agent_id, phone_number, from_number) VALUES (%(id)s, %(agent)s, '+12125550100', %(ours)s)",
        id=single,
        agent=world.rows.agent,
        ours=FROM,
    )
    assert "waits for its turn" in story(single)
    world.rows.run(
        "INSERT INTO gateway_health (gateway_id, failures, rests, rests_until)"
        " SELECT id, 5, 1, now() + interval '1 minute' FROM trunk_gateways"
        " ON CONFLICT (gateway_id) DO UPDATE SET rests = 1, rests_until = excluded.rests_until"
    )
    assert "keeps failing" in story(single)
