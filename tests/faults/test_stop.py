"""Orderly stop: whatever is asked to end finishes what it has in hand and hands over the rest; a paused campaign is quiet."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from typing import Any

import pytest
import redis

from asterisk.pool import AmiPool
from models.points import Point
from models.roles import SCHEDULER
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import SOME, Campaign, World
from tests.integration.system import until

MORE = SOME | {"01": 60, "00": 60}
GAP = 5.0
"""Seconds without an INVITE that a rolling restart may make: the next one asks for the role every second, a new leader lets a
second pass before it trusts the rates, a new listener looks up what it has missed; the rest is how long a process starts."""


def withdrawn(world: World, campaign: Campaign) -> list[Any]:
    return world.rows(
        "SELECT explanation, count(*) FROM attempts WHERE campaign_id = %(c)s AND status = 'withdrawn' GROUP BY 1",
        c=campaign.id,
    )


def longest_gap(world: World, campaign: Campaign) -> float:
    times = [call.invited_at for call in calls_at_the_carrier(world, campaign)]
    return max(after - before for before, after in pairwise(times))


def restart(world: World, name: str) -> None:
    """As a service manager does it."""
    world.terminate(name)
    assert world.processes[name].returncode == 0, f"{name} ends in order"
    world.start(name)


def test_a_rolling_restart_under_load_is_not_seen_by_the_carrier(world: World) -> None:
    pairs = [(kind, world.add(kind)) for kind in ("worker-1", "scheduler", "listener-local")]
    campaign = world.campaign_of(MORE, slots=8)
    world.wait_under_way(campaign)
    for pair in pairs:
        for name in pair:
            restart(world, name)
    assert world.campaign(campaign.name)["scheduled"], "it is under way still"
    check(world, campaign)
    print("GAP", longest_gap(world, campaign), withdrawn(world, campaign))
    assert longest_gap(world, campaign) < GAP
    assert withdrawn(world, campaign) == []


@pytest.mark.long
def test_everything_in_turn_may_be_stopped_under_load_with_nobody_to_take_over(world: World) -> None:
    """Also what is not ours. Of Asterisk's calls the carrier sees the end: it hangs them up before it goes."""
    campaign = world.campaign_of(
        {digits: 3 * many for digits, many in MORE.items() if many < 60} | {"01": 150, "00": 150}
    )
    for name in ("worker-1", "scheduler", "listener-local", "names", "valkey", "asterisk"):
        world.wait_under_way(campaign, over=world.over(campaign) + 5)
        world.terminate(name)
        world.start(name)
    assert world.campaign(campaign.name)["scheduled"], "it is under way still"
    check(world, campaign, unknown=True)
    unknown = world.campaign(campaign.name)["unknown"]
    assert unknown == 0, "the end of every call was heard"


@pytest.mark.long
def test_a_postgres_that_shuts_down_gently_and_then_at_once_costs_no_call(world: World) -> None:
    """SIGTERM: it takes no new sessions and waits for the old ones; SIGINT, which `trunkline down` sends, ends those."""
    campaign = world.campaign_of(MORE, slots=8)
    world.wait_under_way(campaign)
    world.processes["postgres"].send_signal(signal.SIGTERM)
    seen = len(calls_at_the_carrier(world, campaign))
    until(lambda: len(calls_at_the_carrier(world, campaign)) > seen + 5, what="whoever has a session goes on")
    world.processes["postgres"].send_signal(signal.SIGINT)
    world.processes["postgres"].wait(30)
    world.start("postgres")
    check(world, campaign, unknown=True)


def broker(world: World) -> redis.Redis:
    return redis.Redis.from_url(world.stack.runtime["redis_url"])


def test_a_worker_that_is_stopped_finishes_its_tasks_and_gives_the_others_back(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    to_ledger = world.proxy("worker-1", "postgres")
    to_ledger.stall()
    queued = "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND status = 'queued'"
    until(lambda: world.value(queued, c=campaign.id) == campaign.slots, what="every slot waits for the worker")
    with broker(world) as client:
        names = {key.decode() for key in client.keys("{trunkline}:broker:*")}
        print("KEYS", names)
        taken = client.hlen("{trunkline}:broker:unacked")
        asked_at = time.monotonic()
        world.processes["worker-1"].send_signal(signal.SIGTERM)
        world.processes["worker-1"].send_signal(signal.SIGTERM)  # as often as one likes
        to_ledger.restore()
        assert world.processes["worker-1"].wait(30) == 0
        print(
            "TOOK",
            time.monotonic() - asked_at,
            "taken",
            taken,
            "back",
            client.llen("{trunkline}:broker:trunkline"),
            client.hlen("{trunkline}:broker:unacked"),
            world.value(queued, c=campaign.id),
        )
        assert client.hlen("{trunkline}:broker:unacked") == 0
        assert client.llen("{trunkline}:broker:trunkline") >= world.value(queued, c=campaign.id) > 0
    world.start("worker-1")
    check(world, campaign)
    assert withdrawn(world, campaign) == []


def test_a_leader_that_is_stopped_publishes_what_it_has_granted(world: World) -> None:
    world.add("scheduler")
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    (holder,) = world.rows("SELECT holder FROM roles WHERE name = %(n)s", n=SCHEDULER)
    (leader,) = [name for name, process in world.processes.items() if holder.holder.endswith(f":{process.pid}")]
    held = world.order(leader, Point.LEADER_GRANTED, "hold")
    held.wait()
    granted = world.rows("SELECT id FROM attempts WHERE campaign_id = %(c)s AND status = 'queued'", c=campaign.id)
    assert granted
    sent = world.proxy(leader, "redis").overhear()["sent"]
    world.processes[leader].send_signal(signal.SIGTERM)
    held.go_on()
    assert world.processes[leader].wait(30) == 0
    assert all(str(row.id).encode() in b"".join(sent) for row in granted)
    check(world, campaign)


def test_a_listener_that_is_stopped_writes_everything_that_it_has_heard(world: World) -> None:
    """Nobody listens after it, and all the same the ledger has every end that Asterisk had reported by then."""
    campaign = world.campaign_of({"01": 6, "86": 6, "80": 6}, slots=18)
    held = world.order("listener-local", Point.LISTENER_HEARD, "hold", after=1)
    held.wait()
    until(
        lambda: len([c for c in calls_at_the_carrier(world, campaign) if c.ended_at]) == len(campaign.people),
        what="every call is over",
    )
    with AmiPool(world.settings.nodes) as pool:
        until(lambda: not pool.channels("local"), what="Asterisk has said so, too")
    world.processes["listener-local"].send_signal(signal.SIGTERM)
    held.go_on()
    assert world.processes["listener-local"].wait(30) == 0
    row = world.campaign(campaign.name)
    assert (row["completed"], row["busy"], row["no_answer"]) == (6, 6, 6)
    codes = world.rows("SELECT DISTINCT status, sip_code FROM calls WHERE campaign_id = %(c)s", c=campaign.id)
    assert {(code.status, code.sip_code) for code in codes} >= {("busy", 486), ("no-answer", 480)}
    world.start("listener-local")
    check(world, campaign)
