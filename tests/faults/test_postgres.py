"""Postgres restarted, gone, frozen, half-open and full: nothing is sent unclaimed, and what was heard is not forgotten.

Asterisk's own ledger loses what happens while Postgres is away. The listener's memory is the only witness then, so
wherever a listener lives no call may end `unknown`.
"""

from __future__ import annotations

import time

import pytest

from models.explanations import Ending, Verdict, explain
from models.points import Point
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import Campaign, World
from tests.integration.system import until

FEW = {"01": 8, "00": 8, "86": 8, "05": 2}
LONGER = {"02": 18, "05": 6, "86": 6}
"""Most of them are up, or ring, when something happens."""


def ended_between(world: World, campaign: Campaign, began: float, ended: float) -> int:
    """How many of its calls the carrier saw end within that time."""
    return sum(began < (call.ended_at or 0) < ended for call in calls_at_the_carrier(world, campaign))


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("worker-1", Point.WORKER_CLAIMS),
        ("listener-local", Point.LISTENER_WRITES),
        pytest.param("scheduler", Point.LEADER_TOOK, marks=pytest.mark.long),
        pytest.param("worker-1", Point.WORKER_CLAIMED, marks=pytest.mark.long),
        pytest.param("listener-local", Point.LISTENER_WROTE, marks=pytest.mark.long),
    ],
)
def test_a_postgres_that_crashes_in_the_middle_of_a_transaction_costs_no_call(
    world: World, name: str, point: Point
) -> None:
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    held = world.order(name, point, "hold")
    held.wait()
    world.crash_postgres()
    world.start("postgres")
    held.go_on()
    check(world, campaign)


def test_a_claim_whose_commit_is_not_confirmed_is_not_sent(world: World) -> None:
    campaign = world.campaign_of({"01": 8, "86": 8})
    world.wait_under_way(campaign, over=2)
    held = world.order("worker-1", Point.WORKER_CLAIMS, "hold")
    held.wait()
    cut = world.proxy("worker-1", "postgres").cut_at(b"COMMIT")
    held.go_on()
    cut.wait(30)
    check(world, campaign)
    rows = world.rows(
        "SELECT explanation FROM attempts WHERE campaign_id = %(c)s AND status = 'withdrawn'", c=campaign.id
    )
    assert explain(Ending(why=Verdict.NO_CHANNEL)) in [row.explanation for row in rows], "claimed, and never sent"


@pytest.mark.long
@pytest.mark.parametrize("name", ["listener-local", "scheduler"])
def test_a_commit_whose_answer_is_lost_loses_nothing(world: World, name: str) -> None:
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    world.proxy(name, "postgres").cut_at(b"COMMIT").wait(30)
    check(world, campaign)


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_what_happens_while_postgres_is_away_is_heard_and_written_afterwards(world: World, seconds: float) -> None:
    campaign = world.campaign_of(LONGER)
    world.wait_under_way(campaign)
    with world.without_postgres():
        gone_at = time.time()
        until(lambda: time.time() > gone_at + seconds, within=seconds + 5)
        back_at = time.time()
    check(world, campaign)
    assert ended_between(world, campaign, gone_at, back_at)
    for name in ("scheduler", "listener-local", "worker-1"):
        said = world.parts[name].log.read_text()
        assert "Traceback" not in said
        assert not [number for number in campaign.people if number.removeprefix("+") in said]


@pytest.mark.long
def test_a_listener_that_waits_for_postgres_hears_on_for_whoever_listens_then(world: World) -> None:
    """Two listeners; whichever has the role when Postgres is back, what the other one has heard is written."""
    world.add("listener-local")
    campaign = world.campaign_of(LONGER)
    world.wait_under_way(campaign)
    for _ in range(3):
        world.crash_postgres()
        world.start("postgres")
        until(lambda: world.value("SELECT heard_at > now() - interval '2 s' FROM nodes"), what="the node is heard")
    check(world, campaign)


@pytest.mark.long
def test_a_postgres_that_was_frozen_for_half_a_minute_costs_no_call(world: World) -> None:
    """All of it, with what Asterisk asks of it: Originates inside Asterisk are dialled after the thaw, or never."""
    campaign = world.campaign_of(LONGER)
    world.wait_under_way(campaign)
    claimed = world.order("worker-1", Point.WORKER_CLAIMED, "hold")
    claimed.wait()
    with world.frozen_postgres():
        claimed.go_on()
        frozen_at = time.monotonic()
        until(lambda: time.monotonic() > frozen_at + 30, within=35)
    check(world, campaign, asterisk_froze=True)


@pytest.mark.long
def test_originates_that_wait_inside_asterisk_for_its_postgres_are_dialled_once_or_never(world: World) -> None:
    """What is withdrawn meanwhile has no address any more when Asterisk goes on."""
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    with world.frozen_backends("trunkline_asterisk%"):
        frozen_at = time.monotonic()
        until(
            lambda: world.value(
                "SELECT count(*) FROM attempts a JOIN calls c ON c.id = a.call_id WHERE a.campaign_id = %(c)s"
                " AND a.explanation = %(why)s AND c.current_attempt_id <> a.id AND c.status = 'initiated'",
                c=campaign.id,
                why=explain(Ending(why=Verdict.NO_CHANNEL)),
            ),
            within=60,
            what="a call is sent anew whose withdrawn attempt is inside Asterisk still",
        )
        until(lambda: time.monotonic() > frozen_at + 30, within=35)
    check(world, campaign, asterisk_froze=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "said"), [("worker-1", "not_claimed"), ("listener-local", "role_lost"), ("scheduler", "role_lost")]
)
def test_a_half_open_connection_to_postgres_is_noticed_and_made_anew(world: World, name: str, said: str) -> None:
    campaign = world.campaign_of(LONGER)
    world.wait_under_way(campaign)
    log = world.parts[name].log
    noticed = log.read_text().count(said)
    world.proxy(name, "postgres").stall()
    until(lambda: log.read_text().count(said) > noticed, within=30, what="it is noticed")
    world.proxy(name, "postgres").restore()
    check(world, campaign)


@pytest.mark.long
def test_whoever_is_stopped_while_postgres_is_away_ends_in_time_and_loses_no_call(world: World) -> None:
    campaign = world.campaign_of({"02": 10, "01": 10})
    world.wait_under_way(campaign, over=1)
    names = ("scheduler", "worker-1", "listener-local")
    for name in names:
        world.proxy(name, "postgres").stall()
    began = time.monotonic()
    for name in names:
        world.processes[name].terminate()
    for name in names:
        world.processes[name].wait(30)
    assert time.monotonic() - began < max(world.parts[name].stop_timeout for name in names)
    for name in names:
        world.proxy(name, "postgres").restore()
        world.start(name)
    check(world, campaign)
