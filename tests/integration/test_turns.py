"""Whose call is next, where many campaigns share what room there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import pytest

from models.database import open_engine
from models.slots import Away, Lease, Scope, Taken
from scheduler.grants import Granter
from scheduler.lines import load_lines
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows


class Slots:
    """So many are free in every round, of which `gives` are given."""

    def __init__(self, room: int, gives: int | None = None) -> None:
        self._room = room
        self._gives = room if gives is None else gives

    def take(self, scopes: Sequence[Scope], leases: Sequence[Lease]) -> Taken:
        if leases and not self._gives:
            raise Away
        granted = frozenset(lease.attempt_id for lease in leases[: self._gives])
        room = {scope.slots_key: self._room for scope in scopes}
        return Taken(granted=granted, room=room, ask_again_in=None)


@dataclass(frozen=True, kw_only=True)
class World:
    rows: Rows

    def round(self, granter: Granter) -> int:
        with self.rows.engine.connect() as connection:
            with connection.begin():
                lines = load_lines(connection)
            return len(granter.grant(connection, lines).attempt_ids)

    def granted(self) -> Counter[UUID]:
        return Counter(row[0] for row in self.rows.all("SELECT campaign_id FROM attempts"))


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    engine = open_engine(database.settings, "trunkline-test")
    yield World(rows=Rows(engine=engine))
    engine.dispose()


def granter(slots: Slots) -> Granter:
    return Granter(slots)  # type: ignore[arg-type]


def test_no_campaign_gets_a_second_call_before_each_has_its_first(world: World) -> None:
    for _ in range(10):
        world.rows.campaign(5)
    leader = granter(Slots(4))
    for rounds in range(1, 11):
        assert world.round(leader) == 4
        calls = world.granted()
        assert max(calls.values()) - min([*calls.values(), *[0] * (10 - len(calls))]) <= 1, rounds


def test_campaigns_take_turns_by_what_is_granted_and_not_by_what_was_picked(world: World) -> None:
    campaigns = [world.rows.campaign(5) for _ in range(6)]
    leader = granter(Slots(3, gives=1))  # the rate allows one
    for _ in campaigns:
        world.round(leader)
    assert world.granted() == Counter(campaigns)


def test_what_a_campaign_does_not_need_goes_to_those_that_have_more(world: World) -> None:
    for calls in (0, 1, 2):
        world.rows.campaign(calls)
    many = world.rows.campaign(40)
    assert world.round(granter(Slots(20))) == 20
    assert world.granted()[many] == 17


def test_a_round_locks_no_more_calls_than_there_is_room_for(world: World) -> None:
    for _ in range(30):
        world.rows.campaign(20)
    with suppress(Away):
        world.round(granter(Slots(20, gives=0)))
    assert world.rows.all("SELECT count(*) FROM calls WHERE xmax <> 0")[0][0] == 20


def test_calls_that_cannot_be_made_keep_only_their_own_turn(world: World) -> None:
    blocked = world.rows.campaign(5)
    others = [world.rows.campaign(5) for _ in range(3)]
    world.rows.run("UPDATE campaigns SET from_numbers = '{+12025550199}' WHERE id = %(id)s", id=blocked)
    leader = granter(Slots(1))
    for _ in range(2 * len(others)):
        world.round(leader)
    assert world.granted() == Counter(dict.fromkeys(others, 2))
