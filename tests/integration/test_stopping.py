"""Pause, stop and hang-up mean it: what the carrier sees after they have returned (invariant 9)."""

from __future__ import annotations

import time
from pathlib import Path

from deploy.carrier.people import numbers
from tests.integration.system import System, until
from tests.integration.test_campaign import assert_nothing_is_left, is_over, seen_of, start_campaign


def invites_after(system: System, to: list[str], moment: float) -> list[str]:
    return [call.number for call in seen_of(system, to) if call.invited_at > moment]


def test_after_a_pause_has_returned_no_invite_leaves_and_after_a_resume_everybody_is_called_once(
    system: System, tmp_path: Path
) -> None:
    to = numbers({"01": 60, "86": 60}, skip=50)
    start_campaign(system, tmp_path, "paused", to)
    for reached in (20, 60):
        until(lambda n=reached: len(seen_of(system, to)) >= n)  # type: ignore[misc]
        said = [system.trunkline("campaign", "pause", "paused") for _ in range(2)]  # the first may have been cut short
        returned_at = time.time()
        assert all("up" in line for line in said)
        until(lambda: system.campaign("paused")["in_progress"] == 0, what="what was up ends by itself")
        status = system.campaign("paused")
        assert status["status"] == "paused"
        assert status["queued"] == status["initiated"] == 0
        assert invites_after(system, to, returned_at) == []
        system.trunkline("campaign", "resume", "paused")
    until(lambda: is_over(system, "paused"), within=60)
    calls = seen_of(system, to)
    assert sorted(call.number for call in calls) == sorted(to)
    assert_nothing_is_left(system, "paused")


def test_a_stop_cancels_what_was_not_called_and_hangs_up_only_if_asked(system: System, tmp_path: Path) -> None:
    to = numbers({"90": 40}, skip=100)
    start_campaign(system, tmp_path, "stopped", to)
    until(lambda: system.campaign("stopped")["ringing"] >= 20, what="the trunk is full of ringing phones")
    assert "Trunk stopped: 20 of 20 slots in use." in system.trunkline("explain", "stopped")
    assert "still up" in system.trunkline("campaign", "stop", "stopped")
    assert "no call is up" in system.trunkline("campaign", "stop", "stopped", "--hang-up")
    returned_at = time.time()
    status = system.campaign("stopped")
    assert status["status"] == "stopped"
    assert status["canceled"] == status["total"] == len(to)
    assert invites_after(system, to, returned_at) == []
    assert {call.end for call in seen_of(system, to)} == {"cancel"}
    assert_nothing_is_left(system, "stopped")
    refused = system.trunkline("campaign", "resume", "stopped", status=1)
    assert refused == ""


def test_a_ringing_call_that_is_hung_up_is_canceled_and_an_answered_one_completed(system: System) -> None:
    from_number, agent = system.add_trunk("hang-up"), system.add_agent("hang-up", "playback://demo-congrats")
    ringing = system.call(agent, from_number, "+12135550190")
    talking = system.call(agent, from_number, "+12135550100")
    until(lambda: system.status(ringing) == "ringing" and system.status(talking) == "in-progress")
    assert system.trunkline("hang-up", ringing) == "canceled\n", "and no line of a log"
    assert system.trunkline("hang-up", talking) == "completed\n"
    assert system.carried("+12135550190")[0].end == "cancel"
    assert system.carried("+12135550100")[0].end == "bye-received"
    system.trunkline("hang-up", ringing, status=1)  # it is over already


def test_a_scheduled_call_that_is_hung_up_is_never_made(system: System) -> None:
    from_number, agent = system.add_trunk("off-hook"), system.add_agent("off-hook")
    system.run("UPDATE trunks SET is_active = false WHERE name = 'off-hook'")
    call = system.call(agent, from_number, "+12145550101")
    system.trunkline("hang-up", call)
    assert system.status(call) == "canceled"
    system.run("UPDATE trunks SET is_active = true WHERE name = 'off-hook'")
    other = system.call(agent, from_number, "+12155550186")
    until(lambda: system.status(other) == "busy")
    assert system.carried("+12145550101") == []
