"""A carrier in trouble: a storm of 503, or silence. Its gateways rest, others carry on, and one call at a time tries again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.witness import CarrierCall
from models.gateways import REST_AFTER
from tests.faults.witness import check
from tests.faults.world import SOME, Campaign, World, frozen
from tests.integration.system import until

SLOTS, RATE = 12, 30.0
IN_FLIGHT = 6
"""Calls that leave by a gateway that answers 503 at once, after the fifth that it refused: what was granted before that was
known. Not `SLOTS` of them: their slots come free one after the other, and are not given away again before the end is written."""


def seen_at(carrier: Carrier, campaign: Campaign) -> list[CarrierCall]:
    people = set(campaign.people)
    return [call for call in witness.read(carrier.log) if call.number in people]


def health(world: World, carrier: Carrier) -> Any:
    rows = world.rows(
        "SELECT h.failures, h.rests, h.rests_until > clock_timestamp() AS rests_now FROM gateway_health h"
        " JOIN trunk_gateways g ON g.id = h.gateway_id WHERE g.port = %(port)s",
        port=carrier.port,
    )
    return rows[0] if rows else None


def rests(world: World, carrier: Carrier, times: int = 1) -> bool:
    now = health(world, carrier)
    return bool(now and now.rests_now and now.rests >= times)


def a_try_at_a_time(calls: Sequence[CarrierCall]) -> None:
    """Each begins only after the one before it has been refused, and a rest is between them: 5 s, 10 s, 20 s ..."""
    for (before, after), rest in zip(pairwise(calls), (5.0, 10.0, 20.0, 40.0), strict=False):
        assert before.ended_at is not None
        assert after.invited_at - before.ended_at >= rest - 0.5


def attempts_a_call(world: World, campaign: Campaign) -> int:
    """That left, of the call that has the most."""
    return int(
        world.value(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM attempts"
            " WHERE campaign_id = %(c)s AND status <> 'withdrawn' GROUP BY call_id) a",
            c=campaign.id,
        )
    )


def test_a_storm_of_503_at_one_of_two_gateways_costs_nobody_a_call(world: World) -> None:
    first, second = world.add_carrier(), world.add_carrier()
    campaign = world.campaign_of(gateways=[first, second], slots=SLOTS, calls_per_second=RATE)
    world.wait_under_way(campaign)
    stormy = world.turn(first, "53")
    check(world, campaign, attempts_a_call=2, carrier_died=True)
    status = world.campaign(campaign.name)
    rang_there = [call for call in seen_at(first, campaign) if call.ringing_at and not call.answered_at]
    assert (status["failed"], status["completed"] + len(rang_there)) == (0, SOME["01"] + SOME["00"] + SOME["05"])
    assert REST_AFTER <= len(seen_at(stormy, campaign)) <= REST_AFTER + IN_FLIGHT + 2, "the rest went to the other"
    assert attempts_a_call(world, campaign) == 2


@pytest.mark.long
def test_a_trunk_whose_gateways_all_answer_503_pauses_says_why_and_goes_on_by_itself(world: World) -> None:
    first, second = world.add_carrier("53"), world.add_carrier("53")
    people = {"01": 40, "86": 20}
    campaign = world.campaign_of(people, gateways=[first, second], slots=SLOTS, calls_per_second=RATE)
    until(lambda: rests(world, first) and rests(world, second), what="both rest")
    paused = f"Trunk {campaign.name} is paused, all of its 2 gateways keep failing"
    assert paused in world.trunkline("explain", campaign.name)
    assert paused in world.trunkline("trunk", "show", campaign.name)
    assert "congestion" in world.trunkline("doctor", status=1)
    until(lambda: world.campaign(campaign.name)["queued"] == 0)
    storm = [*seen_at(first, campaign), *seen_at(second, campaign)]
    assert len(storm) <= 2 * (REST_AFTER + IN_FLIGHT)
    good = world.turn(first)
    check(world, campaign, attempts_a_call=2, carrier_died=True)
    assert paused not in world.trunkline("trunk", "show", campaign.name)
    answered = seen_at(good, campaign)
    trial, then = answered[:2]
    assert trial.ringing_at is not None or trial.ended_at is not None
    assert then.invited_at >= (trial.ringing_at or trial.ended_at or 0), "the others only after the first sign of life"
    tried = {call.number for call in [*seen_at(first, campaign), *seen_at(second, campaign)]}
    failed = world.rows("SELECT phone_number FROM calls WHERE campaign_id = %(c)s AND status = 'failed'", c=campaign.id)
    assert {row.phone_number for row in failed} <= tried, "what was tried, and nobody else"


@pytest.mark.long
def test_a_storm_that_goes_on_is_tried_with_one_call_at_a_time_ever_more_rarely(world: World) -> None:
    only = world.add_carrier("53")
    campaign = world.campaign_of({"01": 60}, gateways=[only], slots=SLOTS, calls_per_second=RATE)
    until(lambda: rests(world, only), what="it rests")
    until(lambda: world.campaign(campaign.name)["queued"] == 0)
    until(lambda: rests(world, only, times=4), within=60, what="three trials have failed")
    calls = seen_at(only, campaign)
    before, trials = calls[:-3], calls[-3:]
    assert len(before) <= REST_AFTER + IN_FLIGHT
    a_try_at_a_time([before[-1], *trials])
    assert attempts_a_call(world, campaign) == 1, "no retry storm"
    rows = world.value("SELECT count(*) FROM attempts WHERE campaign_id = %(c)s", c=campaign.id)
    assert rows <= len(calls) + SLOTS, "nor one in the ledger: but for turns that passed on a busy machine"
    assert world.slots.in_use("trunk", campaign.trunk_id) == 0, "no slot is held meanwhile"
    world.turn(only)
    world.run("UPDATE gateway_health SET rests_until = clock_timestamp() WHERE rests > 0")
    check(world, campaign, carrier_died=True)
    assert world.campaign(campaign.name)["completed"] == 60 - len(calls)


@pytest.mark.long
def test_a_silent_gateway_holds_no_slot_past_its_timer_and_the_next_one_carries_its_calls(world: World) -> None:
    silent, second = world.add_carrier("93"), world.add_carrier()
    campaign = world.campaign_of(gateways=[silent, second], slots=SLOTS, calls_per_second=RATE)
    check(world, campaign, attempts_a_call=2)
    ignored = seen_at(silent, campaign)
    assert len(ignored) <= SLOTS + REST_AFTER + 3, "all slots at once, what followed until five were over, and trials"
    assert world.campaign(campaign.name)["failed"] == 0
    held = world.rows(
        "SELECT extract(epoch FROM ended_at - initiated_at) AS seconds FROM attempts"
        " WHERE campaign_id = %(c)s AND disposition = 'gateway-unreachable'",
        c=campaign.id,
    )
    assert len(held) == len(ignored)
    assert max(row.seconds for row in held) < 8, "6.4 s of our own timer"


@pytest.mark.long
def test_a_carrier_that_stood_still_sees_each_attempt_once_when_it_goes_on(world: World) -> None:
    carrier = world.add_carrier()
    campaign = world.campaign_of(gateways=[carrier], slots=SLOTS, calls_per_second=RATE)
    world.wait_under_way(campaign)
    with frozen(carrier):
        until(lambda: rests(world, carrier, times=2), within=60, what="it rests, and a trial was silent too")
        unheard = world.value(
            "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND disposition = 'gateway-unreachable'",
            c=campaign.id,
        )
        assert REST_AFTER + 1 <= unheard <= SLOTS + REST_AFTER + 1
    check(world, campaign, carrier_died=True)
    assert attempts_a_call(world, campaign) == 1
