"""A call over HTTP: placed once, shown as it is, stopped, and refused in the words that it was sent with."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from models import executions, ledger
from models.executions import Execution, Transition
from models.sightings import Sight
from models.slots import Bell, connect
from models.statuses import Status
from tests.integration.conftest import Database, SmallApi, serving
from tests.integration.http import client, make_key
from tests.integration.ledger_rows import FROM, Rows, ended, saw
from tests.integration.system import System, until

TO = "+12125550123"


@pytest.fixture
def rows(small_api: SmallApi) -> Rows:
    """A trunk, a number, an agent and a node that is heard."""
    rows = Rows(engine=small_api.database.engine)
    rows.run("UPDATE nodes SET heard_at = now() + interval '1 hour'")  # however slow the test is
    return rows


def body(rows: Rows, **more: object) -> dict[str, Any]:
    """Of a call that may be made; what is None is left out."""
    given = {"agent_id": str(rows.agent), "recipient": {"phone_number": TO, "name": "Ada"}, "from_number": FROM, **more}
    return {name: value for name, value in given.items() if value is not None}


def placed(asks: httpx.Client, rows: Rows, **more: object) -> str:
    answer = asks.post("/call", json=body(rows, **more))
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"] == "done"
    return str(answer.json()["execution_id"])


def refused(answer: httpx.Response, field: str, *words: str) -> None:
    """With 422, on this field alone."""
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    for word in words:
        assert word in answer.json()["detail"]


def shown(asks: httpx.Client, execution_id: str) -> Any:
    """The same by both addresses."""
    answer = asks.get(f"/executions/{execution_id}")
    assert answer.status_code == 200, answer.text
    assert answer.json() == asks.get(f"/call/{execution_id}").json()
    return answer.json()


def test_a_call_is_placed_and_shown_with_all_that_it_was_sent_with(asks: httpx.Client, rows: Rows) -> None:
    data = {"city": "Zürich, 8", "visits": 3, "price": 1.5, "new": True}
    retries = {"enabled": True, "max_retries": 2, "retry_intervals_minutes": [15, 30]}
    id = placed(asks, rows, user_data=data, retry_config=retries, bypass_call_guardrails=True)
    execution = shown(asks, id)
    assert execution["recipient"] == {"phone_number": TO, "name": "Ada"}
    assert execution["user_data"] == {"city": "Zürich, 8", "visits": "3", "price": "1.5", "new": "true"}
    assert execution["retry_config"] == {
        **retries,
        "retry_on_statuses": ["no-answer", "busy", "failed"],
        "retry_on_voicemail": False,
    }
    assert execution["bypass_call_guardrails"] is True
    assert execution["status"] == "scheduled"
    assert execution["batch_id"] is execution["scheduled_at"] is execution["error_message"] is None
    assert execution["telephony_data"]["from_number"] == FROM
    assert execution["telephony_data"]["duration"] is None
    assert execution["created_at"].endswith("Z")
    assert rows.value("SELECT due_at <= now() FROM calls")


def test_both_spellings_of_the_numbers_are_taken(asks: httpx.Client, rows: Rows) -> None:
    placed(asks, rows, recipient=None, recipient_phone_number=TO, from_number=None, from_phone_number=FROM)
    placed(asks, rows, recipient_phone_number=TO, from_phone_number=FROM)
    differs = asks.post("/call", json=body(rows, from_phone_number="+12025550199"))
    refused(differs, "from_phone_number", "must be the same as from_number")
    differs = asks.post("/call", json=body(rows, recipient_phone_number="+12125550199"))
    refused(differs, "recipient_phone_number", "must be the same as recipient.phone_number")
    refused(asks.post("/call", json=body(rows, recipient=None)), "recipient.phone_number", "or recipient_phone_number")
    refused(asks.post("/call", json=body(rows, from_number=None)), "from_number", "or from_phone_number")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"agent_id": "00000000-0000-4000-8000-000000000000"}, "agent_id", "there is no agent"),
        ({"agent_id": "front desk"}, "agent_id", "must be a valid UUID"),
        ({"recipient": {"phone_number": "0301234567"}}, "recipient.phone_number", "international form"),
        ({"recipient": None, "recipient_phone_number": "0301234567"}, "recipient_phone_number", "international form"),
        ({"recipient": {"phone_number": "+4930123456"}}, "recipient.phone_number", "may only call numbers"),
        ({"recipient": {"phone_number": TO, "name": "a\0b"}}, "recipient.name", "NUL"),
        ({"recipient": {"phone_number": TO, "age": 3}}, "recipient.age", "not permitted"),
        ({"from_number": "+12025550199"}, "from_number", "is not registered"),
        ({"from_number": None, "from_phone_number": "+12025550199"}, "from_phone_number", "is not registered"),
        ({"from_number": None, "from_phone_number": "12"}, "from_phone_number", "international form"),
        ({"user_data": {"city": None}}, "user_data.city", "must be a string, a number or a boolean"),
        ({"user_data": {"city": ["Rome"]}}, "user_data.city", "must be a string, a number or a boolean"),
        ({"user_data": {"city": "a\0b"}}, "user_data.city", "NUL"),
        ({"user_data": {"city": "x" * 1025}}, "user_data.city", "1024 bytes"),
        ({"user_data": {"call_id": "1"}}, "user_data", "none that trunkline gives itself"),
        ({"user_data": {"a b": "1"}}, "user_data", "letters"),
        ({"user_data": {f"v{at}": 1 for at in range(101)}}, "user_data", "at most 100"),
        ({"user_data": []}, "user_data", "dictionary"),
        ({"scheduled_at": "2026-03-01T09:30:00"}, "scheduled_at", "with an offset"),
        ({"scheduled_at": "2026-03-01"}, "scheduled_at", "with an offset"),
        ({"scheduled_at": "tomorrow"}, "scheduled_at", "ISO 8601"),
        ({"scheduled_at": 1_900_000_000}, "scheduled_at", "ISO 8601"),
        ({"scheduled_at": "9999-12-31T23:59:59-23:59"}, "scheduled_at", "within 366 days"),
        ({"retry_config": {"max_retries": 4}}, "retry_config.max_retries", "less than or equal to 3"),
        ({"retry_config": {"retry_on_statuses": ["completed"]}}, "retry_config.retry_on_statuses.0", "no-answer"),
        ({"retry_config": {"retry_intervals_minutes": [0]}}, "retry_config.retry_intervals_minutes.0", "greater"),
        ({"retry_config": {"retries": 1}}, "retry_config.retries", "not permitted"),
        ({"retry_config": {"enabled": "yes"}}, "retry_config.enabled", "valid boolean"),
        ({"retry_config": {"max_retries": "3"}}, "retry_config.max_retries", "valid integer"),
        ({"bypass_call_guardrails": 1}, "bypass_call_guardrails", "valid boolean"),
        ({"retry_config": "{}"}, "retry_config", "valid dictionary"),
        ({"agent_data": {"voice_id": "Sam"}}, "agent_data", "not permitted"),
    ],
)
def test_what_cannot_be_called_is_refused_on_the_field_that_it_was_sent_in(
    asks: httpx.Client, rows: Rows, change: dict[str, Any], field: str, says: str
) -> None:
    refused(asks.post("/call", json=body(rows, **change)), field, says)
    assert rows.value("SELECT count(*) FROM calls") == 0


def test_a_number_whose_trunk_is_off_is_refused_by_name(asks: httpx.Client, rows: Rows) -> None:
    rows.run("UPDATE trunks SET is_active = false, name = 'main line'")
    refused(asks.post("/call", json=body(rows)), "from_number", "trunk 'main line', which is off")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"call"',
        b'{"agent_id": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"user_data": {"\\udfff": null}}',
        b'{"user_data": {"a": NaN}}',
        b'{"user_data": {"a": ' + b"9" * 5000 + b"}}",
        b'{"user_data": {"a": 1e999}}',
        b'{"scheduled_at": "0001-01-01T00:00:00+23:59"}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_body_that_is_no_call_is_refused_and_never_a_fault_of_ours(
    asks: httpx.Client, rows: Rows, sent: bytes, kind: str
) -> None:
    answer = asks.post("/call", content=sent, headers={"Content-Type": kind})
    assert answer.status_code in ({400, 422} if kind == "application/json" else {415}), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_call_of_the_past_is_due_now_and_one_of_the_future_at_its_time_whatever_its_offset(
    asks: httpx.Client, rows: Rows
) -> None:
    past = placed(asks, rows, scheduled_at="0001-01-01T00:00:00+23:59")
    assert rows.value("SELECT due_at <= now() FROM calls WHERE id = %(id)s", id=past)
    assert shown(asks, past)["scheduled_at"] is None
    at = (datetime.now(UTC) + timedelta(hours=3)).replace(microsecond=0)
    for text in (f"{at:%Y-%m-%dT%H:%M:%S}Z", f"{at + timedelta(hours=5.5):%Y-%m-%dT%H:%M:%S}.000+05:30"):
        answer = asks.post("/call", json=body(rows, scheduled_at=text)).json()
        assert answer["status"] == "scheduled"
        assert shown(asks, answer["execution_id"])["scheduled_at"] == f"{at:%Y-%m-%dT%H:%M:%S}Z"
        assert rows.value("SELECT due_at FROM calls WHERE id = %(id)s", id=answer["execution_id"]) == at


def test_a_call_that_is_due_now_needs_an_asterisk_and_one_of_later_does_not(asks: httpx.Client, rows: Rows) -> None:
    rows.run("UPDATE nodes SET heard_at = now() - interval '1 hour'")
    answer = asks.post("/call", json=body(rows), headers={"Idempotency-Key": "one"})
    assert answer.status_code == 503
    assert "Asterisk" in answer.json()["detail"]
    assert rows.value("SELECT count(*) FROM calls") == 0
    placed(asks, rows, scheduled_at=f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    rows.run("UPDATE nodes SET heard_at = now() + interval '1 hour'")
    again = asks.post("/call", json=body(rows), headers={"Idempotency-Key": "one"})
    assert again.status_code == 200, "a request that was refused has used up no key"


def test_a_call_that_is_due_now_needs_redis_and_one_of_later_does_not(database: Database, valkey: Valkey) -> None:
    rows = Rows(engine=database.engine)
    rows.run("UPDATE nodes SET heard_at = now() + interval '1 hour'")
    nowhere = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
    with serving(database, valkey, redis_url=nowhere) as api, api.client("call") as asks:
        answer = asks.post("/call", json=body(rows))
        assert answer.status_code == 503
        assert "Redis" in answer.json()["detail"]
        assert answer.headers["retry-after"]
        assert rows.value("SELECT count(*) FROM calls") == 0
        placed(asks, rows, scheduled_at=f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
        assert asks.get("/user/me").status_code == 200


def test_the_leader_is_woken_for_a_call_that_is_due_now(asks: httpx.Client, rows: Rows, valkey: Valkey) -> None:
    with connect(valkey.url) as redis:
        bell = Bell(redis)
        bell.wait(timedelta(0))  # from here on it listens
        placed(asks, rows, scheduled_at=f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
        placed(asks, rows)
        until(lambda: bell.wait(timedelta(milliseconds=20)), within=5, what="the bell")
        bell.close()


def test_the_same_key_and_body_make_one_call_also_when_twenty_ask_at_once(small_api: SmallApi, rows: Rows) -> None:
    with small_api.client("call") as asks, ThreadPoolExecutor(20) as threads:
        sent: dict[str, Any] = {"json": body(rows), "headers": {"Idempotency-Key": "order 4711"}}
        answers = list(threads.map(lambda _: asks.post("/call", **sent), range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert rows.value("SELECT count(*) FROM calls") == 1
        other = asks.post("/call", **{**sent, "json": body(rows, user_data={"city": "Rome"})})
        refused(other, "Idempotency-Key", "another body")
        for key in ("", "x" * 256):
            refused(asks.post("/call", json=body(rows), headers={"Idempotency-Key": key}), "Idempotency-Key")
    with client(small_api.url, make_key(rows.engine, "call")) as another:
        assert another.post("/call", **sent).text != answers[0].text, "a key is the asker's own"


def test_the_answer_of_the_first_time_comes_again_when_the_call_is_long_on_its_way(
    asks: httpx.Client, rows: Rows
) -> None:
    at = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    sent: dict[str, Any] = {"json": body(rows, scheduled_at=at), "headers": {"Idempotency-Key": "later"}}
    first = asks.post("/call", **sent)
    rows.run("UPDATE calls SET status = 'canceled'")
    assert asks.post("/call", **sent).text == first.text


def test_what_is_not_there_is_not_found(asks: httpx.Client, rows: Rows) -> None:
    for path in ("/call/{}", "/executions/{}", "/executions/{}/log", "/attempts/{}", "/call/{}/explain"):
        answer = asks.get(path.format(uuid4()))
        assert answer.status_code == 404, path
        assert asks.get(path.format("x")).status_code == 422
    assert asks.post(f"/call/{uuid4()}/stop").status_code == 404
    assert asks.post("/call/x/stop").status_code == 422


def test_a_scheduled_call_is_stopped_once_and_the_state_is_named_after_that(asks: httpx.Client, rows: Rows) -> None:
    id = placed(asks, rows, scheduled_at=f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    answer = asks.post(f"/call/{id}/stop")
    assert answer.json() == {"message": "done", "status": "canceled", "execution_id": id}
    again = asks.post(f"/call/{id}/stop")
    assert again.status_code == 409
    assert "canceled" in again.json()["detail"]
    execution = shown(asks, id)
    assert execution["telephony_data"]["hangup_reason"] == "Stopped by request"
    assert execution["error_message"] == execution["explanation"] is not None
    assert execution["conversation_duration"] == 0


def test_a_queued_call_is_taken_back_and_whoever_was_to_dial_it_finds_nothing(asks: httpx.Client, rows: Rows) -> None:
    placed(asks, rows)
    with rows.engine.begin() as connection:
        ledger.grant(connection, [rows.plan(call) for call in ledger.pick_single_calls(connection, [FROM], 1)])
    [attempt] = [row.id for row in rows.all("SELECT id FROM attempts")]
    id = str(rows.call_of(attempt).id)
    assert shown(asks, id)["status"] == "queued"
    assert asks.post(f"/call/{id}/stop").json() == {"message": "done", "status": "canceled", "execution_id": id}
    assert rows.claim([attempt]) == []
    assert rows.attempt(attempt).status == "withdrawn"
    execution = shown(asks, id)
    assert (execution["status"], execution["telephony_data"]["hangup_reason"]) == ("canceled", "Stopped by request")


def unknown_call(rows: Rows) -> UUID:
    """A campaign's call whose end nobody has seen, and none can be up any more."""
    [attempt] = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    rows.run(
        "UPDATE attempts SET status = 'unknown', hold_until = now() + interval '1 minute', ended_at = now(),"
        " initiated_at = now() - interval '1 day' WHERE id = %(id)s",
        id=attempt,
    )
    rows.run("UPDATE calls SET status = 'unknown', ended_at = now()")
    id: UUID = rows.call_of(attempt).id
    return id


