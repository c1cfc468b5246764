"""Several nodes, several workers: what one of them has does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.faults.test_ami import not_burnt, state
from tests.faults.two_nodes import SECOND, TwoNodes
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until

MANY = {"01": 60, "86": 60, "00": 30}


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with TwoNodes(tmp_path_factory.mktemp("nodes")) as world:
        yield world


def by_node(world: World, campaign: Campaign) -> dict[str, int]:
    """How many of its calls have ended on which."""
    return dict(
        world.rows(
            "SELECT node, count(*) FROM attempts WHERE campaign_id = %(c)s AND status IN ('completed', 'busy') GROUP BY 1",
            c=campaign.id,
        )
    )


def longest_pause(world: World, campaign: Campaign) -> float:
    """Between two calls at the carrier."""
    began = sorted(call.invited_at for call in calls_at_the_carrier(world, campaign))
    return max(after - before for before, after in pairwise(began))


def test_a_node_that_takes_no_calls_rests_and_the_other_carries_on(world: World) -> None:
    campaign = world.campaign_of({"86": 90, "80": 60}, calls_per_second=15)
    until(lambda: len(by_node(world, campaign)) == 2, what="both are called by")
    world.proxy("worker-1", "ami").refuse()
    until(lambda: state(world) != "closed", what="it rests")
    there = by_node(world, campaign)[SECOND]
    until(lambda: by_node(world, campaign)[SECOND] >= there + 40, what="the other carries on", within=60)
    in_vain = world.value(
        "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND node = 'local' AND status = 'withdrawn'",
        c=campaign.id,
    )
    assert in_vain < 40, "it is left alone"
    assert state(world, SECOND) == "closed"
    world.proxy("worker-1", "ami").restore()
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
def test_an_asterisk_that_dies_leaves_the_calls_to_the_other(world: World) -> None:
    campaign = world.campaign_of(MANY)
    until(lambda: len(by_node(world, campaign)) == 2, what="both are called by")
    world.kill(f"asterisk-{SECOND}")
    here = by_node(world, campaign)["local"]
    until(lambda: by_node(world, campaign)["local"] >= here + 20, what="the other carries on")
    world.start(f"asterisk-{SECOND}")
    check(world, campaign, unknown=True, asterisk_died=True, within=200)


@pytest.mark.long
def test_a_node_that_answers_nothing_holds_up_no_call_of_the_other(world: World) -> None:
    campaign = world.campaign_of(MANY)
    until(lambda: len(by_node(world, campaign)) == 2, what="both are called by")
    world.proxy("worker-1", f"ami-{SECOND}").stall()
    until(lambda: state(world, SECOND) != "closed", what="it rests")
    here = by_node(world, campaign)["local"]
    until(lambda: by_node(world, campaign)["local"] >= here + 20, what="the other carries on")
    world.proxy("worker-1", f"ami-{SECOND}").restore()
    check(world, campaign)
    not_burnt(world, campaign)
    assert longest_pause(world, campaign) < 5, "threads that wait for one node are not there for the other"


@pytest.mark.long
def test_a_worker_that_is_cut_off_from_a_node_does_not_stop_it_for_another_worker(world: World) -> None:
    other = world.add("worker-1")
    campaign = world.campaign_of(MANY)
    until(lambda: world.proxy(other, "ami").connections, what="the other worker sends too")
    for service in ("ami", f"ami-{SECOND}"):
        world.proxy("worker-1", service).refuse()
    check(world, campaign)
    not_burnt(world, campaign)
    assert longest_pause(world, campaign) < 5
    attempts = world.value("SELECT count(*) FROM attempts WHERE campaign_id = %(c)s", c=campaign.id)
    assert attempts < 4 * len(campaign.people), "what the one gives back the other takes soon"
