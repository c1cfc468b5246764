"""Pause, stop and hang-up racing the claim: after the command has returned no INVITE of the campaign leaves (invariant 9)."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from models.points import Point
from models.statuses import OPEN
from tests.faults.witness import calls_at_the_carrier, check, nobody_was_called_twice, nothing_is_held
from tests.faults.world import Campaign, World
from tests.integration.system import until

RACE = {
    Point.WORKER_TOOK: "worker-1",
    Point.WORKER_CLAIMS: "worker-1",
    Point.WORKER_CLAIMED: "worker-1",
    Point.LEADER_TOOK: "scheduler",
    Point.LEADER_GRANTED: "scheduler",
}


class Command:
    """`trunkline ...` in the background; notes when it has returned."""

    def __init__(self, world: World, *words: str) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[tuple[str, float]] = self._pool.submit(lambda: (world.trunkline(*words), time.time()))

    def returned(self) -> float:
        said, at = self._done.result(60)
        self._pool.shutdown()
        assert "up" in said
        return at

    def is_running(self) -> bool:
        return not self._done.done()


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
        world.trunkline("campaign", "resume", campaign.name)
        check(world, campaign)
    else:
        until(lambda: world.campaign(campaign.name)["scheduled"] == 0, what="what was to come is canceled")
        nobody_was_called_twice(world, campaign)
        nothing_is_held(world, campaign)


@pytest.mark.parametrize("let_go", ["while it works", "when it has returned"])
@pytest.mark.parametrize("command", ["pause", "stop"])
@pytest.mark.parametrize("point", RACE)
def test_no_invite_leaves_after_the_command_has_returned(world: World, point: Point, command: str, let_go: str) -> None:
    campaign = world.campaign_of({"01": 20, "00": 20, "86": 10})
    world.wait_under_way(campaign)
    held = world.order(RACE[point], point, "hold")
    held.wait()
    running = Command(world, "campaign", command, campaign.name)
    if let_go == "while it works":
        until(lambda: in_force(world, campaign, "paused" if command == "pause" else "stopped"))
        held.go_on()
        returned_at = running.returned()
    else:
        returned_at = running.returned()
        held.go_on()
    quiet(world, campaign, returned_at)
    goes_on_or_is_over(world, campaign, command)
