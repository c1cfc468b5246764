"""What the leader and the workers must outlive: old data, long pauses, one call that cannot be sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from asterisk.pool import AmiPool
from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from models.database import open_engine
from models.errors import Conflict
from models.roles import hold
from models.slots import LeaderSlots, Slots, connect
from scheduler.housekeeping import Housekeeping, cancel_scheduled
from scheduler.leader import Leader
from scheduler.stopping import Stopped, pause, stop
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows
from tests.integration.system import until
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


def test_a_stop_counts_also_what_the_leader_cancels_meanwhile_and_may_be_said_again(
    database: Database, rows: Rows, valkey: Valkey
) -> None:
    campaign = rows.campaign(8)
    rows.campaign(2)
    settings = database.settings.model_copy(update={"redis_url": SecretStr(valkey.url)})
    name = rows.value("SELECT name FROM campaigns WHERE id = %(id)s", id=campaign)
    with ThreadPoolExecutor() as executor, rows.engine.connect() as leader:
        in_hand = leader.begin()
        leader.exec_driver_sql(  # as housekeeping does, and not yet committed
            "UPDATE calls SET status = 'canceled'"
            " WHERE id IN (SELECT id FROM calls WHERE campaign_id = %(campaign)s LIMIT 3)",
            {"campaign": campaign},
        )
        stopping = executor.submit(stop, settings, name)
        until(lambda: rows.value("SELECT sum(canceled) FROM campaign_status") == 5)
        in_hand.commit()
        assert stopping.result(30) == Stopped(withdrawn=0, canceled=8, still_up=0)
    assert stop(settings, name) == Stopped(withdrawn=0, canceled=0, still_up=0)
    with pytest.raises(Conflict, match="is stopped and cannot become paused"):
        pause(settings, name)


def test_the_ledger_is_kept_while_redis_does_not_answer(database: Database, rows: Rows) -> None:
    campaign = rows.campaign(1)
    rows.run("UPDATE calls SET status = 'canceled'")  # its last call: the campaign is over
    stop_leading = threading.Event()
    leader = Leader(database.settings, f"redis://127.0.0.1:{free_port()}/0", lambda _: None)
    thread = threading.Thread(target=leader.run, args=(stop_leading,))
    thread.start()
    try:
        until(
            lambda: rows.value("SELECT status FROM campaigns WHERE id = %(id)s", id=campaign) == "completed", within=10
        )
    finally:
        stop_leading.set()
        thread.join(30)


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
        client = connect(valkey.url)
        house.audit(slots, Slots(client), time.monotonic())
        slots.close()
        client.close()
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
