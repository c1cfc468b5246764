"""A call that kills its workers is told from those that only died along with it; nothing but a dead worker counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine

from deploy.embedded.valkey import Valkey
from models import ledger
from models.database import open_engine
from models.outcome import Disposition
from models.sightings import Sight
from models.slots import LeaderSlots
from models.statuses import Status
from scheduler.grants import Granter, Round
from scheduler.lines import load_lines
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, Rows, ended, saw
from tests.integration.system import until


@dataclass(kw_only=True)
class World:
    """The ledger, the listener's connection to it, and workers as Postgres sees them."""

    rows: Rows
    database: Database
    listener: Connection
    workers: dict[str, Engine] = field(default_factory=dict)
    _names: count[int] = field(default_factory=count)

    def take_role(self) -> None:
        self.rows.run(
            "INSERT INTO roles (name, epoch, since) VALUES ('trunkline-listener:n1', 1, now())"
            " ON CONFLICT (name) DO UPDATE SET since = now()"
        )

    def claim(self, attempts: Sequence[UUID], by: str | None = None) -> str:
        """Claims them from a worker that lives on, a new one or `by`; returns its name."""
        name = by or f"trunkline-worker test{next(self._names)}"
        engine = self.workers.get(name) or open_engine(self.database.settings, name, pool_size=1)
        self.workers[name] = engine
        with engine.begin() as connection:
            assert len(ledger.claim(connection, attempts)) == len(attempts)
        return name

    def die(self, worker: str) -> None:
        """What is left of a killed process in Postgres: nothing, a moment later."""
        self.workers[worker].dispose()
        until(lambda: not self.lives(worker))

    def lives(self, worker: str) -> bool:
        return bool(self.rows.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = %(n)s", n=worker))

    def come_back(self, worker: str) -> None:
        with self.workers[worker].connect():
            pass

    def give_back(self, attempts: Sequence[UUID], *, disposition: Disposition | None = None) -> None:
        """What the listener does with attempts that left no trace."""
        with self.listener.begin():
            ledger.withdraw(
                self.listener,
                attempts,
                of={Status.INITIATED},
                explanation="no channel",
                disposition=disposition,
                second_look_after=timedelta(0),
            )
        with self.listener.begin():
            assert ledger.give_back(self.listener, attempts) == sorted(attempts)

    def rescue(self, attempts: Sequence[UUID]) -> str:
        """One worker dies with these attempts in its hand."""
        worker = self.claim(attempts)
        self.die(worker)
        self.give_back(attempts)
        return worker

    def quarantined(self, campaign: UUID) -> list[UUID]:
        """An attempt for the next call that goes alone, if there may be one now."""
        with self.rows.engine.begin() as connection:
            grants = [self.rows.plan(due) for due in ledger.pick_quarantined(connection, [campaign], [FROM])]
            if grants:
                ledger.grant(connection, grants)
        return [grant.id for grant in grants]


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    engine = open_engine(database.settings, "trunkline-test")
    listener = open_engine(database.settings, "trunkline-listener:n1", pool_size=1)
    with listener.connect() as connection:
        world = World(rows=Rows(engine=engine), database=database, listener=connection)
        world.take_role()
        yield world
    for one in (engine, listener, *world.workers.values()):
        one.dispose()


def rescues(world: World) -> int:
    return int(world.rows.value("SELECT coalesce(sum(times), 0) FROM repairs WHERE what = 'call-rescued'"))


def test_a_call_that_three_workers_died_with_is_parked_with_the_reason(world: World) -> None:
    campaign, attempt = world.rows.campaign(1), UUID(int=0)
    for times in (1, 2, 3):
        (attempt,) = world.rows.grant(campaign) or world.quarantined(campaign)
        world.rescue([attempt])
        assert world.rows.call_of(attempt).rescues == times
        assert world.rows.call_of(attempt).status == ("scheduled" if times < 3 else "failed")
    call = world.rows.call_of(attempt)
    assert (call.disposition, call.attempts, call.ended_at is not None) == ("poison", 3, True)
    assert "Three workers died" in call.explanation
    assert (world.rows.attempt(attempt).status, world.rows.attempt(attempt).hold_until) == ("failed", None)
    assert rescues(world) == 3


def test_an_attempt_whose_worker_lives_is_given_back_and_counts_nothing(world: World) -> None:
    """It was frozen, or its AMI was cut, or Asterisk hung: none of it is the call's fault."""
    campaign = world.rows.campaign(1)
    for _ in range(4):
        (attempt,) = world.rows.grant(campaign)
        world.claim([attempt])
        world.give_back([attempt])
        assert (world.rows.call_of(attempt).status, world.rows.call_of(attempt).rescues) == ("scheduled", 0)
    assert rescues(world) == 0


def test_when_postgres_has_lost_everybodys_sessions_nobody_is_taken_for_dead(world: World) -> None:
    (attempt,) = world.rows.grant(world.rows.campaign(1))
    worker = world.claim([attempt])
    world.die(worker)  # as it looks from there
    world.listener.invalidate()
    world.take_role()  # the listener is back before the worker
    world.give_back([attempt])
    assert world.rows.call_of(attempt).rescues == 0


def test_a_worker_that_was_cut_off_and_is_back_counts_no_more(world: World) -> None:
    campaign = world.rows.campaign(1)
    _, second = (world.rescue(world.rows.grant(campaign)) for _ in range(2))
    assert world.rows.value("SELECT rescues FROM calls") == 2
    world.come_back(second)
    (attempt,) = world.quarantined(campaign)
    world.rescue([attempt])
    assert (world.rows.call_of(attempt).status, world.rows.call_of(attempt).rescues) == ("scheduled", 2)


def test_one_worker_that_is_cut_off_again_and_again_makes_no_call_poison(world: World) -> None:
    campaign, attempt, worker = world.rows.campaign(1), UUID(int=0), None
    for _ in range(5):
        (attempt,) = world.rows.grant(campaign)
        worker = world.claim([attempt], by=worker)
        world.die(worker)
        world.give_back([attempt])
    assert (world.rows.call_of(attempt).status, world.rows.call_of(attempt).rescues) == ("scheduled", 1)


def test_a_call_that_was_to_be_stopped_is_canceled_whatever_became_of_its_worker(world: World) -> None:
    campaign = world.rows.campaign(1)
    for grant in (world.rows.grant, world.rows.grant):
        world.rescue(grant(campaign))
    (attempt,) = world.quarantined(campaign)
    world.die(world.claim([attempt]))
    world.give_back([attempt], disposition=Disposition.CANCELED)
    assert (world.rows.call_of(attempt).status, world.rows.call_of(attempt).disposition) == ("canceled", "canceled")


def test_of_those_that_may_kill_their_worker_one_is_in_hand_at_a_time_and_they_hold_up_nobody(world: World) -> None:
    campaign = world.rows.campaign(3)
    for _ in range(2):
        world.rescue(world.rows.grant(campaign))
    suspects = world.rows.value("SELECT count(*) FROM calls WHERE rescues = 2")
    assert suspects == 3
    with world.rows.engine.begin() as connection:
        assert ledger.pick_campaign_calls(connection, {campaign: 9}, most=9) == []
    others = world.rows.campaign(2)
    assert len(world.rows.grant(others)) == 2

    (first,) = world.quarantined(campaign)
    assert world.quarantined(campaign) == [], "it is queued"
    world.claim([first])
    assert world.quarantined(campaign) == [], "it was claimed just now"
    world.rows.record(saw(first, Sight.RINGING))
    (second,) = world.quarantined(campaign)
    world.claim([second])
    assert world.quarantined(campaign) == []
    world.rows.run("UPDATE attempts SET initiated_at = now() - interval '11 s' WHERE id = %(id)s", id=second)
    (third,) = world.quarantined(campaign)
    world.claim([third])
    world.rows.record(ended(third, 17, 486))
    assert world.rows.call_of(third).status == "busy"
    assert {world.rows.attempt(id).call_id for id in (first, second, third)} == {
        row.id for row in world.rows.all("SELECT id FROM calls WHERE rescues = 2")
    }


@pytest.mark.parametrize("room", ["room", "no room"])
def test_the_leader_grants_a_suspect_in_a_round_of_its_own_or_goes_on_with_the_others(
    world: World, valkey: Valkey, room: str
) -> None:
    suspect, others = world.rows.campaign(1), world.rows.campaign(3)
    for _ in range(2):
        world.rescue(world.rows.grant(suspect))
    world.rows.run("UPDATE trunks SET max_concurrent_calls = 9, max_calls_per_second = 1000")
    slots = LeaderSlots(valkey.url, 1)
    slots.rebuild([], [])
    granter = Granter(slots)
    if room == "no room":
        world.rows.run("UPDATE campaigns SET max_concurrent_calls = 1 WHERE id = %(id)s", id=suspect)
        with taken(world, slots, suspect):
            assert campaigns_of(world, grant(world, granter)) == {others}
        slots.close()
        return
    assert campaigns_of(world, grant(world, granter)) == {suspect}
    assert campaigns_of(world, grant(world, granter)) == {others}
    slots.close()


def grant(world: World, granter: Granter) -> Round:
    with world.rows.engine.connect() as connection:
        with connection.begin():
            lines = load_lines(connection)
        return granter.grant(connection, lines)


def campaigns_of(world: World, done: Round) -> set[UUID]:
    return {world.rows.attempt(id).campaign_id for id in done.attempt_ids}


@contextmanager
def taken(world: World, slots: LeaderSlots, campaign: UUID) -> Iterator[None]:
    """Somebody else has the campaign's one slot."""
    slots.rebuild([(UUID(int=7), f"{{trunkline}}:slots:campaign:{campaign}")], [])
    yield
