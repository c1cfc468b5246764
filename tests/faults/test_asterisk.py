"""An Asterisk that dies with calls up, in the middle of setting them up, or is stopped by its owner."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter

import pytest

from models.roles import listener_of
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until

STAYS = "dialplan://mine/stay"  # for longer than any of these tests


def epoch(world: World) -> int:
    return int(world.value("SELECT epoch FROM roles WHERE name = %(n)s", n=listener_of("local")))


def up(world: World, campaign: Campaign) -> int:
    return int(world.campaign(campaign.name)["in_progress"])


def lost(world: World, campaign: Campaign) -> int:
    return int(world.campaign(campaign.name)["unknown"])


def held(world: World, campaign: Campaign) -> int:
    return world.slots.in_use("trunk", campaign.trunk_id)


def dies_and_comes_back(world: World, number: signal.Signals = signal.SIGKILL) -> None:
    world.processes["asterisk"].send_signal(number)
    world.processes["asterisk"].wait(30)
    until(lambda: world.value("SELECT heard_at IS NULL FROM nodes"), what="the node is deaf")
    world.start("asterisk")


@pytest.mark.parametrize("many", [10, pytest.param(50, marks=pytest.mark.long)])
def test_calls_that_were_up_when_asterisk_was_killed_are_unknown_keep_their_slots_and_are_not_called_again(
    world: World, many: int
) -> None:
    others = many * 4 // 5
    campaign = world.campaign_of({"00": many, "86": others}, slots=many + 5, calls_per_second=50, agent=STAYS)
    until(lambda: up(world, campaign) == many, within=60, what="so many are up")
    listens = epoch(world)
    dies_and_comes_back(world)
    until(lambda: lost(world, campaign) >= many, within=30, what="their end cannot be known")
    assert held(world, campaign) >= many, "each may still be up at the carrier"
    until(lambda: world.over(campaign) == many + others, within=60, what="the others are called by what slots are left")
    unknown = lost(world, campaign)
    assert many <= unknown <= campaign.slots
    until(lambda: held(world, campaign) == unknown, what="theirs are held and no others")
    holds = world.rows(
        "SELECT hold_until >= initiated_at + %(longest)s AS whole FROM attempts WHERE campaign_id = %(c)s AND status = 'unknown'",
        c=campaign.id,
        longest=world.settings.ring_timeout + world.settings.longest_call,
    )
    assert Counter(row.whole for row in holds) == {True: unknown}, "until the longest call would be over"
    assert epoch(world) == listens, "the listener has kept its role over it"
    check(world, campaign, unknown=True, asterisk_died=True)
    status = world.campaign(campaign.name)
    assert status["unknown"] + status["busy"] == many + others


@pytest.mark.long
@pytest.mark.parametrize("after", [5, 25])
def test_calls_that_asterisk_was_setting_up_when_it_was_killed_are_not_called_again(world: World, after: int) -> None:
    campaign = world.campaign_of(
        {"05": 30, "90": 10, "86": 40, "00": 20}, slots=30, calls_per_second=100, agent="playback://hello-world"
    )
    until(lambda: len(calls_at_the_carrier(world, campaign)) >= after, within=60, what="INVITEs leave")
    dies_and_comes_back(world)
    check(world, campaign, unknown=True, asterisk_died=True, within=180)
    assert 0 < lost(world, campaign) <= campaign.slots


@pytest.mark.long
def test_an_asterisk_that_is_stopped_under_load_hangs_up_what_is_up_and_nobody_is_called_again(world: World) -> None:
    campaign = world.campaign_of({"00": 20, "05": 15, "90": 5, "86": 40}, slots=20, calls_per_second=50, agent=STAYS)
    until(lambda: up(world, campaign) >= 10, within=60, what="calls are up")
    listens = epoch(world)
    dies_and_comes_back(world, signal.SIGTERM)
    until(lambda: world.over(campaign) >= 30, within=60, what="calls go on")
    assert epoch(world) == listens
    world.run("UPDATE attempts SET hold_until = now() WHERE status = 'unknown' AND hold_until > now()")
    check(world, campaign, unknown=True, asterisk_died=True, within=180)


@pytest.mark.long
def test_an_asterisk_that_lets_its_calls_end_before_it_stops_costs_nobody_a_call(world: World) -> None:
    """Meanwhile it refuses every Originate, for as long as the longest call lasts: that is not the calls' fault."""
    campaign = world.campaign_of({"00": 8, "86": 60}, slots=12, calls_per_second=10, agent=STAYS)
    until(lambda: up(world, campaign) >= 4, within=60, what="calls are up")
    part = world.parts["asterisk"]
    console = [word for word in part.argv if word not in {"-f", "-n"}]
    with subprocess.Popen([*console, "-rx", "core stop gracefully"], stdout=subprocess.DEVNULL):
        world.processes["asterisk"].wait(120)
    refused = world.value(
        "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND explanation LIKE '%%shutting down%%'",
        c=campaign.id,
    )
    assert refused > 0, "it was asked, and did refuse"
    world.start("asterisk")
    check(world, campaign)
    status = world.campaign(campaign.name)
    assert (status["completed"], status["busy"]) == (8, 60)


@pytest.mark.long
def test_an_asterisk_that_is_killed_again_and_again_doubles_nobody_and_the_rest_is_called(world: World) -> None:
    campaign = world.campaign_of({"01": 40, "86": 40, "80": 20}, slots=20, calls_per_second=20)
    for round_ in range(1, 4):
        world.wait_under_way(campaign, over=20 * round_)
        dies_and_comes_back(world)
    check(world, campaign, unknown=True, asterisk_died=True, within=180)
