"""A Redis that forgets, goes away, hangs, has no memory left, comes back with an old file or a wrong clock (invariants 1, 3 and 8)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from models.errors import Unavailable
from models.points import Point
from models.repairs import Repair
from tests.faults.clock import Clock
from tests.faults.proxy import Proxy
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until

SOME = {"02": 16, "05": 16, "86": 12, "80": 12}
MANY = {"02": 90, "05": 20, "86": 60, "80": 60}
"""Most are up for two seconds and more: it is the slots that hold the next ones back, and not the rate."""
GRANTED = "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND status = 'queued'"
EVERYBODY = ("scheduler", "worker-1", "listener-local")


@pytest.fixture
def valkey(world: World) -> Iterator[redis.Redis]:
    """Straight to the server, past every proxy."""
    with redis.Redis.from_url(world.stack.runtime["redis_url"]) as client:
        yield client


def repaired(world: World, repair: Repair) -> int:
    rows = world.rows("SELECT times FROM repairs WHERE what = %(what)s", what=repair.value)
    return int(rows[0].times) if rows else 0


def rebuilt_again(world: World, before: int) -> None:
    until(lambda: repaired(world, Repair.SLOTS_REBUILT) > before, what="the slots are rebuilt")


def epochs(world: World) -> dict[str, int]:
    """Who has taken a role since has raised its epoch."""
    return {row.name: row.epoch for row in world.rows("SELECT name, epoch FROM roles WHERE name NOT LIKE '%%prober'")}


def more_over(world: World, campaign: Campaign, more: int, within: float = 60.0) -> None:
    """Returns when so many more of its calls are over."""
    wanted = min(world.over(campaign) + more, len(campaign.people))
    until(lambda: world.over(campaign) >= wanted, within=within, what=f"{more} more calls are over")


def invites(world: World, campaign: Campaign) -> int:
    return len(calls_at_the_carrier(world, campaign))


def nothing_leaves(world: World, campaign: Campaign, seconds: float) -> None:
    """For so long, from when what was in hand has ended."""
    until(lambda: all(call.ended_at for call in calls_at_the_carrier(world, campaign)), what="what was up has ended")
    before, until_then = invites(world, campaign), time.monotonic() + seconds
    until(lambda: time.monotonic() > until_then or invites(world, campaign) > before, within=seconds + 5)
    assert invites(world, campaign) == before
    assert world.over(campaign) < len(campaign.people), "there was more to call"


def proxies(world: World, names: Sequence[str]) -> list[Proxy]:
    return [world.proxy(name, "redis") for name in names]


# --- it forgets


def test_a_redis_that_is_flushed_again_and_again_is_rebuilt_before_anything_more_is_granted(
    world: World, valkey: redis.Redis
) -> None:
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    for _ in range(3):
        before = repaired(world, Repair.SLOTS_REBUILT)
        valkey.flushall()
        rebuilt_again(world, before)
        more_over(world, campaign, 12)
    check(world, campaign)


@pytest.mark.parametrize("file", ["lost", pytest.param("kept", marks=pytest.mark.long)])
def test_a_redis_that_is_killed_and_comes_back_costs_no_call_and_the_worker_hears_again(
    world: World, file: str
) -> None:
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    before = repaired(world, Repair.SLOTS_REBUILT)
    restart(world, keep=file == "kept")
    rebuilt_again(world, before)
    more_over(world, campaign, 20, within=25)
    check(world, campaign)


def restart(world: World, *, keep: bool) -> None:
    world.kill("valkey")
    if not keep:
        shutil.rmtree(files(world))
    world.start("valkey")


def files(world: World) -> Path:
    """The append-only file, which is a directory."""
    return world.stack.home / "valkey" / "appendonlydir"


@pytest.mark.long
def test_ten_restarts_under_load_cost_no_call(world: World) -> None:
    campaign = world.campaign_of(MANY)
    world.wait_under_way(campaign)
    for number in range(10):
        restart(world, keep=number % 2 == 0)
        more_over(world, campaign, 25)
    check(world, campaign)


@pytest.mark.long
def test_an_old_file_brings_back_neither_leases_nor_an_old_leader(world: World, tmp_path: Path) -> None:
    campaign = world.campaign_of(MANY)
    world.wait_under_way(campaign)
    world.kill("scheduler")
    world.kill("valkey")
    shutil.copytree(files(world), tmp_path / "old")
    world.start("valkey")
    world.start("scheduler")  # its epoch is higher than the file's
    more_over(world, campaign, 40)
    epoch = epochs(world)
    world.kill("valkey")
    shutil.rmtree(files(world))
    shutil.copytree(tmp_path / "old", files(world))
    world.start("valkey")
    more_over(world, campaign, 20)
    check(world, campaign)
    assert epochs(world) == epoch, "the leader rebuilt, and did not step down for an epoch lower than its own"


@pytest.mark.long
def test_slots_that_were_taken_in_a_script_whose_answer_was_lost_are_freed(world: World) -> None:
    campaign = world.campaign_of(MANY)
    world.wait_under_way(campaign)
    for _ in range(3):
        before = repaired(world, Repair.SLOTS_REBUILT)
        world.proxy("scheduler", "redis").cut_at(f"trunk:{campaign.trunk_id}".encode()).wait(30)
        rebuilt_again(world, before)
        more_over(world, campaign, 10)
    check(world, campaign)


# --- it has no memory left


def test_with_no_memory_left_nothing_leaves_slots_are_freed_and_calls_go_on_when_there_is(
    world: World, valkey: redis.Redis
) -> None:
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    before, epoch = repaired(world, Repair.SLOTS_REBUILT), epochs(world)
    world.freeze("worker-1")
    until(lambda: world.value(GRANTED, c=campaign.id) >= 3, what="some are granted and wait in the queue")
    valkey.config_set("maxmemory", 1)
    try:
        world.thaw("worker-1")  # it takes them, and cannot write down that it has
        nothing_leaves(world, campaign, 1.0)
        until(
            lambda: world.slots.in_use("trunk", campaign.trunk_id) == world.value(GRANTED, c=campaign.id),
            what="the slots of what has ended are free",
        )
        assert world.processes["worker-1"].poll() is None
    finally:
        valkey.config_set("maxmemory", 0)
    more_over(world, campaign, 10, within=20)
    check(world, campaign)
    assert epochs(world) == epoch
    assert repaired(world, Repair.SLOTS_REBUILT) == before, "nothing was in doubt"


# --- it hangs


@pytest.mark.long
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(EVERYBODY, id="everybody"),
        pytest.param(("scheduler",), id="the leader"),
        pytest.param(("worker-1",), id="the worker"),
        pytest.param(("listener-local",), id="the listener"),
    ],
)
def test_a_redis_that_hangs_costs_nobody_a_role_and_no_call(world: World, names: tuple[str, ...]) -> None:
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    epoch = epochs(world)
    for proxy in proxies(world, names):
        proxy.stall()
    if names == ("listener-local",):
        more_over(world, campaign, 30)  # the audit frees what it cannot
    else:
        nothing_leaves(world, campaign, 4.0)
    heard = world.value("SELECT count(*) FROM nodes WHERE heard_at > now() - interval '4 s'")
    for proxy in proxies(world, names):
        proxy.restore()
    more_over(world, campaign, 10, within=30)
    check(world, campaign)
    assert heard, "the node was heard all the time"
    assert epochs(world) == epoch


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(EVERYBODY, id="everybody"),
        pytest.param(("scheduler",), id="the leader", marks=pytest.mark.long),
        pytest.param(("worker-1",), id="the worker", marks=pytest.mark.long),
        pytest.param(("listener-local",), id="the listener", marks=pytest.mark.long),
    ],
)
def test_connections_that_died_unsaid_are_found_out_and_made_anew(world: World, names: tuple[str, ...]) -> None:
    """As a firewall does that forgets them: connected, and deaf."""
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    epoch = epochs(world)
    for proxy in proxies(world, names):
        proxy.strand()
    more_over(world, campaign, 40, within=40)
    check(world, campaign)
    assert epochs(world) == epoch


# --- it is away


@pytest.mark.parametrize(
    "seconds", [pytest.param(20.0, marks=pytest.mark.long), pytest.param(300.0, marks=pytest.mark.long)]
)
def test_while_redis_is_away_nothing_leaves_and_what_was_granted_is_taken_back(world: World, seconds: float) -> None:
    campaign = world.campaign_of(SOME)
    world.wait_under_way(campaign)
    epoch, voided = epochs(world), repaired(world, Repair.GRANT_VOIDED)
    held = world.order("worker-1", Point.WORKER_TOOK, "hold")
    held.wait()
    world.kill("worker-1")  # so that some stay granted
    until(lambda: world.value(GRANTED, c=campaign.id) >= 3, what="some are granted and not claimed")
    world.kill("valkey")
    away_until = time.monotonic() + seconds
    world.start("worker-1")
    nothing_leaves(world, campaign, seconds)
    until(lambda: time.monotonic() > away_until, within=seconds + 5)
    if seconds > 40:
        assert world.value(GRANTED, c=campaign.id) == 0, "what nobody claimed in half a minute has been taken back"
        assert repaired(world, Repair.GRANT_VOIDED) >= voided + 3
    world.start("valkey")
    more_over(world, campaign, 10, within=30)
    check(world, campaign)
    assert epochs(world) == epoch


# --- its clock is wrong


@contextmanager
def clocked(world: World, directory: Path) -> Iterator[Clock]:
    """The world's Valkey goes by a clock that can be set."""
    try:
        clock = Clock.open(directory)
    except Unavailable as error:
        pytest.skip(str(error))
    plain = world.parts["valkey"]
    try:
        world.stop("valkey")
        world.parts["valkey"] = clock.given_to(plain)
        world.start("valkey")
        yield clock
    finally:
        world.stop("valkey")
        world.parts["valkey"] = plain
        world.start("valkey")


@pytest.mark.long
def test_a_redis_whose_clock_is_ten_minutes_off_and_set_right_goes_on_within_every_limit(
    world: World, tmp_path: Path
) -> None:
    with clocked(world, tmp_path) as clock:
        campaign = world.campaign_of(MANY)
        world.wait_under_way(campaign)
        for minutes in (10, 0, -10, 0):  # forwards, and back: each but the first and the last also under load
            clock.off_by(timedelta(minutes=minutes))
            more_over(world, campaign, 25, within=20)
        check(world, campaign)


# --- a leader that is slow to rebuild


@pytest.mark.long
def test_a_leader_that_froze_before_it_rebuilt_rebuilds_nothing_when_it_wakes(
    world: World, valkey: redis.Redis
) -> None:
    """Its successor has; not even when Redis has forgotten the successor, too, does it stay so."""
    campaign = world.campaign_of(MANY)
    world.wait_under_way(campaign)
    frozen = world.order("scheduler", Point.LEADER_REBUILDS, "freeze")
    valkey.flushall()
    frozen.wait()
    world.add("scheduler")
    more_over(world, campaign, 40)
    valkey.flushall()
    world.thaw("scheduler")
    more_over(world, campaign, 40)
    check(world, campaign)
