"""`/agents`: what is taken, what is refused and by which field, and that the command line shows the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from models.slots import Bell, connect
from tests.integration.conftest import SmallApi
from tests.integration.ledger_rows import Rows
from tests.integration.system import until

LEAST = {"name": "bot", "connect": "playback://demo-congrats"}


@pytest.fixture
def asks(small_api: SmallApi) -> Iterator[httpx.Client]:
    with small_api.client() as client:
        yield client


def made(asks: httpx.Client, **other: object) -> dict[str, Any]:
    answer = asks.post("/agents", json={**LEAST, **other})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def fields_of(answer: httpx.Response) -> list[str]:
    """The fields that are wrong."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["field"] for error in answer.json()["errors"]]


def test_an_agent_is_made_shown_changed_and_deleted(asks: httpx.Client) -> None:
    agent = made(asks, telephony_provider="sip-trunk")
    assert agent == {
        "id": agent["id"],
        "name": "bot",
        "telephony_provider": "sip-trunk",
        "connect": "playback://demo-congrats",
        "fallback": None,
        "max_call_seconds": None,
        "max_concurrent_calls": None,
        "webhook_url": None,
        "created_at": agent["created_at"],
    }
    assert agent["created_at"].endswith("Z")
    where = f"/agents/{agent['id']}"
    assert asks.get(where).json() == agent
    given = {
        "name": "other",
        "connect": "audiosocket://127.0.0.1:9092",
        "fallback": "mine/sorry",
        "max_call_seconds": 60,
        "max_concurrent_calls": 3,
        "webhook_url": "https://example.com/calls",
    }
    assert asks.patch(where, json=given).json() == {**agent, **given}
    assert asks.patch(where, json={"telephony_provider": "sip-trunk"}).json() == {**agent, **given}
    unset = dict.fromkeys(("fallback", "max_call_seconds", "max_concurrent_calls", "webhook_url"))
    changed = {**agent, **given, **unset}
    assert asks.patch(where, json=unset).json() == changed
    assert asks.patch(where, json={}).json() == changed
    assert asks.get("/agents").json() == [changed]
    assert asks.delete(where).json() == {"message": "The agent is deleted."}
    for answer in (
        asks.get(where),
        asks.delete(where),
        asks.patch(where, json={"name": "x"}),
        asks.patch(where, json={}),
    ):
        assert answer.status_code == 404
        assert agent["id"] in answer.json()["detail"]
    assert asks.get("/agents").json() == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", None),
        ("name", ""),
        ("name", "a\0b"),
        ("name", "x" * 101),
        ("name", 7),
        ("connect", None),
        ("connect", "ws://example.com"),
        ("connect", "dialplan://private/s"),
        ("telephony_provider", "twilio"),
        ("telephony_provider", None),
        ("fallback", "a b"),
        ("fallback", ""),
        ("max_call_seconds", 0),
        ("max_call_seconds", 10**30),
        ("max_call_seconds", "60"),
        ("max_call_seconds", True),
        ("max_concurrent_calls", 0),
        ("max_concurrent_calls", -1),
        ("max_concurrent_calls", 10**30),
        ("max_concurrent_calls", 1.5),
        ("webhook_url", "ftp://example.com"),
        ("webhook_url", "https://user:secret@example.com"),
        ("webhook_url", "https://example.com/\n"),
        ("agent_config", {}),
    ],
)
def test_a_field_that_is_wrong_is_named_when_an_agent_is_made_and_when_it_is_changed(
    asks: httpx.Client, field: str, wrong: object
) -> None:
    agent = made(asks, name="first")
    for answer in (
        asks.post("/agents", json={**LEAST, field: wrong}),
        asks.patch(f"/agents/{agent['id']}", json={field: wrong}),
    ):
        assert fields_of(answer) == [field]
    assert asks.get("/agents").json() == [agent], "nothing was written"


def test_what_json_cannot_be_is_refused_too(asks: httpx.Client) -> None:
    bodies = [
        (b'{"name": "a\\ud800", "connect": "playback://a"}', 422),
        (b'{"name": NaN, "connect": "playback://a"}', 400),
    ]
    for body, status in bodies:
        answer = asks.post("/agents", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
    assert fields_of(asks.get("/agents/nobody")) == ["agent_id"]
    assert fields_of(asks.get("/agents", params={"page": "2"})) == ["page"]


def test_a_name_that_is_taken_is_a_conflict(asks: httpx.Client) -> None:
    made(asks)
    other = made(asks, name="other")
    for answer in (asks.post("/agents", json=LEAST), asks.patch(f"/agents/{other['id']}", json={"name": "bot"})):
        assert answer.status_code == 409
        assert "already an agent 'bot'" in answer.json()["detail"]


def test_an_agent_with_batches_or_calls_stays(asks: httpx.Client, small_api: SmallApi) -> None:
    rows = Rows(engine=small_api.database.engine)
    rows.campaign(1)
    refused = asks.delete(f"/agents/{rows.agent}")
    assert refused.status_code == 409
    assert "has campaigns or calls and stays" in refused.json()["detail"]


def test_a_change_wakes_the_leader(asks: httpx.Client, small_api: SmallApi) -> None:
    agent = made(asks)
    assert small_api.settings.redis_url is not None
    with connect(small_api.settings.redis_url.get_secret_value()) as client:
        bell = Bell(client)
        bell.wait(timedelta(0))
        asks.patch(f"/agents/{agent['id']}", json={"max_concurrent_calls": 2})
        until(lambda: bell.wait(timedelta(seconds=0.1)), within=5, what="the bell rings")
        bell.close()


def test_who_may_read_may_look_and_change_nothing(small_api: SmallApi) -> None:
    with small_api.client("call") as reader:
        assert reader.get("/agents").status_code == 200
        assert reader.post("/agents", json=LEAST).status_code == 403
        assert reader.patch(f"/agents/{uuid4()}", json={}).status_code == 403