def test_an_unknown_call_is_decided_on_by_itself(small_api: SmallApi, asks: httpx.Client, rows: Rows) -> None:
    id = unknown_call(rows)
    nothing = {"called_again": 0, "left": 0, "still_up": 0, "not_known": 0, "ask_again_at": None}
    for body in ({}, {"decision": "other"}, {"decision": "leave", "more": 1}):
        assert asks.post(f"/call/{id}/resolve", json=body).status_code == 422
    with small_api.client("read") as reader:
        assert reader.post(f"/call/{id}/resolve", json={"decision": "leave"}).status_code == 403
    assert asks.post(f"/call/{uuid4()}/resolve", json={"decision": "leave"}).status_code == 404
    assert asks.post(f"/call/{id}/resolve", json={"decision": "leave"}).json() == {**nothing, "left": 1}
    assert shown(asks, str(id))["status"] == "unknown"
    answer = asks.post(f"/call/{id}/resolve", json={"decision": "call-again"})
    assert answer.json() == {**nothing, "called_again": 1}
    assert shown(asks, str(id))["status"] == "scheduled"
    again = asks.post(f"/call/{id}/resolve", json={"decision": "call-again"})
    assert (again.status_code, "is scheduled" in again.json()["detail"]) == (409, True)


def answered_call(rows: Rows) -> tuple[UUID, UUID]:
    """A campaign's call that somebody talked in and ended, and its attempt; each transition has a commit of its own."""
    [attempt] = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    rows.record(saw(attempt, Sight.RINGING))
    rows.record(saw(attempt, Sight.ANSWERED))
    rows.record(saw(attempt, Sight.CALLEE_HUNG_UP), ended(attempt, 16))
    return rows.call_of(attempt).id, attempt


