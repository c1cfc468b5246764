"""The reference service's documentation, followed word for word on a whole system: its flow, then its troubleshooting.

What the carrier saw is the witness of the flow; of a fault, the sentence that the user gets, wherever it is given:
with the HTTP answer, in the execution's `error_message`, or by the trunk's check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.carrier.carrier import Carrier
from deploy.carrier.numbers import fictional_number
from deploy.carrier.people import area_codes
from tests.integration.gateways import silent_port
from tests.integration.system import PASSWORD, USERNAME, System, until

FINAL = {"completed", "busy", "no-answer", "failed", "canceled"}
_used = count(100)


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody whose code was written for the reference service."""

    api: httpx.Client
    system: System
    _areas: Iterator[int] = field(default_factory=lambda: iter(area_codes()))

    def posts(self, path: str, body: object, status: int = 201) -> Any:
        answer = self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert PASSWORD not in answer.text
        return answer.json()

    def gets(self, path: str, **query: str) -> Any:
        answer = self.api.get(path, params=query)
        assert answer.status_code == 200, answer.text
        assert PASSWORD not in answer.text
        return answer.json()

    def trunk(self, carrier: Carrier | None = None, **other: object) -> Trunk:
        """Steps 1 and 2: a trunk, and a number on it."""
        to = carrier or self.system.carrier
        made = self.posts(
            "/sip-trunks/trunks",
            {
                "name": f"reference {next(_used)}",
                "provider": "custom",
                "description": "Main trunk",
                "auth_type": "userpass",
                "auth_username": USERNAME,
                "auth_password": PASSWORD,
                "gateways": [{"gateway_address": to.host, "port": to.port, "priority": 1}],
                "allow": "ulaw,alaw",
                "disallow": "all",
                "inbound_enabled": False,
                "outbound_leading_plus_enabled": True,
                **other,
            },
        )
        number = f"+1204555{next(_used):04}"
        added = {"phone_number": number, "name": "Support Line", "e164_check_enabled": True}
        self.posts(f"/sip-trunks/trunks/{made['id']}/numbers", added)
        return Trunk(id=made["id"], number=number, shown=made)

    def agent(self, connect: str = "playback://hello-world") -> str:
        """Step 3. The reference keeps this in `agent_config`, with all that an agent says; here it is elsewhere."""
        made = self.posts(
            "/agents",
            {"name": f"reference {next(_used)}", "telephony_provider": "sip-trunk", "connect": connect},
        )
        assert made["telephony_provider"] == "sip-trunk"
        return str(made["id"])

    def somebody(self, digits: str) -> str:
        """Nobody else has been called there in this test."""
        return fictional_number(next(self._areas), digits)

    def calls(self, agent: str, from_number: str, to: str) -> str:
        """Step 4."""
        answer = self.posts(
            "/call",
            {
                "agent_id": agent,
                "recipient": {"phone_number": to, "name": "Rahul Sharma"},
                "from_number": from_number,
            },
            200,
        )
        assert (answer["message"], answer["status"]) == ("done", "queued")
        return str(answer["execution_id"])

    def ends(self, execution_id: str) -> Any:
        """Step 5: asked again and again, as the documentation has it, until it is over."""
        over: Any = until(
            lambda: found if (found := self.gets(f"/executions/{execution_id}"))["status"] in FINAL else None,
            what=f"{execution_id} is over",
        )
        return over

    def tries(self, trunk: Trunk, digits: str = "01") -> Any:
        """A call to such a number, and what became of it."""
        return self.ends(self.calls(self.agent(), trunk.number, self.somebody(digits)))

    def changes(self, trunk: Trunk, **fields: object) -> None:
        answer = self.api.patch(f"/sip-trunks/trunks/{trunk.id}", json=fields)
        assert answer.status_code == 200, answer.text

    def checks(self, trunk: Trunk) -> dict[str, Any]:
        """The findings of a trunk's check, by what they are about."""
        answer = self.api.post(f"/sip-trunks/trunks/{trunk.id}/check")
        assert answer.status_code == 200, answer.text
        return {point["about"]: point for point in answer.json()["points"]}


