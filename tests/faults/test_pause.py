"""Pause, stop and hang-up racing the claim: after the command has returned no INVITE of the campaign leaves (invariant 9)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product

import pytest

from models.points import Point
from models.statuses import OPEN
from scheduler.campaigns import resume
from scheduler.stopping import hang_up, pause, stop
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until

RACE = {
    Point.WORKER_TOOK: "worker-1",
    Point.WORKER_CLAIMS: "worker-1",
    Point.WORKER_CLAIMED: "worker-1",
    Point.LEADER_TOOK: "scheduler",
    Point.LEADER_GRANTED: "scheduler",
}


CASES = list(product(RACE, ["pause", "stop"], ["while it works", "when it has returned"]))
TELLING = [
    (Point.WORKER_CLAIMED, "pause", "while it works"),
    (Point.LEADER_GRANTED, "stop", "when it has returned"),
]


class Command:
    """`pause` or `stop`, as the command line calls it, in the background; notes when it has returned."""

    def __init__(self, world: World, campaign: Campaign, to: str) -> None:
        command = {"pause": pause, "stop": stop}[to]
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(lambda: (command(world.settings, campaign.name), time.time()))

    def returned(self) -> float:
        _, at = self._done.result(60)
        self._pool.shutdown()
        return at


def quiet(world: World, campaign: Campaign, since: float) -> None:
    """Waits until nothing of it is in hand any more, and asks the carrier whether anything left after that moment."""
    until(
        lambda: (
            not world.value(
                "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s"
                " AND (status = ANY (%(open)s) AND status <> 'unknown' OR status = 'withdrawn' AND hold_until IS NOT NULL)",
                c=campaign.id,
                open=[status.value for status in OPEN],
            )
        ),
        within=60,
        what="what was up is over, and every second look was taken",
    )
    late = [call for call in calls_at_the_carrier(world, campaign) if call.invited_at > since]
    assert not late, f"{len(late)} INVITEs left after the command had returned: {late[:3]}"


def in_force(world: World, campaign: Campaign, status: str) -> bool:
    """Whether the command has changed the campaign, or waits for its row."""
    return bool(
        world.campaign(campaign.name)["status"] == status
        or world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trunkline-operator' AND wait_event_type = 'Lock'"
        )
    )


def goes_on_or_is_over(world: World, campaign: Campaign, command: str) -> None:
    """Resumed, everybody is called exactly once; stopped, nobody else is called."""
    if command == "pause":
        with world.engine.begin() as connection:
            resume(connection, campaign.name)
    else:
        until(lambda: not world.campaign(campaign.name)["scheduled"], what="what was to come is canceled")
    check(world, campaign)


@pytest.mark.parametrize(
    ("point", "command", "let_go"),
    [pytest.param(*case, marks=() if case in TELLING else pytest.mark.long) for case in CASES],
)
def test_no_invite_leaves_after_the_command_has_returned(world: World, point: Point, command: str, let_go: str) -> None:
    campaign = world.campaign_of({"01": 20, "00": 20, "86": 10})
    world.wait_under_way(campaign)
    held = world.order(RACE[point], point, "hold")
    held.wait()
    running = Command(world, campaign, command)
    if let_go == "while it works":
        until(lambda: in_force(world, campaign, "paused" if command == "pause" else "stopped"))
        held.go_on()
        returned_at = running.returned()
    else:
        returned_at = running.returned()
        held.go_on()
    quiet(world, campaign, returned_at)
    goes_on_or_is_over(world, campaign, command)


@contextmanager
def away(world: World, what: str) -> Iterator[None]:
    """That is not there, for the length of the block."""
    with ExitStack() as back:
        if what == "asterisk's ledger":
            back.enter_context(world.frozen_backends("trunkline_asterisk_%"))
        else:
            world.kill(what)
            back.callback(world.start, what)
        yield


@pytest.mark.long
@pytest.mark.parametrize("what", ["asterisk's ledger", "valkey", "listener-local", "scheduler", "worker-1"])
@pytest.mark.parametrize("command", ["pause", "stop"])
def test_no_invite_leaves_after_it_whatever_is_away_meanwhile(world: World, what: str, command: str) -> None:
    """An Asterisk whose Postgres hangs has taken Originates by then, and would dial them when it wakes up."""
    campaign = world.campaign_of({"01": 30, "00": 30, "86": 15})
    world.wait_under_way(campaign)
    held = world.order("worker-1", Point.WORKER_CLAIMED, "hold")
    held.wait()
    with away(world, what):
        held.go_on()
        returned_at = Command(world, campaign, command).returned()
    quiet(world, campaign, returned_at)
    goes_on_or_is_over(world, campaign, command)


@pytest.mark.parametrize(
    "point",
    [
        Point.WORKER_CLAIMED,
        *(
            pytest.param(point, marks=pytest.mark.long)
            for point in (Point.WORKER_TOOK, Point.WORKER_CLAIMS, Point.LEADER_GRANTED)
        ),
    ],
)
def test_a_call_that_is_hung_up_while_it_is_claimed_is_never_dialled(world: World, point: Point) -> None:
    agent, from_number = world.add_agent(f"agent-{point}"), world.add_trunk(f"trunk-{point}", userpass=False)
    held = world.order(RACE[point], point, "hold")
    call = world.call(agent, from_number, "+12025550101")
    held.wait()
    assert hang_up(world.settings, call) == "canceled"
    returned_at = time.time()
    held.go_on()
    other = world.call(agent, from_number, "+12025550186")
    until(lambda: world.status(other) == "busy", what="the next call is made")
    assert [c for c in world.carried("+12025550101") if c.invited_at > returned_at] == []
    assert world.status(call) == "canceled"
    assert world.carried("+12025550101") == []
