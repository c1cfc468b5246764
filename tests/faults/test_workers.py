"""Workers that die, freeze or get the same message again."""

from __future__ import annotations

import pytest

from models.points import Point
from tests.faults.witness import check
from tests.faults.world import World


@pytest.mark.parametrize("point", [Point.WORKER_TOOK, Point.WORKER_CLAIMS, Point.WORKER_CLAIMED, Point.WORKER_SENT])
def test_a_worker_that_is_killed_loses_no_call_and_doubles_none(world: World, point: Point) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    killed = world.order("worker-1", point, "kill")
    killed.wait()
    world.processes["worker-1"].wait()
    world.start("worker-1")
    check(world, campaign)