def as_of(rows: Rows, call_id: UUID, status: Status) -> Execution:
    """The call as it was when it first came to this status."""
    at = rows.value(
        "SELECT at FROM call_events WHERE call_id = %(id)s AND subject = 'call' AND to_status = %(s)s ORDER BY at LIMIT 1",
        id=call_id,
        s=status.value,
    )
    with rows.engine.begin() as connection:
        [execution] = executions.of_calls(connection, [call_id], as_of=Transition(status=status, at=at))
    assert execution.status is status
    assert execution.updated_at == at
    return execution


def test_an_execution_as_of_a_transition_tells_nothing_that_came_later(rows: Rows) -> None:
    call_id, _ = answered_call(rows)
    queued = as_of(rows, call_id, Status.QUEUED)
    assert queued.attempts == 1
    assert queued.telephony_data.from_number == FROM
    assert queued.telephony_data.post_dial_delay is queued.telephony_data.ring_duration is None
    ringing = as_of(rows, call_id, Status.RINGING)
    assert ringing.telephony_data.post_dial_delay is not None
    assert ringing.telephony_data.ring_duration is ringing.conversation_duration is None
    talking = as_of(rows, call_id, Status.IN_PROGRESS)
    assert talking.telephony_data.ring_duration is not None
    assert talking.conversation_duration is None
    assert talking.telephony_data.hangup_by is talking.disposition is None
    completed = as_of(rows, call_id, Status.COMPLETED)
    assert completed.conversation_duration is not None
    assert completed.telephony_data.hangup_reason == "Callee hung up"
    assert completed.error_message is None