@dataclass(frozen=True, kw_only=True)
class Trunk:
    id: str
    number: str
    shown: Any


@pytest.fixture
def user(api: httpx.Client, system: System) -> User:
    return User(api=api, system=system)


def utc(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


# ---------------------------------------------------------------------------------------------
# The flow
# ---------------------------------------------------------------------------------------------


def test_a_trunk_a_number_an_agent_and_a_call(user: User) -> None:
    trunk = user.trunk()
    for name, default in {
        "transport": "transport-udp",
        "direct_media": False,
        "rtp_symmetric": True,
        "force_rport": True,
        "media_encryption": "no",
        "media_encryption_optimistic": False,
        "qualify_frequency": 60,
        "is_active": True,
    }.items():
        assert trunk.shown[name] == default, name
    shown = user.gets(f"/sip-trunks/trunks/{trunk.id}")
    assert [number["phone_number"] for number in shown["phone_numbers"]] == [trunk.number]
    assert trunk.id in {each["id"] for each in user.gets("/sip-trunks/trunks", is_active="true")}

    agent, to = user.agent(), user.somebody("01")
    execution = user.calls(agent, trunk.number, to)
    over = user.ends(execution)

    [seen] = user.system.carried(to)
    assert (seen.from_number, seen.digest, seen.status) == (trunk.number, "right", 200)
    assert (over["id"], over["agent_id"], over["status"], over["error_message"]) == (
        execution,
        agent,
        "completed",
        None,
    )
    told = over["telephony_data"]
    assert (told["to_number"], told["from_number"]) == (to, trunk.number)
    assert told["provider_call_id"] == seen.sip_call_id
    assert 0 <= float(told["duration"]) < 5
    assert told["hangup_by"]
    assert utc(over["created_at"]) <= utc(over["updated_at"])
    assert user.gets(f"/call/{execution}") == over
    logged = json.dumps(user.gets(f"/executions/{execution}/log"))
    steps = ["queued", "initiated", "ringing", "in-progress", "completed"]
    assert all(f'"{step}"' in logged for step in steps)
    assert user.gets("/user/me")["concurrency"].keys() == {"max", "current"}


def test_a_call_that_is_scheduled_for_later_can_be_stopped(user: User) -> None:
    trunk, to = user.trunk(), user.somebody("01")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="milliseconds")  # with an offset, as there
    answer = user.posts(
        "/call",
        {
            "agent_id": user.agent(),
            "recipient_phone_number": to,
            "from_phone_number": trunk.number,
            "scheduled_at": later,
            "user_data": {"variable1": "value1"},
            "retry_config": {"enabled": True, "max_retries": 2, "retry_intervals_minutes": [30, 60]},
            "bypass_call_guardrails": False,
        },
        200,
    )
    execution = answer["execution_id"]
    assert user.gets(f"/executions/{execution}")["status"] == "scheduled"
    assert user.posts(f"/call/{execution}/stop", None, 200)["execution_id"] == execution
    assert user.ends(execution)["status"] == "canceled"
    assert not user.system.carried(to)


