"""The sweep or the worker of webhooks dies between two things that are not one: every transition arrives all the same."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from models.points import Point
from tests.faults.test_workers import begin
from tests.faults.witness import check
from tests.faults.world import Campaign, World
from tests.integration.receivers import Receiver, receiver
from tests.integration.system import until

PEOPLE = {"86": 12, "80": 8, "04": 4}
"""So many that a receiver has several tasks; nobody is up for long."""

Told = dict[str, set[tuple[str, str]]]
"""The calls and statuses that came under each `webhook-id`: one, if all is well."""


@pytest.mark.parametrize(
    ("part", "point", "after"),
    [
        ("scheduler", Point.WEBHOOKS_LEASED, 0),
        ("webhooks", Point.WEBHOOKS_CLAIMED, 0),
        ("webhooks", Point.WEBHOOKS_POSTED, 0),
        pytest.param("webhooks", Point.WEBHOOKS_CLAIMED, 3, marks=pytest.mark.long),
        pytest.param("webhooks", Point.WEBHOOKS_POSTED, 3, marks=pytest.mark.long),
    ],
)
def test_whoever_is_killed_every_transition_arrives_and_under_one_id(
    world: World, part: str, point: Point, after: int
) -> None:
    campaign = world.campaign_of(PEOPLE, start=False)
    with receiver() as there:
        tell(world, campaign, there)
        killed = world.order(part, point, "kill", after=after)
        begin(world, campaign)
        killed.wait()
        world.processes[part].wait()
        time_passes(world)
        world.start(part)
        check(world, campaign)
        until(lambda: not waiting(world, there), within=60, what="all is delivered")
        told = told_by_id(there)
    transitions = world.rows(
        "SELECT e.call_id::text, e.to_status FROM call_events e JOIN calls c ON c.id = e.call_id"
        " WHERE e.subject = 'call' AND c.campaign_id = %(c)s",
        c=campaign.id,
    )
    assert all(len(one) == 1 for one in told.values()), "an id is of one transition"
    assert sorted(one for (one,) in told.values()) == sorted(map(tuple, transitions)), "and each has one id"


def tell(world: World, campaign: Campaign, to: Receiver) -> None:
    world.run("UPDATE campaigns SET webhook_url = %(url)s WHERE id = %(c)s", url=to.url, c=campaign.id)


def waiting(world: World, to: Receiver) -> int:
    return int(world.value("SELECT count(*) FROM webhook_deliveries WHERE url = %(url)s", url=to.url))


def time_passes(world: World) -> None:
    """Leases end and waits are over, as a minute later; what has neither gets none by it."""
    world.run(
        "UPDATE webhook_deliveries SET due_at = due_at - interval '1 minute', leased_until = leased_until - interval '1 minute'"
    )


def told_by_id(there: Receiver) -> Told:
    told: Told = defaultdict(set)
    for got in list(there.got):
        body = json.loads(got.body)
        told[got.id].add((body["id"], body["status"]))
    return told