def test_an_execution_as_of_an_end_is_of_the_attempt_that_ended_also_when_the_call_was_made_again(rows: Rows) -> None:
    campaign = rows.campaign(1)
    [first] = rows.grant(campaign)
    rows.claim([first])
    rows.record(ended(first, 17, 486))
    call_id = rows.call_of(first).id
    rows.run("UPDATE calls SET status = 'scheduled', disposition = NULL, explanation = NULL, ended_at = NULL")
    [second] = rows.grant(campaign)
    rows.claim([second])
    said = rows.attempt(first).explanation
    for status in (Status.RINGING, Status.BUSY):
        rows.record(saw(second, Sight.RINGING) if status is Status.RINGING else ended(second, 17, 600))
        busy = as_of(rows, call_id, Status.BUSY)
        assert (busy.attempts, busy.disposition, busy.sip_code) == (1, "busy", 486)
        assert busy.telephony_data.hangup_provider_code == 486
        assert busy.error_message == said
        assert as_of(rows, call_id, Status.RINGING).attempts == 2
    assert rows.attempt(second).explanation != said


def test_executions_come_in_the_order_that_was_asked_for(rows: Rows) -> None:
    rows.campaign(3)
    ids = [row.id for row in rows.all("SELECT id FROM calls ORDER BY id DESC")]
    with rows.engine.begin() as connection:
        found = executions.of_calls(connection, [ids[1], uuid4(), ids[0], ids[2]])
        assert executions.of_calls(connection, []) == []
    assert [execution.id for execution in found] == [ids[1], ids[0], ids[2]]