def test_a_batch_is_made_scheduled_watched_and_read(user: User, tmp_path: Path) -> None:
    trunk, agent = user.trunk(), user.agent()
    people = {user.somebody(digits): name for digits, name in (("01", "Bruce"), ("86", "Satoshi"), ("02", "James"))}
    rows = "".join(f"{number},{name},Wayne\n" for number, name in people.items())
    file = f"contact_number,first_name,last_name\n{rows}0123,Nobody,Else\n"
    answer = user.api.post(
        "/batches",
        data={"agent_id": agent, "from_phone_numbers": [trunk.number]},
        files={"file": ("customers.csv", file, "text/csv")},
    )
    assert answer.status_code == 201, answer.text
    batch = answer.json()["batch_id"]
    assert answer.json() == {"batch_id": batch, "state": "created"}

    begins = datetime.now(UTC) + timedelta(seconds=3)
    form = {
        "scheduled_at": (None, begins.isoformat()),
        "bypass_call_guardrails": (None, "false"),
    }  # multipart, as there
    scheduled = user.api.post(f"/batches/{batch}/schedule", files=form)
    assert (scheduled.status_code, scheduled.json()["state"]) == (200, "scheduled"), scheduled.text
    waiting = user.gets(f"/batches/{batch}")
    assert (waiting["status"], waiting["valid_contacts"], waiting["total_contacts"]) == ("scheduled", 3, 4)
    assert waiting["file_name"] == "customers.csv"
    done: Any = until(
        lambda: found if (found := user.gets(f"/batches/{batch}"))["status"] == "completed" else None,
        within=60,
        what="the batch is completed",
    )
    counts = {status: number for status, number in done["execution_status"].items() if number}
    assert counts == {"completed": 2, "busy": 1}
    assert batch in {each["batch_id"] for each in user.gets(f"/batches/{agent}/all")}

    seen = user.system.carrier_calls()
    assert sorted(call.number for call in seen) == sorted(people)
    assert min(call.invited_at for call in seen) >= begins.timestamp()
    executions = json.loads(json.dumps(user.gets(f"/batches/{batch}/executions")))
    listed = executions if isinstance(executions, list) else executions["data"]
    assert {one["telephony_data"]["to_number"]: one["status"] for one in listed} == {
        number: "busy" if number.endswith("86") else "completed" for number in people
    }
    assert {one["batch_id"] for one in listed} == {batch}
    assert "0123" in json.dumps(user.gets(f"/batches/{batch}/rejected"))


# ---------------------------------------------------------------------------------------------
# Its troubleshooting: calls
# ---------------------------------------------------------------------------------------------


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """With a sentence that has these words."""
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert (problem["status"], answer.headers["content-type"]) == (status, "application/problem+json")
    for word in words:
        assert word in problem["detail"], problem


def test_a_trunk_that_is_not_active_is_named(user: User) -> None:
    trunk, to = user.trunk(), user.somebody("01")
    user.changes(trunk, is_active=False)
    body = {"agent_id": user.agent(), "recipient": {"phone_number": to}, "from_number": trunk.number}
    refused(user.api.post("/call", json=body), 422, trunk.number, "off")
    found = user.checks(trunk)
    assert found["active"]["verdict"] == "wrong"
    user.changes(trunk, is_active=True)
    assert user.ends(user.posts("/call", body, 200)["execution_id"])["status"] == "completed"
    assert len(user.system.carried(to)) == 1


def test_a_caller_id_that_is_on_no_trunk_is_named(user: User) -> None:
    body = {"agent_id": user.agent(), "recipient": {"phone_number": "+12125550123"}, "from_number": "+12045559999"}
    answer = user.api.post("/call", json=body)
    refused(answer, 422, "+12045559999", "not registered on any trunk")
    assert [error["field"] for error in answer.json()["errors"]] == ["from_number"]


def test_a_wrong_password_is_suspected_and_found(user: User) -> None:
    trunk = user.trunk(auth_password="no such password")
    over = user.tries(trunk)
    assert (over["status"], over["telephony_data"]["hangup_provider_code"]) == (
        "failed",
        403,
    )  # as many carriers say it
    assert "wrong password" in over["error_message"]
    found = user.checks(trunk)
    assert found["caller-id"]["verdict"] == "wrong", "it is one of the two"
    assert all("password" in found[about]["sentence"] for about in ("caller-id", "credentials"))
    user.changes(trunk, auth_username=USERNAME, auth_password=PASSWORD)
    assert user.tries(trunk)["status"] == "completed"
    assert user.checks(trunk)["credentials"]["verdict"] == "ok"


def test_an_address_that_is_on_no_allow_list_is_said(user: User) -> None:
    trunk = user.trunk(auth_type="ip-based", auth_username=None, auth_password=None)
    over = user.tries(trunk)
    assert (over["status"], over["telephony_data"]["hangup_provider_code"]) == ("failed", 401)
    assert "allow-list" in over["error_message"]


