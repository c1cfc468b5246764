"""What the leader and the workers must outlive: old data, long pauses, one call that cannot be sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from anyio.from_thread import BlockingPortal
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from asterisk.pool import AmiPool
from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from deploy.processes import run_listener, run_scheduler, run_worker
from models.database import open_engine
from models.errors import Conflict, Invalid
from models.roles import hold
from models.settings import Settings
from models.slots import YOUNGEST_ORPHAN, LeaderSlots, Slots, connect, held_keys, line_key, slots_key
from scheduler.housekeeping import Housekeeping, cancel_scheduled
from scheduler.leader import Leader
from scheduler.stopping import Stopped, pause, stop
from tests.faults.proxy import Proxy
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows
from tests.integration.system import until
from workers.originate import Originator
from workers.publish import Publisher


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


def test_what_is_queued_is_published_at_once_by_a_leader_that_redis_was_away_from_for_long(
    database: Database, rows: Rows, valkey: Valkey, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.leader.LOST_AFTER_MS", 1500)
    proxy = Proxy.open(portal, ("127.0.0.1", valkey.port))
    proxy.refuse()
    attempts = rows.grant(rows.campaign(1))
    published: list[UUID] = []
    stop_leading = threading.Event()
    url = valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")
    leader = Leader(database.settings, url, published.extend)
    thread = threading.Thread(target=leader.run, args=(stop_leading,))
    thread.start()
    try:
        until(lambda: rows.value("SELECT count(*) FROM roles WHERE name = 'trunkline-scheduler'") == 1)
        time.sleep(2)  # longer than a role is kept for one who is silent; this one has kept house all the while
        proxy.restore()
        until(lambda: rows.value("SELECT count(*) FROM repairs WHERE what = 'task-published-again'") == 1)
        until(lambda: published == attempts, within=2)  # the sweep would take five seconds
    finally:
        stop_leading.set()
        thread.join(30)
        proxy.close()


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


# --- Redis and the ledger disagree


@dataclass(frozen=True, kw_only=True)
class Leading:
    """What a leader has at hand, and a client that looks behind the scenes."""

    house: Housekeeping
    leader_slots: LeaderSlots
    slots: Slots
    redis: redis.Redis

    def holding(self, trunk_id: UUID) -> set[UUID]:
        found: Any = self.redis.zrange(slots_key("trunk", trunk_id), 0, -1)
        return {UUID(id.decode()) for id in found}

    def audit(self) -> None:
        self.house.audit(self.leader_slots, time.monotonic())


@contextmanager
def leading(database: Database, valkey: Valkey) -> Iterator[Leading]:
    with hold(database.settings, "trunkline-scheduler", threading.Event()) as role, connect(valkey.url) as client:
        assert role is not None
        leader_slots = LeaderSlots(valkey.url, role.epoch)
        yield Leading(house=Housekeeping(role.connection), leader_slots=leader_slots, slots=Slots(client), redis=client)
        leader_slots.close()


def repairs(rows: Rows) -> dict[str, int]:
    return {row.what: row.times for row in rows.all("SELECT what, times FROM repairs")}


def test_what_was_put_right_is_counted(database: Database, rows: Rows, valkey: Valkey) -> None:
    campaign = rows.campaign(4)
    void, lost, open_one, over = rows.grant(campaign)
    rows.run("UPDATE attempts SET queued_at = now() - interval '31 s' WHERE id = %(id)s", id=void)
    rows.run("UPDATE attempts SET published_at = now() - interval '6 s' WHERE id = %(id)s", id=lost)
    trunk = slots_key("trunk", rows.trunk)
    with leading(database, valkey) as it:
        it.house.rebuild(it.leader_slots)
        assert it.house.keep(time.monotonic()) == [void]
        assert it.house.unclaimed() == [lost]
        rows.run("UPDATE attempts SET status = 'withdrawn', ended_at = now() WHERE id = %(id)s", id=over)
        for id in (over, void):  # nobody has freed them for half a minute
            it.redis.zincrby(trunk, -YOUNGEST_ORPHAN.total_seconds() * 1e6, str(id))
        it.redis.zincrby(trunk, -400e6, str(open_one))  # held for longer than a lease lasts
        for key in held_keys(trunk_id=rows.trunk, node="n1", campaign_id=campaign, agent_id=None).split():
            it.redis.zrem(key, str(lost))
        it.redis.hdel("{trunkline}:leases", str(lost))
        it.audit()
        assert it.holding(rows.trunk) == {lost, open_one}
        it.audit()
    assert repairs(rows) == {
        "slots-rebuilt": 1,
        "grant-voided": 1,
        "task-published-again": 1,
        "lease-put-back": 1,
        "lease-freed": 2,
        "lease-expired": 1,
    }


def test_the_audit_frees_a_young_lease_whose_attempt_has_ended_and_leaves_one_that_is_just_being_freed(
    database: Database, rows: Rows, valkey: Valkey
) -> None:
    _ended, just_ended, hands_over, looked_at, decided_on = rows.grant(rows.campaign(5))
    with leading(database, valkey) as it:
        it.house.rebuild(it.leader_slots)
        with rows.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE attempts SET status = 'withdrawn', ended_at = clock_timestamp() - interval '3 s'"
            )
            connection.exec_driver_sql(
                "UPDATE attempts SET ended_at = clock_timestamp() WHERE id = %(id)s", {"id": just_ended}
            )
            connection.exec_driver_sql("UPDATE attempts SET hands_over = true WHERE id = %(id)s", {"id": hands_over})
            connection.exec_driver_sql("UPDATE attempts SET hold_until = now() WHERE id = %(id)s", {"id": looked_at})
            connection.exec_driver_sql("UPDATE attempts SET status = 'unknown' WHERE id = %(id)s", {"id": decided_on})
        it.audit()
        left = {just_ended, hands_over, looked_at}
        until(lambda: it.leader_slots.take([], []) is not None and it.holding(rows.trunk) == left, what="it is freed")
    assert repairs(rows)["lease-freed"] == 2


def test_a_rate_is_suspect_when_a_call_was_sent_just_now_that_was_granted_long_ago(
    database: Database, rows: Rows, valkey: Valkey
) -> None:
    granted = rows.grant(rows.campaign(1))
    rows.run("UPDATE attempts SET queued_at = now() - interval '9 s'")
    assert rows.claim(granted)
    with leading(database, valkey) as it:
        seconds, micros = it.redis.time()
        it.house.rebuild(it.leader_slots)
        assert int(it.redis.get(line_key(rows.trunk)) or 0) >= (seconds + 1) * 1_000_000 + micros


# --- Redis hangs, or is none


def test_a_task_that_the_broker_does_not_take_costs_the_leader_no_more_than_its_role_can_bear(
    valkey: Valkey, portal: BlockingPortal
) -> None:
    proxy = Proxy.open(portal, ("127.0.0.1", valkey.port))
    settings = Settings(redis_url=SecretStr(valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")))
    publish = Publisher(settings)
    publish([uuid4()])
    for fault in (proxy.stall, proxy.stall, proxy.refuse):
        fault()
        began = time.monotonic()
        with pytest.raises(OperationalError):
            publish([uuid4()])
        assert time.monotonic() - began < 3.5
    proxy.restore()
    publish([uuid4()])
    proxy.close()


@pytest.mark.parametrize(
    "run",
    [run_scheduler, lambda settings: run_listener(settings, "n1"), lambda settings: run_worker(settings, "python")],
)
def test_a_process_that_is_given_no_address_of_a_redis_says_what_would_be_right(
    run: Callable[[Settings], None],
) -> None:
    settings = Settings(redis_url=SecretStr("nowhere"), asterisk_nodes=SecretStr("n1=ami://u:s@127.0.0.1:5038"))
    with pytest.raises(Invalid, match="TRUNKLINE_REDIS_URL: must be redis://"):
        run(settings)