def test_a_call_that_waits_to_be_made_again_shows_nothing_of_the_attempt_before(asks: httpx.Client, rows: Rows) -> None:
    call_id, _ = answered_call(rows)
    rows.run("UPDATE calls SET status = 'scheduled', disposition = NULL, explanation = NULL, ended_at = NULL")
    told = shown(asks, str(call_id))["telephony_data"]
    assert told["ring_duration"] is told["hangup_by"] is told["provider_call_id"] is told["duration"] is None


def test_a_call_that_was_canceled_while_it_waited_shows_nothing_of_the_attempt_before(
    asks: httpx.Client, rows: Rows
) -> None:
    call_id, _ = answered_call(rows)
    rows.run("UPDATE calls SET status = 'scheduled', disposition = NULL, explanation = NULL, ended_at = NULL")
    asks.post(f"/call/{call_id}/stop")
    execution = shown(asks, str(call_id))
    assert (execution["status"], execution["conversation_duration"]) == ("canceled", 0)
    told = execution["telephony_data"]
    assert told["ring_duration"] is told["provider_call_id"] is told["hangup_provider_code"] is None


def test_the_log_is_every_transition_of_the_call_and_its_attempts(asks: httpx.Client, rows: Rows) -> None:
    [attempt] = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    rows.record(ended(attempt, 17, 486))
    call = rows.call_of(attempt)
    log = asks.get(f"/executions/{call.id}/log").json()["data"]
    assert [(entry["subject"], entry["from_status"], entry["to_status"]) for entry in log] == rows.moves(attempt)
    assert log == sorted(log, key=lambda entry: str(entry["at"]))
    end = [entry for entry in log if entry["to_status"] == "busy"]
    assert [entry["subject"] for entry in end] == ["attempt", "call"]
    assert {(entry["disposition"], entry["explanation"]) for entry in end} == {("busy", call.explanation)}
    assert {entry["explanation"] for entry in log if entry not in end} == {None}


