"""One leader, one listener a node: the standby takes over, and who has lost the role can write nothing any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pytest

from models.points import Point
from models.roles import PROBER, SCHEDULER, listener_of
from tests.faults.proxy import Direction
from tests.faults.witness import check
from tests.faults.world import Campaign, Do, Order, World
from tests.integration.system import until

Overheard = Mapping[Direction, list[bytes]]

LISTENER = listener_of("local")
TAKES_OVER_WITHIN = 10.0
FEW = {"01": 24, "00": 24, "86": 12}
LONG = {"90": 36, "01": 60, "86": 30}
"""Some are up for longer than a look-up waits for a claim in hand."""

LEADER_POINTS = [
    Point.LEADER_REBUILDS,
    Point.LEADER_TOOK,
    Point.LEADER_GRANTED,
    Point.LEADER_PUBLISHED,
    Point.LEADER_KEPT_HOUSE,
    Point.LEADER_AUDITS,
]
LISTENER_POINTS = [point for point in Point if point.startswith("listener-")]
LOOKS = (Point.LISTENER_LOOKED, Point.LISTENER_JUDGED)


@dataclass(frozen=True, kw_only=True)
class Reign:
    """Who holds a role, by the name of the process."""

    epoch: int
    of: str
    since: datetime


def reign(world: World, role: str) -> Reign:
    """Waits for somebody who lives to hold it."""

    def of_one_who_lives() -> Reign | None:
        for row in world.rows("SELECT epoch, holder, since FROM roles WHERE name = %(name)s", name=role):
            for name, process in world.processes.items():
                if row.holder.endswith(f":{process.pid}") and process.poll() is None:
                    return Reign(epoch=row.epoch, of=name, since=row.since)
        return None

    return until(of_one_who_lives, what=f"somebody holds {role}")  # type: ignore[return-value]


def now(world: World) -> datetime:
    moment: datetime = world.value("SELECT clock_timestamp()")
    return moment


def strike(world: World, name: str, point: Point, do: Do) -> Order:
    """Has the process do that to itself at the point; returns when it has."""
    order = world.order(name, point, do)
    if point is Point.LEADER_REBUILDS:
        world.proxy(name, "redis").cut()
    elif point in LOOKS:
        old = "SELECT count(*) FROM attempts WHERE status = 'ringing' AND initiated_at < clock_timestamp() - interval '4 s'"
        until(lambda: world.value(old), what="there is something to look up")
        world.proxy(name, "ami").cut()
    order.wait()
    return order


def successor(world: World, role: str, before: Reign, struck_at: datetime) -> Reign:
    """Waits for the next holder of the role: it has it in time, and calls go out under it."""
    until(
        lambda: world.value("SELECT epoch FROM roles WHERE name = %(role)s", role=role) > before.epoch,
        within=20,
        what=f"{role} passes on",
    )
    after = reign(world, role)
    assert (after.since - struck_at).total_seconds() < TAKES_OVER_WITHIN
    return after


def calls_go_on(world: World, campaign: Campaign, since: datetime) -> None:
    until(
        lambda: world.value(
            "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND initiated_at > %(since)s",
            c=campaign.id,
            since=since,
        ),
        within=TAKES_OVER_WITHIN,
        what="calls go on",
    )


def stands_by(world: World, role: str, since: datetime) -> None:
    """Returns when somebody who has connected after that has asked for the role."""
    until(
        lambda: world.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %(role)s AND backend_start > %(since)s AND query = 'COMMIT'",
            role=role,
            since=since,
        ),
        what=f"it asks for {role} again",
    )


def refused(slots: Overheard) -> None:
    """Every script that came through was of an epoch that does not rule any more."""
    asked, answered = b"".join(slots["sent"]).count(b"EVALSHA"), b"".join(slots["answered"]).count(b"STALE")
    assert asked == answered, f"{asked - answered} scripts went through"


def succeeded(world: World, campaign: Campaign, role: str, point: Point) -> tuple[Reign, Reign]:
    """Whoever holds the role freezes at the point; another takes over, and calls go on: the reigns before and after."""
    assert is_under_way(world, campaign)
    before = reign(world, role)
    strike(world, before.of, point, "freeze")
    after = successor(world, role, before, now(world))
    assert after.of != before.of
    calls_go_on(world, campaign, after.since)
    return before, after


def wakes_up_a_standby(world: World, name: str, role: str) -> None:
    """Thaws it; what comes through from it then is that it asks for the role, and no more.

    A listener hands in what it has *seen*, which anyone may; it neither says that it hears nor judges.
    """
    ledger, slots = world.proxy(name, "postgres").overhear(), world.proxy(name, "redis").overhear()
    thawed_at = now(world)
    world.thaw(name)
    stands_by(world, role, thawed_at)
    said = b"".join(ledger["sent"])
    assert b"pg_try_advisory_lock" in said
    forbidden = (
        [b"INSERT", b"UPDATE", b"DELETE"]
        if role == SCHEDULER
        else [b"INTO nodes", b"UPDATE nodes", b"Verdicts of the node", b"whose fate has to be looked up"]
    )
    assert [words for words in forbidden if words in said] == [], "nothing else comes through"
    if role == SCHEDULER:
        refused(slots)
        published = b"".join(slots["sent"]).count(b"LPUSH")
        assert not published, "nor does it publish what it had in hand"


def is_under_way(world: World, campaign: Campaign) -> bool:
    return bool(world.campaign(campaign.name)["scheduled"])


def test_standbys_take_over_from_a_leader_and_a_listener_that_are_killed(world: World) -> None:
    world.add("scheduler")
    world.add("listener-local")
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    for role, point in ((SCHEDULER, Point.LEADER_GRANTED), (LISTENER, Point.LISTENER_WRITES)):
        before = reign(world, role)
        strike(world, before.of, point, "kill")
        after = successor(world, role, before, now(world))
        calls_go_on(world, campaign, after.since)
    check(world, campaign)


def test_of_two_leaders_the_older_one_is_refused_by_redis_and_by_the_ledger(world: World) -> None:
    """Each is held up in the middle of something, loses its role to the other, and then goes on with it."""
    world.add("scheduler")
    campaign = world.campaign_of(FEW, slots=6)
    world.wait_under_way(campaign)
    for point in (Point.LEADER_TOOK, Point.LEADER_REBUILDS):
        assert is_under_way(world, campaign)
        before = reign(world, SCHEDULER)
        order = strike(world, before.of, point, "hold")
        world.run(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = %(role)s",
            role=SCHEDULER,
        )
        after = successor(world, SCHEDULER, before, now(world))
        assert after.of != before.of
        calls_go_on(world, campaign, after.since)
        slots = world.proxy(before.of, "redis").overhear()
        gone_on_at = now(world)
        order.go_on()
        stands_by(world, SCHEDULER, gone_on_at)
        refused(slots)
    check(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize(
    ("role", "kind", "points"),
    [(SCHEDULER, "scheduler", LEADER_POINTS), (LISTENER, "listener-local", LISTENER_POINTS)],
)
@pytest.mark.parametrize("standby", [True, False])
def test_one_that_is_killed_at_any_point_loses_no_call_and_doubles_none(
    world: World, role: str, kind: str, points: list[Point], *, standby: bool
) -> None:
    """Without a standby it is started again, as a service manager would."""
    if standby:
        world.add(kind)
    campaign = world.campaign_of(LONG, slots=6)
    world.wait_under_way(campaign)
    for point in points:
        assert is_under_way(world, campaign)
        before = reign(world, role)
        strike(world, before.of, point, "kill")
        killed_at = now(world)
        if standby:
            after = successor(world, role, before, killed_at)
            calls_go_on(world, campaign, after.since)
            assert after.of != before.of
        world.processes[before.of].wait()
        world.start(before.of)
        if not standby:
            after = successor(world, role, before, killed_at)
            calls_go_on(world, campaign, after.since)
    check(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize("do", ["kill", "freeze"])
def test_a_leader_that_is_lost_while_it_hands_over_leaves_no_slot_and_no_call_behind(world: World, do: Do) -> None:
    """The first gateway answers nobody: its calls go to the next one in the slots that they have."""
    world.add("scheduler")
    gateways = [world.add_carrier("93"), world.carrier]
    campaign = world.campaign_of({"01": 24, "00": 24}, gateways=gateways, start=False)
    before = reign(world, SCHEDULER)
    order = world.order(before.of, Point.LEADER_HANDS_OVER, do)
    world.run("UPDATE campaigns SET status = 'running' WHERE id = %(c)s", c=campaign.id)
    order.wait()
    after = successor(world, SCHEDULER, before, now(world))
    calls_go_on(world, campaign, after.since)
    if do == "freeze":
        wakes_up_a_standby(world, before.of, SCHEDULER)
    check(world, campaign, attempts_a_call=2)
    assert world.campaign(campaign.name)["failed"] == 0


@pytest.mark.long
def test_a_leader_that_freezes_at_any_point_is_succeeded_and_can_write_nothing_when_it_wakes_up(world: World) -> None:
    world.add("scheduler")
    campaign = world.campaign_of(LONG, slots=6)
    world.wait_under_way(campaign)
    for point in LEADER_POINTS:
        before, after = succeeded(world, campaign, SCHEDULER, point)
        until(lambda: reign(world, PROBER).of == after.of, what="it probes as well")  # noqa: B023
        wakes_up_a_standby(world, before.of, SCHEDULER)
        assert reign(world, SCHEDULER) == after
    check(world, campaign)


@pytest.mark.long
def test_a_listener_that_freezes_at_any_point_is_succeeded_and_judges_nothing_when_it_wakes_up(world: World) -> None:
    world.add("listener-local")
    campaign = world.campaign_of(LONG, slots=6)
    world.wait_under_way(campaign)
    for point in LISTENER_POINTS:
        before, after = succeeded(world, campaign, LISTENER, point)
        wakes_up_a_standby(world, before.of, LISTENER)
        assert reign(world, LISTENER) == after
    check(world, campaign)
