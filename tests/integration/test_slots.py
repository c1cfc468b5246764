"""Slots on a real Valkey: never overbooked, never freed by another, never trusted after a doubt."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from anyio.from_thread import BlockingPortal

from deploy.embedded.valkey import Valkey
from models.errors import Invalid
from models.slots import (
    LEASE,
    TOMBSTONE,
    WAKE,
    YOUNGEST_ORPHAN,
    Audit,
    Away,
    Bell,
    Forgot,
    Freer,
    Full,
    LeaderSlots,
    Lease,
    Scope,
    Slots,
    Stale,
    Taken,
    connect,
    held_keys,
    rate_key,
)
from tests.faults.proxy import Proxy

TRUNK, CAMPAIGN = UUID(int=1), UUID(int=2)
LEASES, LINGERING, EPOCH = "{trunkline}:leases", "{trunkline}:lingering", "{trunkline}:epoch"
LINE = f"{{trunkline}}:line:trunk:{TRUNK}"
HOUR = timedelta(hours=1)


def micros(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


class World:
    """One leader, and a client that looks behind the scenes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.slots = Slots(connect(url))
        self.leader = self.new_leader(1)

    def new_leader(
        self, epoch: int, holders: Sequence[tuple[UUID, str]] = (), rates: Sequence[str] = ()
    ) -> LeaderSlots:
        leader = LeaderSlots(self.url, epoch)
        leader.rebuild(holders, rates)
        return leader

    def now(self) -> int:
        """Redis's own time in µs."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def members(self, scope: Scope) -> set[UUID]:
        found: Any = self.redis.zrange(scope.slots_key, 0, -1)
        return {UUID(member) for member in found}

    def granted_at(self, scope: Scope) -> dict[UUID, int]:
        """When each lease was granted, to the µs of the script that did it."""
        found: Any = self.redis.zrange(scope.slots_key, 0, -1, withscores=True)
        return {UUID(member): int(expires) - micros(LEASE) for member, expires in found}

    def age(self, attempt_id: UUID, by: timedelta, *scopes: Scope) -> None:
        """Makes a lease as old as if it had been granted so long ago."""
        for scope in scopes:
            self.redis.zincrby(scope.slots_key, -micros(by), str(attempt_id))

    def leaders_connections(self) -> list[str]:
        mine = self.redis.client_id()
        return [
            client["id"]
            for client in self.redis.client_list()
            if client["cmd"] in {"evalsha", "eval"} and int(client["id"]) != mine
        ]


@pytest.fixture
def world(valkey: Valkey) -> Iterator[World]:
    world = World(valkey.url)
    yield world
    world.leader.close()
    world.redis.close()
    world.slots._redis.close()


def trunk(limit: int, rate: float | None = None) -> Scope:
    return Scope(kind="trunk", id=str(TRUNK), limit=limit, calls_per_second=rate)


def node(limit: int = 1000) -> Scope:
    return Scope(kind="node", id="n1", limit=limit)


def campaign(limit: int) -> Scope:
    return Scope(kind="campaign", id=str(CAMPAIGN), limit=limit)


def take(leader: LeaderSlots, count: int, *scopes: Scope) -> Taken:
    return leader.take(scopes, [Lease(attempt_id=uuid4(), scopes=scopes) for _ in range(count)])


def take_one(leader: LeaderSlots, *scopes: Scope) -> UUID:
    (attempt_id,) = take(leader, 1, *scopes).granted
    return attempt_id


# --- limits ---------------------------------------------------------------------------------------


def test_a_scope_grants_up_to_its_limit_and_says_what_room_is_left(world: World) -> None:
    scopes = (trunk(3), node(10))
    assert len(take(world.leader, 2, *scopes).granted) == 2
    looked = world.leader.take(scopes, [])
    assert dict(looked.room) == {trunk(3).slots_key: 1, node().slots_key: 8}
    assert len(take(world.leader, 5, *scopes).granted) == 1
    assert take(world.leader, 1, *scopes).granted == frozenset()


def test_a_lease_gets_all_of_its_scopes_or_none(world: World) -> None:
    wide, narrow = trunk(10), campaign(1)
    scopes = (wide, node(), narrow)
    taken = world.leader.take(scopes, [Lease(attempt_id=uuid4(), scopes=scopes) for _ in range(4)])
    assert len(taken.granted) == 1
    assert world.members(wide) == world.members(node()) == world.members(narrow) == taken.granted
    assert world.redis.hlen(LEASES) == 1


def test_a_limit_that_was_lowered_grants_nothing_until_enough_is_freed(world: World) -> None:
    held = list(take(world.leader, 3, trunk(3)).granted)
    assert dict(world.leader.take([trunk(2)], []).room) == {trunk(2).slots_key: 0}
    world.slots.free(held[:2])
    assert len(take(world.leader, 3, trunk(2)).granted) == 1


def test_leases_of_one_ask_count_against_each_other(world: World) -> None:
    mixed = [(trunk(2), node(3)), (node(3),), (trunk(2), node(3)), (trunk(2), node(3))]
    leases = [Lease(attempt_id=uuid4(), scopes=scopes) for scopes in mixed]
    taken = world.leader.take([trunk(2), node(3)], leases)
    assert taken.granted == {lease.attempt_id for lease in leases[:3]}
    assert set(taken.room.values()) == {0}


def test_many_clients_at_once_never_overbook_any_scope(world: World) -> None:
    """Also with several leaders of one epoch, which must not be: the script alone keeps the limits."""
    first, second = trunk(7), Scope(kind="trunk", id="other", limit=4)
    shared, small = node(9), campaign(5)
    limits = {scope.slots_key: scope.limit for scope in (first, second, shared, small)}
    leaders = [world.new_leader(1) for _ in range(8)]
    overbooked: list[str] = []
    ready = threading.Barrier(len(leaders))

    def work(number: int) -> int:
        seed, granted = random.Random(number), 0
        ready.wait(30)
        for _ in range(80):
            scopes = (seed.choice([first, second]), shared, *seed.choice([(), (small,)]))
            taken = world_take(leaders[number], scopes, seed.randint(1, 4))
            granted += len(taken)
            with world.redis.pipeline() as pipe:  # one snapshot
                for key in limits:
                    pipe.zcard(key)
                counted = pipe.execute()
            overbooked.extend(key for (key, limit), count in zip(limits.items(), counted, strict=True) if count > limit)
            world.slots.free(taken)
            if seed.random() < 0.2:
                world.slots.free(taken)
        return granted

    def world_take(leader: LeaderSlots, scopes: tuple[Scope, ...], count: int) -> list[UUID]:
        leases = [Lease(attempt_id=uuid4(), scopes=scopes) for _ in range(count)]
        return list(leader.take([first, second, shared, small], leases).granted)

    with ThreadPoolExecutor(len(leaders)) as pool:
        granted = sum(pool.map(work, range(len(leaders))))
    for leader in leaders:
        leader.close()
    assert not overbooked
    assert granted > 0
    assert [world.redis.zcard(key) for key in limits] == [0, 0, 0, 0]
    assert world.redis.hlen(LEASES) == 0


# --- freeing --------------------------------------------------------------------------------------


def test_freeing_twice_is_harmless_and_frees_nobody_elses_slot(world: World) -> None:
    scopes = (trunk(2), node())
    mine, other = take_one(world.leader, *scopes), take_one(world.leader, *scopes)
    world.slots.free([mine])
    third = take_one(world.leader, *scopes)
    world.slots.free([mine])
    world.slots.free([uuid4()])
    assert world.members(trunk(2)) == world.members(node()) == {other, third}


def test_freeing_what_was_held_rings_the_bell_and_freeing_nothing_does_not(world: World) -> None:
    held = take_one(world.leader, trunk(5))
    with world.redis.pubsub() as heard:  # type: ignore[no-untyped-call]
        heard.subscribe(WAKE)
        assert (heard.get_message(timeout=10) or {})["type"] == "subscribe"
        world.slots.free([held])
        world.slots.free([held])
        world.slots.free([uuid4()])
        world.slots.wake()
        assert [(heard.get_message(timeout=10) or {})["data"] for _ in range(2)] == ["freed", "work"]


def test_a_lingering_slot_is_kept_until_its_time_and_said_when_it_comes(world: World) -> None:
    scopes = (trunk(1), node())
    held = take_one(world.leader, *scopes)
    before = world.now()
    world.slots.free([held], linger=HOUR)
    after = world.now()
    refused = take(world.leader, 1, *scopes)
    assert refused.granted == frozenset()
    due = int(float(world.redis.zscore(LINGERING, str(held)) or 0))
    assert before + micros(HOUR) <= due <= after + micros(HOUR)
    assert refused.ask_again_in is not None
    assert HOUR - timedelta(minutes=1) < refused.ask_again_in <= HOUR
    world.redis.zadd(LINGERING, {str(held): world.now()})
    assert len(take(world.leader, 1, *scopes).granted) == 1
    assert world.redis.zcard(LINGERING) == 0
    assert held not in world.members(node())


def test_a_lingering_slot_that_is_freed_for_good_is_free_at_once(world: World) -> None:
    held = take_one(world.leader, trunk(1))
    world.slots.free([held], linger=HOUR)
    world.slots.free([held])
    assert len(take(world.leader, 1, trunk(1)).granted) == 1
    assert world.redis.zcard(LINGERING) == 0


# --- the audit ------------------------------------------------------------------------------------


HELD = held_keys(trunk_id=TRUNK, node="n1", campaign_id=CAMPAIGN, agent_id=None)
ALL = (trunk(10), node(), campaign(10))


def test_the_audit_puts_back_what_an_open_attempt_lacks_into_all_of_its_scopes(world: World) -> None:
    lacking = uuid4()
    assert world.leader.audit([(lacking, HELD)]) == Audit(put_back=1, freed=0, expired=0)
    assert world.members(ALL[0]) == world.members(ALL[1]) == world.members(ALL[2]) == {lacking}
    assert world.leader.audit([(lacking, HELD)]) == Audit(put_back=0, freed=0, expired=0)


def test_a_tombstone_stops_the_audit_from_putting_back(world: World) -> None:
    """It read the ledger before the end was committed, and comes to Redis after the slot was freed."""
    held = take_one(world.leader, *ALL)
    world.slots.free([held])
    assert world.leader.audit([(held, HELD)]) == Audit(put_back=0, freed=0, expired=0)
    assert world.members(ALL[0]) == set()
    left = world.redis.pttl(f"{{trunkline}}:gone:{held}")
    assert 0 < left <= TOMBSTONE // timedelta(milliseconds=1)


def test_what_was_freed_before_it_was_ever_held_has_a_tombstone_too(world: World) -> None:
    never_held = uuid4()
    world.slots.free([never_held])
    assert world.leader.audit([(never_held, HELD)]).put_back == 0


def test_the_audit_frees_no_young_lease_for_want_of_a_row_and_every_old_one(world: World) -> None:
    young, old, open_one = (take_one(world.leader, *ALL) for _ in range(3))
    almost = YOUNGEST_ORPHAN - timedelta(seconds=20)
    world.age(young, almost, *ALL)
    for id in (old, open_one):
        world.age(id, YOUNGEST_ORPHAN, *ALL)
    assert world.leader.audit([(open_one, HELD)]) == Audit(put_back=0, freed=1, expired=0, young=(young,))
    assert world.members(ALL[0]) == world.members(ALL[2]) == {young, open_one}


def test_the_audit_leaves_what_lingers_to_its_time(world: World) -> None:
    held = take_one(world.leader, *ALL)
    world.slots.free([held], linger=YOUNGEST_ORPHAN - timedelta(seconds=1))
    world.age(held, YOUNGEST_ORPHAN * 2, *ALL)
    assert world.leader.audit([]).freed == 0
    assert world.members(ALL[0]) == {held}


def test_a_lease_that_expires_frees_nothing_and_is_reported_and_renewed(world: World) -> None:
    held = take_one(world.leader, *ALL)
    world.age(held, LEASE + timedelta(seconds=1), *ALL)
    assert take(world.leader, 10, *ALL).granted.isdisjoint({held})
    assert held in world.members(ALL[0])
    assert world.leader.audit([(held, HELD)]).expired == 1
    for scope in ALL:
        assert world.granted_at(scope)[held] > world.now() - micros(timedelta(minutes=1))
    assert world.leader.audit([(held, HELD)]).expired == 0


# --- rates ----------------------------------------------------------------------------------------


SECOND = micros(timedelta(seconds=1))


def most_within(times: Sequence[int], window: int) -> int:
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_no_second_of_redis_time_sees_more_grants_than_the_rate_and_its_burst(world: World) -> None:
    rate = 200.0
    scopes = (trunk(100_000, rate), node(100_000))
    end = world.now() + SECOND * 8 // 5
    while world.now() < end:
        take(world.leader, 7, *scopes)
    times = sorted(world.granted_at(scopes[0]).values())
    assert len(times) > rate, "it is paced, not stopped"
    interval, burst = scopes[0].pace
    for window in (SECOND, SECOND // 4, SECOND // 20):
        assert most_within(times, window) <= (window + burst) // interval + 1
    assert most_within(times, SECOND) <= rate * 1.02


def test_no_second_of_redis_time_sees_more_turns_to_send_than_the_limit_and_one(world: World) -> None:
    rate = 200.0
    moments: list[int] = []
    interval, _ = trunk(1, rate).pace
    end = world.now() + SECOND * 8 // 5
    while world.now() < end:
        turns = world.slots.turns([(TRUNK, rate)] * 3)
        next_at = int(world.redis.get(LINE) or 0)
        given = sum(turn is not None for turn in turns)
        moments += [next_at - interval * back for back in range(given, 0, -1)]
    assert moments == sorted(set(moments))
    assert len(moments) > rate
    assert most_within(moments, SECOND) <= rate + 1


def test_turns_are_given_trunk_by_trunk_in_the_order_of_the_asks(world: World) -> None:
    other = uuid4()
    asks = [(TRUNK, 100.0), (other, 100.0), (TRUNK, 100.0), (TRUNK, 100.0), (other, 100.0)]
    first, of_other, second, third, second_of_other = world.slots.turns(asks)
    assert first == of_other == timedelta(0)
    assert second == second_of_other == timedelta(microseconds=trunk(1, 100).pace[0])
    assert third == timedelta(microseconds=2 * trunk(1, 100).pace[0])


def test_a_line_that_is_too_long_gives_no_turn_and_grows_no_further(world: World) -> None:
    turns = world.slots.turns([(TRUNK, 0.5)] * 3)
    assert turns == [timedelta(0), None, None]
    next_at = world.redis.get(LINE)
    assert world.slots.turns([(TRUNK, 0.5)]) == [None]
    assert world.redis.get(LINE) == next_at


def test_an_idle_trunk_saves_up_no_burst(world: World) -> None:
    fast = trunk(1000, 10)
    world.redis.set(fast.rate_key, world.now() - micros(HOUR))
    assert len(take(world.leader, 50, fast).granted) == 1


def test_the_rate_of_one_scope_holds_back_no_other(world: World) -> None:
    slow, free = trunk(10, 0.001), Scope(kind="trunk", id="free", limit=10)
    take_one(world.leader, slow)
    leases = [Lease(attempt_id=uuid4(), scopes=(scope,)) for scope in (slow, free)]
    assert world.leader.take([slow, free], leases).granted == {leases[1].attempt_id}


# --- doubt ----------------------------------------------------------------------------------------


def test_nothing_is_granted_before_the_first_rebuild(world: World) -> None:
    leader = LeaderSlots(world.url, 5)
    with pytest.raises(Forgot):
        take(leader, 1, trunk(1))
    leader.close()


def test_a_lower_epoch_is_refused_everywhere_once_a_newer_leader_has_rebuilt(world: World) -> None:
    newer = world.new_leader(2)
    with pytest.raises(Stale):
        take(world.leader, 1, trunk(1))
    with pytest.raises(Stale):
        world.leader.audit([(uuid4(), HELD)])
    held = take_one(newer, trunk(1))
    with pytest.raises(Stale):
        world.leader.free([held])
    with pytest.raises(Stale):
        world.leader.rebuild([(uuid4(), HELD)], [])
    assert world.members(trunk(1)) == {held}
    assert world.redis.get(EPOCH) == "2"
    newer.free([held])
    assert world.members(trunk(1)) == set()
    newer.close()


def test_a_flushed_redis_is_forgotten_and_refuses_everybody_until_it_is_rebuilt(world: World) -> None:
    held = take_one(world.leader, *ALL)
    world.redis.flushall()
    world.slots.free([held])
    assert world.redis.dbsize() == 1, (
        "a free without an epoch leaves its tombstone: a rebuild may have read the ledger before"
    )
    assert world.slots.turns([(TRUNK, 1000)]) == [None]
    world.redis.flushall()
    for _ in range(2):
        with pytest.raises(Forgot):
            take(world.leader, 1, *ALL)
    assert world.redis.dbsize() == 0
    world.leader.rebuild([(held, HELD)], [])
    assert world.members(ALL[0]) == {held}
    assert len(take(world.leader, 1, *ALL).granted) == 1
    assert world.slots.turns([(TRUNK, 1000)]) == [timedelta(0)]


def test_an_audit_and_a_free_of_a_flushed_redis_say_so_too(world: World) -> None:
    held = take_one(world.leader, trunk(1))
    world.redis.flushall()
    with pytest.raises(Forgot):
        world.leader.free([held])
    world.leader.rebuild([], [])
    world.redis.flushall()
    with pytest.raises(Forgot):
        world.leader.audit([(uuid4(), HELD)])
    with pytest.raises(Forgot):
        take(world.leader, 1, trunk(1))


def test_a_new_connection_is_refused_until_the_slots_are_rebuilt(world: World) -> None:
    take_one(world.leader, trunk(5))
    (connection,) = world.leaders_connections()
    world.redis.client_kill_filter(_id=connection)
    with pytest.raises(Away):
        take(world.leader, 1, trunk(5))
    with pytest.raises(Forgot):
        take(world.leader, 1, trunk(5))
    assert len(world.members(trunk(5))) == 1
    world.leader.rebuild([], [])
    assert len(take(world.leader, 5, trunk(5)).granted) == 5


def test_a_connection_that_is_lost_under_an_audit_needs_a_rebuild_as_well(world: World) -> None:
    (connection,) = world.leaders_connections()
    world.redis.client_kill_filter(_id=connection)
    with pytest.raises(Away):
        world.leader.audit([(uuid4(), HELD)])
    with pytest.raises(Forgot):
        take(world.leader, 1, trunk(1))


def test_everybody_else_reconnects_by_themselves(world: World) -> None:
    held = take_one(world.leader, trunk(1))
    world.slots.wake()
    for client in world.redis.client_list():
        if int(client["id"]) != world.redis.client_id() and client["id"] not in world.leaders_connections():
            world.redis.client_kill_filter(_id=client["id"])
    world.slots.free([held])
    assert world.members(trunk(1)) == set()


def test_a_redis_that_is_not_there_is_away(world: World) -> None:
    nobody = Slots(connect("redis://127.0.0.1:1/0"))
    with pytest.raises(Away):
        nobody.free([uuid4()])
    with pytest.raises(Away):
        nobody.in_use("trunk", TRUNK)
    nobody.wake()  # best effort
    with pytest.raises(Away):
        LeaderSlots("redis://127.0.0.1:1/0", 1).rebuild([], [])


def test_an_audit_counts_a_lease_for_the_limit_that_its_agent_has_got_since(world: World) -> None:
    agent = uuid4()
    limited = Scope(kind="agent", id=str(agent), limit=1)
    [old, over] = [uuid4(), uuid4()]
    room = trunk(5)
    world.leader.take([room], [Lease(attempt_id=id, scopes=(room,)) for id in (old, over)])
    world.slots.free([over])
    held = held_keys(trunk_id=TRUNK, node="n1", campaign_id=None, agent_id=agent)
    mended = world.leader.audit([(old, held), (over, held)])
    assert (mended.put_back, mended.freed) == (0, 0)
    assert world.slots.in_use("agent", agent) == 1, "the one that is over does not count"
    assert world.leader.take([room, limited], []).room[limited.slots_key] == 0
    new = Lease(attempt_id=uuid4(), scopes=(room, limited))
    assert not world.leader.take([room, limited], [new]).granted
    world.leader.audit([(old, held)])
    assert world.slots.in_use("agent", agent) == 1
    world.slots.free([old])
    assert world.slots.in_use("agent", agent) == 0
    assert world.leader.take([room, limited], [new]).granted


def test_a_rebuild_restores_exactly_the_holders(world: World) -> None:
    scopes = (trunk(10), node(), campaign(10))
    gone, lingering = take_one(world.leader, *scopes), take_one(world.leader, *scopes)
    world.slots.free([lingering], linger=HOUR)
    kept, forgotten = take_one(world.leader, *scopes), uuid4()
    holders = [(kept, HELD), (forgotten, held_keys(trunk_id=TRUNK, node="n1", campaign_id=None, agent_id=None))]
    newer = world.new_leader(2, holders)
    assert world.members(scopes[0]) == world.members(scopes[1]) == {kept, forgotten}
    assert world.members(scopes[2]) == {kept}
    assert world.redis.hgetall(LEASES) == {str(id): keys for id, keys in holders}
    assert world.redis.zcard(LINGERING) == 0
    assert {world.slots.in_use(*pair) for pair in [("trunk", TRUNK), ("node", "n1")]} == {2}
    assert gone not in world.members(scopes[0])
    newer.close()


def test_a_rebuild_delays_suspect_rates_by_a_second_and_no_others(world: World) -> None:
    suspect, other = trunk(10, 1000), Scope(kind="trunk", id="other", limit=10, calls_per_second=1000)
    before = world.now()
    newer = world.new_leader(2, [], [rate_key("trunk", TRUNK)])
    starts = int(world.redis.get(suspect.rate_key) or 0)
    assert before + 1_000_000 <= starts <= world.now() + 1_000_000
    leases = [Lease(attempt_id=uuid4(), scopes=(scope,)) for scope in (suspect, other)]
    # the clock is Redis's: the ask is made before the second is over, or the grant is proved to be after it
    taken = newer.take([suspect, other], leases)
    assert leases[1].attempt_id in taken.granted
    assert all(at >= starts for at in world.granted_at(suspect).values())
    newer.close()


def test_a_rebuild_never_brings_a_rate_forward(world: World) -> None:
    slow = trunk(10, 0.001)
    take_one(world.leader, slow)
    refused = take(world.leader, 1, slow)
    assert refused.granted == frozenset()
    assert dict(refused.room) == {slow.slots_key: 0}
    assert refused.ask_again_in is not None
    assert timedelta(seconds=900) < refused.ask_again_in < timedelta(seconds=1100)
    next_at = world.redis.get(slow.rate_key)
    world.leader.rebuild([], [slow.rate_key])
    assert world.redis.get(slow.rate_key) == next_at


def test_the_bell_ends_a_wait_and_says_whether_there_is_something_new(world: World) -> None:
    bell = Bell(connect(world.url))
    bell.wait(HOUR)  # ends when it is subscribed; so do the others when they are rung, or the test times out
    world.slots.wake()
    assert bell.wait(HOUR)
    world.slots.free([take_one(world.leader, trunk(1))])
    assert not bell.wait(HOUR)
    bell.close()


def test_a_bell_at_whose_other_end_nobody_is_any_more_says_so(
    world: World, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.slots._ASK_THE_BELL_EVERY", 0.05)
    monkeypatch.setattr("models.slots._BELL_ANSWERS_IN", 0.2)
    proxy, url = between(world, portal)
    bell = Bell(connect(url, briefly=True))
    for _ in range(20):  # it asks, and is answered
        bell.wait(timedelta(seconds=0.02))
    proxy.stall()
    with pytest.raises(Away, match="bell"):
        ring_out(bell)
    proxy.restore()
    bell.close()
    bell.wait(HOUR)
    world.slots.wake()
    assert bell.wait(HOUR)
    bell.close()
    proxy.close()


def ring_out(bell: Bell) -> None:
    """Waits at it until something is wrong, or two seconds have passed."""
    for _ in range(100):
        bell.wait(timedelta(seconds=0.02))


# --- a Redis that is half there -------------------------------------------------------------------


def between(world: World, portal: BlockingPortal) -> tuple[Proxy, str]:
    """Something in the way to Redis that can hang, and the address that leads through it."""
    port = int(world.redis.connection_pool.connection_kwargs["port"])
    proxy = Proxy.open(portal, ("127.0.0.1", port))
    return proxy, world.url.replace(f":{port}/", f":{proxy.port}/")


def test_whoever_holds_a_role_waits_for_a_redis_that_hangs_once(world: World, portal: BlockingPortal) -> None:
    proxy, url = between(world, portal)
    brief = Slots(connect(url, briefly=True))
    leader = LeaderSlots(url, 1)
    leader.rebuild([], [])
    brief.free([uuid4()])
    proxy.stall()
    for work in (lambda: brief.free([uuid4()]), lambda: take(leader, 1, trunk(1)), lambda: leader.rebuild([], [])):
        began = time.monotonic()
        with pytest.raises(Away):
            work()
        assert time.monotonic() - began < 3.5
    proxy.restore()
    leader.rebuild([], [])
    leader.close()
    proxy.close()


def test_what_redis_did_not_take_is_freed_when_it_has_been_left_alone(
    world: World, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.slots._TRY_AGAIN_AFTER", 3600.0)
    proxy, url = between(world, portal)
    freer = Freer(Slots(connect(url, briefly=True)))
    first, second, third = (take_one(world.leader, *ALL) for _ in range(3))
    freer.free({first: timedelta(0)})
    assert world.members(ALL[0]) == {second, third}
    proxy.refuse()
    with pytest.raises(Away):
        freer.free({second: HOUR})
    proxy.restore()
    freer.free({third: timedelta(0)})  # not asked: neither freed nor an error
    freer.wake()
    assert world.members(ALL[0]) == {second, third}
    freer._not_before = 0.0
    freer.free({})
    assert world.members(ALL[0]) == {second}
    assert world.redis.zscore(LINGERING, str(second)) is not None
    proxy.refuse()
    freer.wake()  # best effort, and it finds out as well
    proxy.restore()
    freer.free({third: timedelta(0)})
    assert third in freer._kept
    proxy.close()


def test_a_leader_in_doubt_connects_anew(world: World) -> None:
    before = world.leaders_connections()
    world.leader.distrust()
    world.leader.rebuild([], [])
    assert set(world.leaders_connections()).isdisjoint(before)


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:6379/0", "redis://127.0.0.1:port/0"])
def test_an_address_that_is_none_is_refused_with_what_would_be_right(address: str) -> None:
    with pytest.raises(Invalid, match="TRUNKLINE_REDIS_URL: must be redis://"):
        connect(address)


# --- no memory left -------------------------------------------------------------------------------


@pytest.fixture
def full(world: World) -> Iterator[World]:
    """Redis has three leases and no memory left."""
    world.redis.config_set("maxmemory", 1)
    yield world
    world.redis.config_set("maxmemory", 0)


def test_with_no_memory_left_nothing_is_granted_and_nothing_is_in_doubt(world: World, full: World) -> None:
    full.redis.config_set("maxmemory", 0)
    held = take_one(world.leader, *ALL)
    full.redis.config_set("maxmemory", 1)
    with pytest.raises(Full):
        take(world.leader, 1, *ALL)
    assert world.leader.take(ALL, []).granted == frozenset()
    assert world.members(ALL[0]) == world.members(ALL[1]) == world.members(ALL[2]) == {held}
    assert world.redis.hkeys(LEASES) == [str(held)]
    with pytest.raises(Away):
        world.slots.turns([(TRUNK, 100.0)])
    full.redis.config_set("maxmemory", 0)
    assert len(take(world.leader, 1, *ALL).granted) == 1, "without a rebuild"


def test_with_no_memory_left_slots_are_freed_audited_and_rebuilt_all_the_same(world: World, full: World) -> None:
    full.redis.config_set("maxmemory", 0)
    first, second, lacking = take_one(world.leader, *ALL), take_one(world.leader, *ALL), uuid4()
    full.redis.config_set("maxmemory", 1)
    world.slots.free([first])
    assert world.members(ALL[0]) == {second}
    assert world.leader.audit([(first, HELD), (lacking, HELD)]).put_back == 1
    world.leader.rebuild([(lacking, HELD)], [rate_key("trunk", TRUNK)])
    assert world.members(ALL[0]) == {lacking}


# --- a Redis with an old file ---------------------------------------------------------------------


def test_what_an_old_file_brings_back_is_forgotten_and_nobody_steps_down_for_it(world: World) -> None:
    ended = take_one(world.leader, *ALL)
    newer = world.new_leader(2, [])
    held = take_one(newer, *ALL)
    for doubted in (
        lambda: take(newer, 1, *ALL),
        lambda: newer.audit([(held, HELD)]),
        lambda: newer.free([uuid4()]),
    ):
        world.redis.set(EPOCH, 1)  # the file is from before
        world.leader.audit([(ended, HELD)])
        with pytest.raises(Forgot):
            doubted()
        newer.rebuild([(held, HELD)], [])
        assert world.members(ALL[0]) == world.members(ALL[2]) == {held}
        assert world.redis.hkeys(LEASES) == [str(held)]
    with pytest.raises(Stale):
        take(world.leader, 1, *ALL)
    newer.close()


def test_what_was_freed_while_the_ledger_was_read_stays_free_after_the_rebuild(world: World) -> None:
    kept, gone = take_one(world.leader, *ALL), take_one(world.leader, *ALL)
    holders = [(kept, HELD), (gone, HELD)]
    world.slots.free([gone])
    world.leader.rebuild(holders, [rate_key("trunk", TRUNK)])
    assert world.members(ALL[0]) == {kept}
    world.redis.flushall()
    world.slots.free([gone])
    world.leader.rebuild(holders, [rate_key("trunk", TRUNK)])
    assert world.members(ALL[0]) == {kept}


# --- Redis's clock put back: what it wrote before lies in its future ------------------------------

TEN_MINUTES = micros(timedelta(minutes=10))


def test_a_clock_put_back_keeps_no_trunk_waiting_until_it_is_that_late_again(world: World) -> None:
    fast = trunk(10, 100)
    world.redis.set(fast.rate_key, world.now() + TEN_MINUTES)
    world.redis.set(LINE, world.now() + TEN_MINUTES)
    refused = take(world.leader, 1, fast)
    assert refused.granted == frozenset()
    assert refused.ask_again_in is not None
    assert refused.ask_again_in <= timedelta(seconds=1)
    assert int(world.redis.get(fast.rate_key) or 0) <= world.now() + SECOND
    assert world.slots.turns([(TRUNK, 100.0)]) == [None]
    assert int(world.redis.get(LINE) or 0) <= world.now() + SECOND


def test_a_clock_put_back_keeps_no_slot_longer_than_usual(world: World) -> None:
    orphan, lingering, open_one = (take_one(world.leader, *ALL) for _ in range(3))
    for id in (orphan, open_one):
        world.age(id, -timedelta(minutes=10), *ALL)
    world.slots.free([lingering], linger=timedelta(minutes=10))
    assert world.leader.audit([(open_one, HELD)]) == Audit(put_back=0, freed=0, expired=0, young=(orphan,))
    assert all(at <= world.now() for at in world.granted_at(ALL[0]).values())
    world.leader.take(ALL, [])
    assert world.members(ALL[0]) == {orphan, open_one}
    world.age(orphan, YOUNGEST_ORPHAN, *ALL)
    assert world.leader.audit([(open_one, HELD)]).freed == 1