def test_an_agent_that_knows_the_attempt_learns_who_is_on_the_line_while_it_is_up(
    asks: httpx.Client, rows: Rows
) -> None:
    [attempt] = rows.grant(rows.campaign(1))
    assert asks.get(f"/attempts/{attempt}").status_code == 404, "nobody yet"
    rows.run("UPDATE calls SET name = 'Ada; ^', variables = '{\"city\": \"Rome\"}'")
    rows.claim([attempt])
    call = rows.call_of(attempt)
    told = asks.get(f"/attempts/{str(attempt).upper()}").json()
    assert told["call_id"] == str(call.id)
    assert (told["phone_number"], told["from_number"]) == (call.phone_number, FROM)
    assert (told["name"], told["variables"], told["attempt_number"]) == ("Ada; ^", {"city": "Rome"}, 1)
    rows.record(ended(attempt, 17, 486))
    assert asks.get(f"/attempts/{attempt}").status_code == 404, "nobody any more"


def test_concurrency_is_what_trunks_and_nodes_carry_and_what_is_in_use(small_api: SmallApi, rows: Rows) -> None:
    rows.run("UPDATE trunks SET max_concurrent_calls = 30")
    with client(small_api.url, make_key(rows.engine, "read", "reader")) as asks:

        def told() -> Any:
            return asks.get("/user/me").json()

        me = told()
        assert (me["name"], me["scope"], me["concurrency"]) == ("reader", "read", {"max": 30, "current": 0})
        attempts = rows.grant(rows.campaign(3))
        rows.claim(attempts[:2])
        assert told()["concurrency"] == {"max": 30, "current": 3}
        rows.record(ended(attempts[0], 17, 486))
        assert told()["concurrency"] == {"max": 30, "current": 2}
        rows.run("UPDATE nodes SET max_calls = 20")
        assert told()["concurrency"]["max"] == 20
        rows.run("UPDATE nodes SET heard_at = NULL")
        assert told()["concurrency"]["max"] == 0
        assert asks.post("/call", json=body(rows)).status_code == 403, "a key that may only read"


def dial(api: httpx.Client, system: System, name: str, to: str, **more: object) -> str:
    """Places a call over a trunk of its own."""
    sent = {"from_number": system.add_trunk(name), "recipient": {"phone_number": to, "name": "Ada"}, **more}
    agent = system.add_agent(name, "playback://hello-world" if to.endswith("01") else "playback://demo-congrats")
    answer = api.post("/call", json={"agent_id": str(agent), **sent})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["execution_id"])


def comes_to(api: httpx.Client, execution_id: str, status: str) -> Any:
    until(lambda: api.get(f"/executions/{execution_id}").json()["status"] == status, what=status)
    return shown(api, execution_id)


