"""Orderly stop: whatever is asked to end finishes what it has in hand and hands over the rest; a paused campaign is quiet."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from asterisk.pool import AmiPool
from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.people import numbers
from deploy.carrier.witness import CarrierCall
from deploy.debian import provide
from models.explanations import Ending, Verdict, explain
from models.points import Point
from models.roles import SCHEDULER
from tests.faults.witness import calls_at_the_carrier, check
from tests.faults.world import SOME, Campaign, World
from tests.integration.system import until
from tests.integration.test_up import Home

FEW = {"01": 24, "00": 24, "86": 12}
MORE = SOME | {"01": 60, "00": 60}
GAP = 10.0
"""Seconds without an INVITE that a rolling restart may make: what a standby has to take over in. Most is much shorter: it asks
for the role every second, a new leader trusts the rates a second later, a new listener first looks up what it has missed."""

ENDS_WITHIN = 15.0
"""Seconds; `trunkline up` kills after 20."""

TURN_PASSED = explain(Ending(why=Verdict.TURN_PASSED))
"""What comes late may have to wait for its turn, like everything else that comes late."""

AT_ONCE = 6

QUEUE, UNACKED = "{trunkline}:broker:trunkline", "{trunkline}:broker:unacked"


def withdrawn(world: World, campaign: Campaign) -> list[Any]:
    return world.rows(
        "SELECT explanation, count(*) FROM attempts WHERE campaign_id = %(c)s AND status = 'withdrawn' GROUP BY 1",
        c=campaign.id,
    )


def longest_gap(world: World, campaign: Campaign) -> float:
    times = [call.invited_at for call in calls_at_the_carrier(world, campaign)]
    return max(after - before for before, after in pairwise(times))


def restart(world: World, name: str) -> None:
    """As a service manager does it, with time to come up."""
    asked_at = world.value("SELECT clock_timestamp()")
    world.terminate(name)
    assert world.processes[name].returncode == 0, f"{name} ends in order"
    world.start(name)

    def is_there() -> bool:
        if name.startswith("worker"):
            return world.proxy(name, "redis").connections > 0
        return bool(
            world.value(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %(role)s AND backend_start > %(at)s",
                role=f"trunkline-{name.partition('-')[0]}%",
                at=asked_at,
            )
        )

    until(is_there, what=f"{name} is there again")


@pytest.mark.long
def test_a_rolling_restart_under_load_is_not_seen_by_the_carrier(world: World) -> None:
    pairs = [(kind, world.add(kind)) for kind in ("worker-1", "scheduler", "listener-local")]
    campaign = world.campaign_of(MORE, slots=6)
    world.wait_under_way(campaign)
    for pair in pairs:
        for name in pair:
            restart(world, name)
    assert world.campaign(campaign.name)["scheduled"], "it is under way still"
    check(world, campaign)
    assert longest_gap(world, campaign) < GAP
    assert {row.explanation for row in withdrawn(world, campaign)} <= {TURN_PASSED}


@pytest.mark.long
def test_everything_in_turn_may_be_stopped_under_load_with_nobody_to_take_over(world: World) -> None:
    """Also what is not ours. Of Asterisk's calls the carrier sees the end: it hangs them up before it goes."""
    campaign = world.campaign_of(
        {digits: 3 * many for digits, many in MORE.items() if many < 60} | {"01": 150, "00": 150}
    )
    for name in ("worker-1", "scheduler", "listener-local", "names", "valkey", "asterisk"):
        world.wait_under_way(campaign, over=world.over(campaign) + 5)
        world.terminate(name)
        world.start(name)
    assert world.campaign(campaign.name)["scheduled"], "it is under way still"
    check(world, campaign, unknown=True, within=300)
    assert world.campaign(campaign.name)["unknown"] <= campaign.slots, (
        "at most what Asterisk had up, and told nobody of"
    )


