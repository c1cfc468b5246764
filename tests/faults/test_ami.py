"""AMI that lies down: cut, half-open, slow, refused, late; an Asterisk that dies or restarts in the middle of an Originate."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.doctor.ledger import breaker_finding, examine_postgres
from models.points import Point
from models.statements import statement
from tests.faults.proxy import Direction
from tests.faults.witness import check
from tests.faults.world import Campaign, World
from tests.integration.system import until

LONG = {"00": 40, "86": 30, "01": 40}
"""People who take a while, so that a fault lasts for a part of the campaign only."""


def state(world: World, node: str = "local") -> str:
    return next(str(row.state) for row in world.rows(statement("breakers")) if row.node == node)


def heard(world: World) -> bool:
    return bool(world.value("SELECT heard_at IS NOT NULL FROM nodes WHERE name = 'local'"))


def not_burnt(world: World, campaign: Campaign) -> None:
    """No call ended for its node's sake."""
    assert not world.rows(
        "SELECT id FROM calls WHERE campaign_id = %(c)s AND disposition IN ('not-placed', 'lost')", c=campaign.id
    )


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        (b"Action: Originate", "sent"),
        pytest.param(b"Response: Success", "answered", marks=pytest.mark.long),
    ],
)
def test_a_call_whose_originate_got_no_answer_is_looked_up_and_dialled_once(
    world: World, text: bytes, direction: Direction
) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    for _ in range(3):
        struck = world.proxy("worker-1", "ami").cut_at(text, direction)
        assert struck.wait(60)
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
def test_a_worker_that_may_not_log_in_burns_nothing_and_goes_on_when_it_may(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    ami = world.proxy("worker-1", "ami")
    ami.swap(b"Username: trunkline-sender", b"Username: trunkline-nobody")
    ami.cut()
    until(lambda: state(world) != "closed", what="the node rests")
    until(
        lambda: "Authentication failed" in world.value("SELECT last_failure FROM node_health"),
        what="the reason is known",
    )
    said = world.trunkline("explain", campaign.name)
    assert "Asterisk node local" in said, said
    assert "Authentication failed" in said, said
    _, ledger = examine_postgres(world.settings)
    finding = breaker_finding("asterisk local", "local", ledger) if ledger else None
    assert finding is not None
    assert "Authentication failed" in finding.sentence
    over = world.over(campaign)
    until(lambda: world.value("SELECT rests >= 2 FROM node_health"), what="a trial has failed")
    assert world.over(campaign) <= over + campaign.slots, "only what was up has ended"
    ami.restore()
    check(world, campaign)
    not_burnt(world, campaign)
    assert state(world) == "closed"


@pytest.mark.long
def test_a_node_whose_listener_may_not_log_in_gets_no_call_until_it_may(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    ami = world.proxy("listener-local", "ami")
    ami.swap(b"Username: trunkline-listener", b"Username: trunkline-strangers")
    ami.cut()
    until(lambda: not heard(world), what="it is deaf")
    assert "No Asterisk node is up and listened to" in world.trunkline("explain", campaign.name)
    ami.restore()
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
def test_a_worker_whose_link_is_half_open_sends_nothing_twice_and_gives_back_what_it_can(world: World) -> None:
    campaign = world.campaign_of(LONG, slots=30)
    world.wait_under_way(campaign)
    world.proxy("worker-1", "ami").stall()
    until(lambda: state(world) != "closed", what="the node rests", within=20)
    world.proxy("worker-1", "ami").restore()
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
def test_a_listener_whose_link_is_half_open_is_deaf_within_ten_seconds_and_looks_up_what_it_missed(
    world: World,
) -> None:
    campaign = world.campaign_of(LONG, slots=30)
    world.wait_under_way(campaign)
    world.proxy("listener-local", "ami").stall("answered")
    until(lambda: not heard(world), within=10 + 3, what="it is deaf")
    world.proxy("listener-local", "ami").restore()
    check(world, campaign)


@pytest.mark.long
def test_everything_half_open_at_once_loses_nothing(world: World) -> None:
    campaign = world.campaign_of(LONG, slots=30)
    world.wait_under_way(campaign)
    for proxy in world.proxies_to("ami"):
        proxy.stall()
    until(lambda: not heard(world), within=10 + 3, what="it is deaf")
    for proxy in world.proxies_to("ami"):
        proxy.restore()
    check(world, campaign)


@pytest.mark.long
def test_a_stall_that_ends_before_anybody_gives_up_passes_no_limit(world: World) -> None:
    campaign = world.campaign_of({"00": 40, "86": 60}, slots=60, calls_per_second=4)
    world.wait_under_way(campaign)
    ami = world.proxy("worker-1", "ami")
    for _ in range(3):
        ami.stall()
        until(
            lambda: (
                world.value(
                    "SELECT max(clock_timestamp() - initiated_at) > interval '2 s' FROM attempts"
                    " WHERE campaign_id = %(c)s AND status = 'initiated'",
                    c=campaign.id,
                )
                or state(world) != "closed"
            ),
            what="an Originate has waited, or nothing is sent any more",
        )
        ami.restore()
        seen = world.over(campaign)
        until(lambda seen=seen: world.over(campaign) >= seen + 15, what="it goes on", within=60)  # type: ignore[misc]
    check(world, campaign)


@pytest.mark.long
def test_an_ami_that_takes_connections_and_says_nothing_gets_no_calls(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    for proxy in world.proxies_to("ami"):
        proxy.stall()
        proxy.cut()
    until(lambda: not heard(world), what="it is deaf")
    until(
        lambda: not world.value("SELECT count(*) FROM attempts WHERE status = 'queued'"),
        within=40,
        what="nothing is in hand",
    )
    for proxy in world.proxies_to("ami"):
        proxy.restore()
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
def test_a_listener_that_asterisk_has_thrown_out_hears_again_and_looks_up_what_it_missed(world: World) -> None:
    ami = world.proxy("listener-local", "ami")
    ami.narrow()
    ami.cut()
    until(lambda: heard(world) and ami.ports, what="it hears by the narrow link")
    campaign = world.campaign_of({"00": 40, "86": 20}, slots=20, agent="dialplan://mine/flood")
    world.wait_under_way(campaign)
    ports = ami.ports
    world.freeze("listener-local")  # it reads nothing, and asks nothing either
    ami.stall("answered")
    until(lambda: not any(is_up(port) for port in ports), within=60, what="Asterisk has closed its side")
    world.thaw("listener-local")
    ami.restore()  # what was on the way comes now, and then the end
    check(world, campaign)


def is_up(port: int) -> bool:
    """Whether the far side still holds its end of the connection that comes from our port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, status, *_ = line.split()
        if int(remote.split(":")[1], 16) == port:
            return status == "01"
    return False


@pytest.mark.long
def test_events_that_come_three_seconds_late_change_nothing(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    world.proxy("listener-local", "ami").delay(3.0)
    check(world, campaign)
    not_burnt(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_an_asterisk_that_restarts_in_the_middle_of_an_originate_doubles_nobody(world: World, how: str) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    sent = world.order("worker-1", Point.WORKER_SENT, "hold")
    sent.wait()
    getattr(world, how)("asterisk")
    sent.go_on()
    world.start("asterisk")
    check(world, campaign, unknown=True, asterisk_died=True, within=200)