def test_a_call_is_made_and_its_telephony_data_are_what_the_carrier_saw(api: httpx.Client, system: System) -> None:
    id = dial(api, system, "api-completed", "+12145550201")
    execution = comes_to(api, id, "completed")
    [seen] = system.carried("+12145550201")
    told = execution["telephony_data"]
    assert (told["to_number"], told["from_number"]) == (seen.number, seen.from_number)
    assert told["provider_call_id"] == seen.sip_call_id
    assert (told["call_type"], told["provider"]) == ("outbound", "sip-trunk")
    assert seen.answered_at is not None
    assert seen.ended_at is not None
    assert told["duration"] == pytest.approx(seen.ended_at - seen.answered_at, abs=0.5)
    assert execution["conversation_duration"] == execution["conversation_time"] == told["duration"]
    first_heard = seen.ringing_at or seen.answered_at
    assert told["post_dial_delay"] == pytest.approx(first_heard - seen.invited_at, abs=0.5)
    assert (told["hangup_by"] == "callee") is (seen.end == "bye-sent")
    assert execution["error_message"] is None
    assert execution["attempts"] == 1
    log = api.get(f"/executions/{id}/log").json()["data"]
    reached = [entry["to_status"] for entry in log if entry["subject"] == "call"]
    assert reached[:2] == ["queued", "initiated"]
    assert reached[-1] == "completed"


def test_a_call_is_explained_as_on_the_command_line(api: httpx.Client, system: System) -> None:
    id = dial(api, system, "api-explained", "+12145550403")
    comes_to(api, id, "failed")
    told, by_command = api.get(f"/call/{id}/explain").json(), json.loads(system.trunkline("explain", id, "--json"))
    for moment in ("created_at", "due_at", "ended_at"):  # with as many digits as it takes, and with six
        assert datetime.fromisoformat(told.pop(moment)) == datetime.fromisoformat(by_command.pop(moment))
    [attempt], [same] = told.pop("attempts"), by_command.pop("attempts")
    for moment in ("queued_at", "initiated_at", "ended_at"):
        assert datetime.fromisoformat(attempt.pop(moment)) == datetime.fromisoformat(same.pop(moment))
    assert attempt == same
    assert told == by_command
    [seen] = system.carried("+12145550403")
    assert (attempt["sip_call_id"], attempt["sip"]) == (seen.sip_call_id, "403 Forbidden")
    assert attempt["gateway"] == system.carrier.address
    assert attempt["trunk"] == "api-explained"
    assert attempt["rx_packets"] is None
    assert "caller ID" in told["what_to_do"] + told["explanation"]


def test_a_busy_line_is_told_with_the_carriers_code_and_a_sentence(api: httpx.Client, system: System) -> None:
    execution = comes_to(api, dial(api, system, "api-busy", "+12145550286"), "busy")
    [seen] = system.carried("+12145550286")
    told = execution["telephony_data"]
    assert told["hangup_provider_code"] == seen.status == 486
    assert (told["hangup_reason"], told["duration"]) == ("Busy", 0)
    assert "486" in execution["error_message"]


def test_a_ringing_call_that_is_stopped_is_canceled_and_an_answered_one_completed(
    api: httpx.Client, system: System
) -> None:
    ringing = dial(api, system, "api-ringing", "+12145550290")
    talking = dial(api, system, "api-talking", "+12145550200")
    comes_to(api, ringing, "ringing")
    comes_to(api, talking, "in-progress")
    assert api.post(f"/call/{ringing}/stop").json()["status"] == "canceled"
    assert api.post(f"/call/{talking}/stop").json()["status"] == "completed"
    assert [call.end for call in system.carried("+12145550290")] == ["cancel"]
    assert [call.end for call in system.carried("+12145550200")] == ["bye-received"]
    assert shown(api, talking)["telephony_data"]["hangup_by"] == "operator"
    again = api.post(f"/call/{talking}/stop")
    assert again.status_code == 409
    assert "completed" in again.json()["detail"]


def test_a_scheduled_call_is_made_at_its_time_though_nobody_wakes_the_leader(api: httpx.Client, system: System) -> None:
    at = datetime.now(UTC) + timedelta(seconds=4)
    id = dial(api, system, "api-later", "+12145550386", scheduled_at=at.isoformat())
    assert shown(api, id)["status"] == "scheduled"
    comes_to(api, id, "busy")
    [seen] = system.carried("+12145550386")
    assert -0.1 < seen.invited_at - at.timestamp() < 5
