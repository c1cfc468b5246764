"""One call, by hand: before every campaign, at once, and explained."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from deploy.carrier.people import numbers
from tests.integration.system import System, until
from tests.integration.test_campaign import seen_of, start_campaign


def test_a_single_call_is_waited_for_and_explained(system: System) -> None:
    from_number = system.add_trunk("single")
    system.add_agent("single", "playback://hello-world")
    said = system.trunkline(
        "call", "+12145550101", "--agent", "single", "--from", from_number, "--name", "Ö, 李", "--wait"
    )
    assert "completed" in said
    said = system.trunkline("call", "+12145550104", "--agent", "single", "--from", from_number, "--wait", status=1)
    assert "does not exist" in said
    [call] = system.carried("+12145550101")
    assert call.from_number == from_number
    assert call.digest == "right"


def test_a_single_call_goes_before_a_campaign_that_fills_the_trunk(system: System, tmp_path: Path) -> None:
    to = numbers({"01": 250}, skip=20)  # long enough for a command to be typed on a busy machine
    from_number = start_campaign(system, tmp_path, "crowd", to)
    until(lambda: len(seen_of(system, to)) >= 20)
    system.trunkline("call", "+13125550177", "--agent", "crowd", "--from", from_number)
    until(lambda: system.carried("+13125550177"), within=20)
    [single] = system.carried("+13125550177")
    until(lambda: any(call.invited_at > single.invited_at for call in seen_of(system, to)), what="the campaign goes on")
    system.trunkline("campaign", "stop", "crowd", "--hang-up")


def test_a_number_that_is_not_registered_or_whose_trunk_is_off_is_refused_with_that_reason(system: System) -> None:
    from_number = system.add_trunk("refused")
    system.add_agent("refused")
    system.trunkline("call", "+12145550101", "--agent", "refused", "--from", "+12025559999", status=1)
    system.trunkline("trunk", "disable", "refused")
    system.trunkline("call", "+12145550101", "--agent", "refused", "--from", from_number, status=1)
    system.trunkline("trunk", "enable", "refused")
    system.trunkline(
        "call", "+4930123456", "--agent", "refused", "--from", from_number, status=1
    )  # not an allowed prefix
    assert system.value("SELECT count(*) FROM calls WHERE from_number = %(n)s", n=from_number) == 0


def test_leading_plus_and_address_form_are_as_the_trunk_says(system: System) -> None:
    agent = system.add_agent("forms", "playback://hello-world")
    bare = system.add_trunk("bare", plus=False)
    call = system.call(agent, bare, "+12245550186")
    until(lambda: system.status(call) == "busy")
    assert system.carried("12245550186")
    assert not system.carried("+12245550186")
    by_address = system.add_trunk("address", userpass=False)
    call = system.call(agent, by_address, "+12255550101")  # this carrier wants credentials
    until(lambda: system.status(call) == "failed")
    row = system.rows("SELECT disposition, sip_code FROM calls WHERE id = %(id)s", id=call)[0]
    assert tuple(row) == ("auth-failed", 401)


def test_flower_shows_the_tasks_by_name_with_the_attempts_ids(system: System) -> None:
    from_number, agent = system.add_trunk("flower"), system.add_agent("flower", "playback://hello-world")
    call = system.call(agent, from_number, "+12265550186")
    until(lambda: system.status(call) == "busy")
    attempt = str(system.value("SELECT current_attempt_id FROM calls WHERE id = %(id)s", id=call))
    address = urlsplit(system.stack.runtime["flower_url"])
    token = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    request = urllib.request.Request(f"http://{address.hostname}:{address.port}/api/tasks?limit=50&sort_by=-received")
    request.add_header("Authorization", f"Basic {token}")

    def shown() -> bool:
        with urllib.request.urlopen(request, timeout=10) as answer:
            tasks = json.load(answer).values()
        return any(task["name"] == "originate" and attempt in str(task["args"]) for task in tasks)

    until(shown, what="the task is in Flower")
