"""What the leader and the workers must outlive: old data, long pauses, one call that cannot be sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from asterisk.pool import AmiPool
from deploy.embedded.valkey import Valkey
from models.database import open_engine
from models.roles import hold
from models.slots import LeaderSlots, Slots, connect
from scheduler.housekeeping import Housekeeping, cancel_scheduled
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows
from workers.originate import Originator


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test")
    yield Rows(engine=engine)
    engine.dispose()


def test_a_leader_that_finds_events_in_the_default_partition_goes_on(database: Database, rows: Rows) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        leaves = owner.execute(
            "SELECT relid::regclass::text FROM pg_partition_tree('call_events') WHERE isleaf"
        ).fetchall()
        for (name,) in leaves:  # as after months in which nothing ran
            if name != "call_events_default":
                owner.execute(f"DROP TABLE {name}")
        rows.grant(rows.campaign(2))
        assert owner.execute("SELECT count(*) > 0 FROM call_events_default").fetchone() == (True,)
    with hold(database.settings, "trunkline-scheduler", threading.Event()) as role:
        assert role is not None
        house = Housekeeping(role.connection)
        house.ensure_event_partitions()
        house.keep(time.monotonic())
    assert rows.value("SELECT count(*) FROM call_events") > 0


def test_a_stopped_campaign_is_canceled_in_steps_and_what_was_left_behind_later(
    database: Database, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.housekeeping._MOST_AT_ONCE", 3)
    campaign = rows.campaign(8)
    rows.run("UPDATE campaigns SET status = 'stopped' WHERE id = %(id)s", id=campaign)
    with rows.engine.connect() as connection:
        assert cancel_scheduled(connection, campaign) == 3
    with hold(database.settings, "trunkline-scheduler", threading.Event()) as role:
        assert role is not None
        house = Housekeeping(role.connection)
        house.keep(time.monotonic())
        house.keep(time.monotonic())
    assert rows.value("SELECT count(*) FROM calls WHERE status = 'canceled'") == 8


def test_asterisks_old_rows_are_forgotten_in_steps(database: Database, rows: Rows, valkey: Valkey) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO cel (eventtype, eventtime) SELECT 'HANGUP', now() - make_interval(days => d) FROM unnest(ARRAY[1, 8]) d"
        )
    with hold(database.settings, "trunkline-scheduler", threading.Event()) as role:
        assert role is not None
        slots = LeaderSlots(valkey.url, role.epoch)
        house = Housekeeping(role.connection)
        slots.rebuild(house.holders(), [])
        house.audit(slots, time.monotonic())
        slots.close()
    with psycopg.connect(database.owner_url) as owner:
        assert owner.execute("SELECT count(*) FROM cel").fetchone() == (1,)


def test_a_call_whose_agent_cannot_be_read_holds_up_no_other_and_fails_after_three_tries(
    database: Database, rows: Rows, valkey: Valkey
) -> None:
    strange = uuid4()
    rows.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, 'strange', 'carrier-pigeon://loft')", id=strange)
    rows.run("UPDATE trunks SET max_calls_per_second = 1000")  # neither has to wait for its turn
    first, second = rows.grant(rows.campaign(2))
    rows.run("UPDATE calls SET agent_id = %(a)s, not_placed = 2 WHERE current_attempt_id = %(id)s", a=strange, id=first)
    client = connect(valkey.url)
    leader = LeaderSlots(valkey.url, 1)
    leader.rebuild([], [])
    with AmiPool([]) as pool:  # no node: what can be made ready is NeverSent, and so given back
        Originator(database.settings, rows.engine, pool, Slots(client)).originate([first, second])
    leader.close()
    client.close()
    assert (rows.call_of(first).status, rows.call_of(first).disposition) == ("failed", "not-placed")
    assert rows.call_of(second).status == "scheduled"
    assert rows.value("SELECT bool_and(status = 'withdrawn') FROM attempts")
    assert timedelta(0) < rows.value("SELECT due_at - now() FROM calls WHERE id = %(id)s", id=rows.call_of(second).id)


@pytest.mark.parametrize(
    ("switch", "says"),
    [
        ("UPDATE trunks SET is_active = false", "was switched off by then. Switch it on: `trunkline trunk enable"),
        ("UPDATE campaigns SET status = 'paused'", "its campaign was not running any more"),
        ("UPDATE attempts SET queued_at = now() - interval '31 s'", "granted too long ago"),
    ],
)
def test_what_cannot_be_claimed_is_given_back_with_the_reason_from_our_own_rows(
    database: Database, rows: Rows, valkey: Valkey, switch: str, says: str
) -> None:
    granted = rows.grant(rows.campaign(2))
    rows.run(switch)
    client = connect(valkey.url)
    with AmiPool([]) as pool:
        assert Originator(database.settings, rows.engine, pool, Slots(client)).originate([*granted, uuid4()]) == 0
    client.close()
    for id in granted:
        assert rows.attempt(id).status == "withdrawn"
        assert says in rows.attempt(id).explanation
        assert rows.call_of(id).status == "scheduled"
