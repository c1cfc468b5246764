"""Workers that die, freeze, get the same message again, or go by a wrong clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from asterisk.reconcile import SECOND_LOOK_AFTER
from deploy.part import Part
from models.points import Point
from models.slots import connect
from tests.faults.clock import Clock
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until
from workers.publish import MOST_A_TASK, Publisher

QUICK = {"86": 20, "80": 20, "04": 10}
"""People who are done with at once."""

MANY_AT_ONCE = {"slots": 40, "calls_per_second": 1000}
"""Slots for two full tasks, all free at the start."""

UNACKED = "{trunkline}:broker:unacked"


def queued(world: World, campaign: Campaign) -> list[UUID]:
    return [
        row.id
        for row in world.rows(
            "SELECT id FROM attempts WHERE campaign_id = %(c)s AND status = 'queued' ORDER BY id", c=campaign.id
        )
    ]


def begin(world: World, campaign: Campaign) -> None:
    world.run("UPDATE campaigns SET status = 'running', started_at = now() WHERE id = %(c)s", c=campaign.id)
    world.slots.wake()


@contextmanager
def part_changed(world: World, name: str, part: Part) -> Iterator[None]:
    """The process runs so for the length of the block, from a start of its own."""
    plain = world.parts[name]
    world.stop(name)
    world.parts[name] = part
    world.start(name)
    try:
        yield
    finally:
        world.stop(name)
        world.parts[name] = plain
        world.start(name)


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.WORKER_TOOK, Point.WORKER_CLAIMS, Point.WORKER_CLAIMED, Point.WORKER_SENT])
def test_a_worker_that_is_killed_loses_no_call_and_doubles_none(world: World, point: Point) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    killed = world.order("worker-1", point, "kill")
    killed.wait()
    world.processes["worker-1"].wait()
    world.start("worker-1")
    check(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.WORKER_TOOK, Point.WORKER_CLAIMS, Point.WORKER_CLAIMED, Point.WORKER_SENT])
def test_of_two_workers_one_is_killed_and_the_other_carries_on(world: World, point: Point) -> None:
    world.add("worker-1")
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    world.order("worker-1", point, "kill").wait()
    check(world, campaign)
    assert world.processes["worker-1"].poll() is not None


@pytest.mark.parametrize(
    "point",
    [
        Point.WORKER_CLAIMS,
        pytest.param(Point.WORKER_CLAIMED, marks=pytest.mark.long),
        pytest.param(Point.WORKER_SENT, marks=pytest.mark.long),
    ],
)
def test_a_worker_is_killed_with_sixteen_attempts_in_one_task(world: World, point: Point) -> None:
    campaign = world.campaign_of({"86": 30, "01": 30}, **MANY_AT_ONCE, start=False)  # type: ignore[arg-type]
    killed = world.order("worker-1", point, "kill", many=MOST_A_TASK)
    begin(world, campaign)
    killed.wait()
    world.processes["worker-1"].wait()
    world.start("worker-1")
    check(world, campaign)


@pytest.mark.long
def test_a_call_that_kills_its_worker_is_parked_after_three_and_the_others_go_on(world: World) -> None:
    campaign = world.campaign_of({"01": 31}, **MANY_AT_ONCE, start=False)  # type: ignore[arg-type]
    poison = campaign.people[7]
    order = world.order("worker-1", Point.WORKER_CLAIMED, "kill", number=poison, stays=True)
    begin(world, campaign)
    deaths = 0

    def supervised() -> bool:
        nonlocal deaths
        if world.processes["worker-1"].poll() is not None:
            deaths += 1
            world.start("worker-1")
        return bool(world.campaign(campaign.name)["status"] == "completed")

    until(supervised, within=120, what="the campaign is completed")
    order.take_back()
    assert deaths == 3
    check(world, campaign)
    rows = world.rows(
        "SELECT phone_number, status, disposition, rescues, explanation FROM calls WHERE campaign_id = %(c)s",
        c=campaign.id,
    )
    parked = next(row for row in rows if row.phone_number == poison)
    assert (parked.status, parked.disposition, parked.rescues) == ("failed", "poison", 3)
    assert "Three workers died" in parked.explanation
    others = [row for row in rows if row is not parked]
    assert {row.status for row in others} == {"completed"}
    assert max(row.rescues for row in others) < 3
    assert sorted(call.number for call in calls_at_the_carrier(world, campaign)) == sorted(
        row.phone_number for row in others
    )


# --- the same message again -----------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 20])
def test_the_same_messages_delivered_at_once_to_two_workers_dial_nobody_twice(world: World, times: int) -> None:
    world.add("worker-1")
    campaign = world.campaign_of(QUICK, slots=20, calls_per_second=200, start=False)
    workers = ("worker-1", "worker-1-2")
    for name in workers:
        world.freeze(name)
    begin(world, campaign)
    until(lambda: len(queued(world, campaign)) == campaign.slots, what="every slot is granted")
    ids = queued(world, campaign)
    publish = Publisher(world.settings)
    for _ in range(times - 1):  # the leader has published them once
        publish_singly(publish, ids)
    for name in workers:
        world.thaw(name)
    until(lambda: not set(ids) & set(queued(world, campaign)), what="they are claimed")
    publish_singly(publish, ids)  # and once more, when all is done
    check(world, campaign)
    claims = world.rows(
        "SELECT attempt_id, count(*) AS n FROM call_events WHERE subject = 'attempt' AND to_status = 'initiated'"
        " AND attempt_id = ANY (%(ids)s) GROUP BY 1",
        ids=ids,
    )
    assert [row.n for row in claims] == [1] * len(claims)


def publish_singly(publish: Publisher, ids: Sequence[UUID]) -> None:
    for id in ids:
        publish([id])


def test_messages_that_come_again_because_their_holder_was_slow_dial_nobody_twice(world: World) -> None:
    """A visibility timeout of two seconds, for tasks that take longer."""
    options = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    with part_changed(
        world, "worker-1", with_environment(world.parts["worker-1"], {"BROKER_OPTIONS": json.dumps(options)})
    ):
        slow = world.add("worker-1")
        world.freeze("worker-1")
        campaign = world.campaign_of(QUICK, slots=30, calls_per_second=200, start=False)
        held = world.order(slow, Point.WORKER_CLAIMED, "hold", stays=True)
        begin(world, campaign)
        held.wait()
        with connect(world.stack.runtime["redis_url"]) as client:
            until(lambda: client.hlen(UNACKED) >= 5, what="some wait behind those that are held")
            unacked = set(client.hkeys(UNACKED))
            world.thaw("worker-1")
            until(lambda: not unacked & set(client.hkeys(UNACKED)), what="they are delivered once more")
        until(lambda: world.over(campaign) >= 40, within=60, what="the other worker has done what came again")
        held.go_on()
        check(world, campaign)


def with_environment(part: Part, environment: Mapping[str, str]) -> Part:
    return replace(part, env={**part.env, **environment})


# --- frozen ---------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.WORKER_TOOK, Point.WORKER_CLAIMS, Point.WORKER_CLAIMED])
def test_a_worker_that_wakes_up_when_others_have_done_its_work_dials_nobody(world: World, point: Point) -> None:
    campaign = world.campaign_of(start=False)
    frozen = world.order("worker-1", point, "freeze", number=campaign.people[40])
    begin(world, campaign)
    frozen.wait()
    other = world.add("worker-1")
    check(world, campaign)
    world.kill(other)
    world.thaw("worker-1")
    again = world.campaign_of(QUICK)
    check(world, again)  # by the one that was frozen: what it had in hand is done with
    check(world, campaign)


# --- a wrong clock --------------------------------------------------------------------------------


OFF = pytest.mark.parametrize("off", [timedelta(minutes=10), timedelta(minutes=-10)], ids=["fast", "slow"])


@pytest.mark.long
@OFF
def test_a_listener_with_a_wrong_clock_takes_its_second_look_when_it_is_time(world: World, off: timedelta) -> None:
    clock = Clock.open(world.stack.home / "clocks" / "second-look")
    clock.off_by(off)
    with part_changed(world, "listener-local", clock.given_to(world.parts["listener-local"])):
        until(lambda: world.value("SELECT count(*) FROM nodes WHERE heard_at > now() - interval '4 s'"), within=60)
        campaign = world.campaign_of(QUICK, start=False)
        killed = world.order("worker-1", Point.WORKER_CLAIMED, "kill", number=campaign.people[20])
        begin(world, campaign)
        killed.wait()
        world.processes["worker-1"].wait()
        world.start("worker-1")
        check(world, campaign, within=60)
    looked = world.rows(
        "SELECT g.at - w.at AS after FROM call_events w JOIN attempts a ON a.id = w.attempt_id"
        " JOIN call_events g ON g.call_id = w.call_id AND g.subject = 'call' AND g.to_status = 'scheduled' AND g.at > w.at"
        " WHERE a.campaign_id = %(c)s AND w.subject = 'attempt' AND w.from_status = 'initiated' AND w.to_status = 'withdrawn'"
        " AND w.writer LIKE 'trunkline-listener%%'",
        c=campaign.id,
    )
    assert looked
    assert min(row.after for row in looked) >= SECOND_LOOK_AFTER


@pytest.mark.long
@OFF
@pytest.mark.parametrize("name", ["worker-1", "scheduler", "listener-local"])
def test_a_clock_that_is_off_by_ten_minutes_and_then_by_ten_the_other_way_changes_nothing(
    world: World, name: str, off: timedelta
) -> None:
    clock = Clock.open(world.stack.home / "clocks" / name)
    clock.off_by(off)
    with part_changed(world, name, clock.given_to(world.parts[name])):
        until(lambda: world.value("SELECT count(*) FROM nodes WHERE heard_at > now() - interval '4 s'"), within=60)
        campaign = world.campaign_of()
        world.wait_under_way(campaign, over=20)
        clock.off_by(-off)
        check(world, campaign)
        again = world.campaign_of(QUICK)
        check(world, again)