@pytest.mark.parametrize(
    ("digits", "code", "words", "about"),
    [("03", 403, "does not know", "caller-id"), ("88", 488, "codecs", "codecs")],
    ids=["caller-id", "codec"],
)
def test_what_the_carrier_refused_the_call_for_is_said(
    user: User, digits: str, code: int, words: str, about: str
) -> None:
    trunk = user.trunk()
    over = user.tries(trunk, digits)
    assert (over["status"], over["telephony_data"]["hangup_provider_code"]) == ("failed", code)
    assert words in over["error_message"]
    found = user.checks(trunk)[about]
    assert found["verdict"] == "wrong", found


@contextmanager
def fussy(system: System, directory: Path, *, plus: bool) -> Iterator[Carrier]:
    """A carrier that takes numbers in one form only."""
    with Carrier(tree=system.tree.root, directory=directory, username=USERNAME, password=PASSWORD, plus=plus) as made:
        yield made


@pytest.mark.parametrize("wanted", [True, False], ids=["plus", "no-plus"])
def test_the_leading_plus_is_said_to_be_what_the_carrier_does_not_want(
    user: User, tmp_path: Path, wanted: bool
) -> None:
    with fussy(user.system, tmp_path, plus=wanted) as carrier:
        trunk = user.trunk(carrier, outbound_leading_plus_enabled=not wanted)
        over = user.tries(trunk)
        assert (over["status"], over["telephony_data"]["hangup_provider_code"]) == ("failed", 404)
        assert f"sent {'without' if wanted else 'with'} a leading plus" in over["error_message"]
        user.changes(trunk, outbound_leading_plus_enabled=wanted)
        assert user.tries(trunk)["status"] == "completed"


def test_a_gateway_that_answers_no_options_is_said(user: User) -> None:
    with silent_port() as port:
        trunk = user.trunk(gateways=[{"gateway_address": "127.0.0.1", "port": port}], qualify_frequency=0)
        found = user.checks(trunk)["options"]
    assert found["verdict"] != "ok"
    assert "firewall" in found["sentence"] or "answer" in found["sentence"]


# ---------------------------------------------------------------------------------------------
# Its troubleshooting: trunks and numbers that cannot be
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"auth_type": "digest"}, "auth_type"),
        ({"auth_type": None}, "auth_type"),
        ({"gateways": []}, "gateways"),
        ({"auth_username": None}, "auth_username"),
        ({"auth_password": None}, "auth_password"),
        ({"media_encryption": "sdes"}, "media_encryption"),
        ({"inbound_enabled": True}, "inbound_enabled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_of_a_trunk_that_is_missing_or_wrong_is_named(user: User, change: dict[str, Any], field: str) -> None:
    body = {
        "name": f"reference {next(_used)}",
        "provider": "custom",
        "auth_type": "userpass",
        "auth_username": "me",
        "auth_password": "secret",
        "gateways": [{"gateway_address": "127.0.0.1", "port": 5060}],
        **change,
    }
    answer = user.api.post(
        "/sip-trunks/trunks", json={name: value for name, value in body.items() if value is not None}
    )
    refused(answer, 422, field)
    assert field in [error["field"] for error in answer.json()["errors"]]


def test_a_number_that_another_trunk_has_is_refused_and_goes_with_its_trunk(user: User) -> None:
    first, second = user.trunk(), user.trunk()
    taken = user.api.post(f"/sip-trunks/trunks/{second.id}/numbers", json={"phone_number": first.number})
    refused(taken, 409, first.number)
    gone = user.api.delete(f"/sip-trunks/trunks/{first.id}")
    assert gone.status_code == 200, gone.text
    assert "1 phone number" in gone.text
    user.posts(f"/sip-trunks/trunks/{second.id}/numbers", {"phone_number": first.number})
    refused(user.api.get(f"/sip-trunks/trunks/{first.id}"), 404, first.id)