@pytest.mark.long
def test_a_postgres_that_shuts_down_gently_and_then_at_once_costs_no_call(world: World) -> None:
    """SIGTERM: it takes no new sessions and waits for the old ones; SIGINT, which `trunkline down` sends, ends those."""
    campaign = world.campaign_of(MORE, slots=8)
    world.wait_under_way(campaign)
    world.processes["postgres"].send_signal(signal.SIGTERM)
    seen = len(calls_at_the_carrier(world, campaign))
    until(lambda: len(calls_at_the_carrier(world, campaign)) > seen + 5, what="whoever has a session goes on")
    world.processes["postgres"].send_signal(signal.SIGINT)
    world.processes["postgres"].wait(30)
    world.start("postgres")
    check(world, campaign, unknown=True)


@pytest.mark.long
def test_a_worker_that_is_stopped_finishes_its_tasks_and_gives_the_others_back(world: World) -> None:
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    to_ledger = world.proxy("worker-1", "postgres")
    to_ledger.stall()
    queued = "SELECT count(*) FROM attempts WHERE campaign_id = %(c)s AND status = 'queued'"
    until(lambda: world.value(queued, c=campaign.id) == campaign.slots, what="every slot waits for the worker")
    with redis.Redis.from_url(world.stack.runtime["redis_url"]) as client:
        until(lambda: client.hlen(UNACKED), what="the worker has more than it has threads")
        for _ in range(2):
            world.processes["worker-1"].send_signal(signal.SIGTERM)  # the second says nothing new
        to_ledger.restore()
        assert world.processes["worker-1"].wait(ENDS_WITHIN) == 0
        assert client.hlen(UNACKED) == 0
        assert client.llen(QUEUE) >= world.value(queued, c=campaign.id) > 0, (
            "what it had not begun is back in the queue"
        )
    world.start("worker-1")
    check(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize("last", [signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_is_told_to_hurry_loses_nothing_either(world: World, last: signal.Signals) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    held = world.order("worker-1", Point.WORKER_CLAIMED, "hold")
    held.wait()
    for number in (signal.SIGTERM, last, last):
        world.processes["worker-1"].send_signal(number)
    held.go_on()
    world.processes["worker-1"].wait(ENDS_WITHIN)
    world.start("worker-1")
    check(world, campaign)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["scheduler", "listener-local"])
def test_a_second_signal_says_nothing_new(world: World, kind: str) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        world.processes[kind].send_signal(number)
    assert world.processes[kind].wait(ENDS_WITHIN) == 0
    world.start(kind)
    check(world, campaign)


def test_a_leader_that_is_stopped_publishes_what_it_has_granted(world: World) -> None:
    world.add("scheduler")
    campaign = world.campaign_of(FEW)
    world.wait_under_way(campaign)
    (holder,) = world.rows("SELECT holder FROM roles WHERE name = %(n)s", n=SCHEDULER)
    (leader,) = [name for name, process in world.processes.items() if holder.holder.endswith(f":{process.pid}")]
    held = world.order(leader, Point.LEADER_GRANTED, "hold")
    held.wait()
    granted = world.rows("SELECT id FROM attempts WHERE campaign_id = %(c)s AND status = 'queued'", c=campaign.id)
    assert granted
    sent = world.proxy(leader, "redis").overhear()["sent"]
    world.processes[leader].send_signal(signal.SIGTERM)
    held.go_on()
    assert world.processes[leader].wait(ENDS_WITHIN) == 0
    assert all(str(row.id).encode() in b"".join(sent) for row in granted)
    check(world, campaign)


def test_a_listener_that_is_stopped_writes_everything_that_it_has_heard(world: World) -> None:
    """Nobody listens after it, and all the same the ledger has every end that Asterisk had reported by then."""
    campaign = world.campaign_of({"01": 6, "86": 6, "80": 6}, slots=18)
    held = world.order("listener-local", Point.LISTENER_HEARD, "hold", after=1)
    held.wait()
    until(
        lambda: len([c for c in calls_at_the_carrier(world, campaign) if c.ended_at]) == len(campaign.people),
        what="every call is over",
    )
    with AmiPool(world.settings.nodes) as pool:
        until(lambda: not pool.channels("local"), what="Asterisk has said so, too")
    world.processes["listener-local"].send_signal(signal.SIGTERM)
    held.go_on()
    assert world.processes["listener-local"].wait(ENDS_WITHIN) == 0
    row = world.campaign(campaign.name)
    assert (row["completed"], row["busy"], row["no_answer"]) == (6, 6, 6)
    codes = world.rows("SELECT DISTINCT status, sip_code FROM calls WHERE campaign_id = %(c)s", c=campaign.id)
    assert {(code.status, code.sip_code) for code in codes} >= {("busy", 486), ("no-answer", 480)}
    world.start("listener-local")
    check(world, campaign)


class Caller(Home):
    """A user who runs campaigns with `trunkline up`, through a carrier of the test's."""

    def add_trunk(self, carrier: Carrier) -> None:
        limits = ("--max-concurrent-calls", str(AT_ONCE), "--max-calls-per-second", "20")
        gateway = f"{carrier.host}:{carrier.port}"
        self.trunkline("trunk", "create", "t", "--gateway", gateway, "--auth-type", "ip-based", *limits)
        self.trunkline("number", "add", "+12025550100", "--trunk", "t")
        self.trunkline("agent", "create", "a", "--connect", "playback://hello-world")

    def upload(self, name: str, people: list[str]) -> None:
        file = self.directory / f"{name}.csv"
        file.write_text("phone_number\n" + "\n".join(people) + "\n")
        words = ("--name", name, "--agent", "a", "--from", "+12025550100", "--start")
        self.trunkline("campaign", "upload", str(file), *words)

    def status(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.trunkline("campaign", "status", name, "--json")))

    def is_asked(self, answer: str) -> None:
        """`trunkline down` on a terminal."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [Path(sys.executable).parent / "trunkline", "down"],
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")},
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.STDOUT,
        ) as down:
            os.close(theirs)
            assert b"Hang up" in os.read(ours, 1000)
            os.write(ours, f"{answer}\n".encode())
            assert down.wait(60) == 0
        os.close(ours)


def up_now(carrier: Carrier) -> list[CarrierCall]:
    return [call for call in witness.read(carrier.log) if call.ended_at is None]


@pytest.mark.long
def test_down_waits_for_the_calls_that_are_up_or_ends_them_as_it_is_told(tmp_path: Path) -> None:
    patient = numbers({"05": 8 * AT_ONCE})  # rings for three seconds, then listens
    ringing = numbers({"90": 2 * AT_ONCE})  # until we give up, after half a minute
    carrier = Carrier(tree=provide().root, directory=tmp_path / "carrier", username="u", password="p")
    home = Caller(tmp_path)

    def some_are_up() -> bool:
        return len(up_now(carrier)) > AT_ONCE / 2

    with carrier:
        home.trunkline("up", "--detach")
        try:
            home.add_trunk(carrier)
            home.upload("patient", patient)
            waits: list[Callable[[], object]] = [lambda: home.trunkline("down", "--wait"), lambda: home.is_asked("n")]
            for down in waits:
                until(some_are_up, what="calls are up")
                down()
                assert up_now(carrier) == []
                home.trunkline("up", "--detach")
            until(
                lambda: home.status("patient")["completed"] == len(patient), within=60, what="the rest is called, too"
            )
            assert {call.end for call in witness.read(carrier.log)} == {"bye-received"}, "nobody was cut off"
            home.upload("ringing", ringing)
            ends: list[Callable[[], object]] = [lambda: home.is_asked("y"), lambda: home.trunkline("down", "--hang-up")]
            for down in ends:
                until(some_are_up, what="calls are up")
                down()
                assert up_now(carrier) == []
                home.trunkline("up", "--detach")
            assert home.status("ringing")["canceled"] == len(ringing), "by us, and not when we gave up"
        finally:
            home.trunkline("down", "--hang-up")
    called = [call.number for call in witness.read(carrier.log)]
    assert sorted(called) == sorted([*patient, *ringing]), "everybody once, whatever was stopped in between"
