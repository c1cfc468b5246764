"""Who is let in, and what a body has to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from scheduler import keys
from scheduler.api.gate import needed_for
from scheduler.api.parts import Using
from scheduler.api.problems import answers
from tests.integration.api.raw import connected, head
from tests.integration.conftest import PostgresServer, SmallApi
from tests.integration.http import client, make_key


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer wrong", b"Basic dXNlcjpwYXNz", b"bearer \xff"])
def test_nobody_comes_in_without_a_key_that_is_known(small_api: SmallApi, header: bytes | None) -> None:
    headers = {} if header is None else {b"Authorization": header}
    answer = httpx.get(f"{small_api.url}/agents/{uuid4()}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["title"] == "Unauthorized"


def test_a_key_that_is_revoked_is_refused_from_its_next_request_on(small_api: SmallApi) -> None:
    key = make_key(small_api.database.engine, "read", "mine")
    with client(small_api.url, key) as asks:
        assert asks.get(f"/agents/{uuid4()}").status_code == 404
        with small_api.database.engine.begin() as connection:
            keys.revoke(connection, "mine")
        assert asks.get(f"/agents/{uuid4()}").status_code == 401


def test_a_key_without_the_scope_is_told_which_one_is_needed(small_api: SmallApi) -> None:
    with small_api.client("call") as asks:
        refused = asks.delete(f"/agents/{uuid4()}")
    assert refused.status_code == 403
    assert "scope admin" in refused.json()["detail"]


def test_a_wrong_key_is_refused_before_its_body_is_read(small_api: SmallApi) -> None:
    read = make_key(small_api.database.engine, "read")
    for key, status in ((None, 401), ("wrong", 401), (read, 403)):
        with connected(small_api.url) as asks:
            asks.send(head("POST /call", key, Content_Length=100, Expect="100-continue"))
            assert asks.answer().status == status  # and no 100 before it


def test_scopes_reach_as_far_as_they_say() -> None:
    for method, path, needed in (
        ("GET", "/batches", "read"),
        ("HEAD", "/metrics", "read"),
        ("OPTIONS", "/call", "read"),
        ("POST", "/call", "call"),
        ("DELETE", "/batches/1", "call"),
        ("TRACE", "/call", "call"),
        ("POST", "/sip-trunks/trunks/1/check", "admin"),
        ("PATCH", "/agents/1", "admin"),
        ("DELETE", "/agents/1", "admin"),
    ):
        assert (method, path, needed_for(method, path)) == (method, path, needed)


NEEDED = {
    "nobody": """
        GET /healthz
        GET /readyz
    """,
    "read": """
        GET /agents
        GET /agents/{agent_id}
        GET /attempts/{attempt_id}
        GET /batches
        GET /batches/{agent_id}/all
        GET /batches/{batch_id}
        GET /batches/{batch_id}/executions
        GET /batches/{batch_id}/explain
        GET /batches/{batch_id}/rejected
        GET /call/{execution_id}
        GET /call/{execution_id}/explain
        GET /executions/{execution_id}
        GET /executions/{execution_id}/log
        GET /metrics
        GET /sip-trunks/trunks
        GET /sip-trunks/trunks/{trunk_id}
        GET /sip-trunks/trunks/{trunk_id}/numbers
        GET /sip-trunks/trunks/{trunk_id}/numbers/{number_id}
        GET /user/me
        GET /webhooks/deliveries
    """,
    "call": """
        POST /batches
        DELETE /batches/{batch_id}
        POST /batches/{batch_id}/pause
        POST /batches/{batch_id}/resolve
        POST /batches/{batch_id}/resume
        POST /batches/{batch_id}/schedule
        POST /batches/{batch_id}/stop
        POST /call
        POST /call/{execution_id}/resolve
        POST /call/{execution_id}/stop
    """,
    "admin": """
        POST /agents
        PATCH /agents/{agent_id}
        DELETE /agents/{agent_id}
        POST /sip-trunks/trunks
        PATCH /sip-trunks/trunks/{trunk_id}
        DELETE /sip-trunks/trunks/{trunk_id}
        POST /sip-trunks/trunks/{trunk_id}/check
        POST /sip-trunks/trunks/{trunk_id}/numbers
        DELETE /sip-trunks/trunks/{trunk_id}/numbers/{number_id}
        GET /webhooks/secret
        POST /webhooks/secret/rotate
    """,
}
"""Every route. One that is new is written here by whoever makes it: the gate judges by the beginning of a path."""


def test_every_route_needs_the_scope_that_is_written_here(small_api: SmallApi) -> None:
    described = small_api.app.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, operations in described.items() for method in operations}
    wanted = {route.strip(): scope for scope, lines in NEEDED.items() for route in lines.strip().splitlines()}
    assert wanted.keys() == routes
    scopes = ("read", "call", "admin")
    with small_api.client("read") as reads, small_api.client("call") as calls, small_api.client("admin") as administers:
        for route, needed in wanted.items():
            method, _, path = route.partition(" ")
            asked = re.sub(r"\{\w+\}", "x", path)
            let_in = [
                scope
                for scope, asks in zip(scopes, (reads, calls, administers), strict=True)
                if asks.request(method, asked).status_code != 403
            ]
            assert (route, let_in) == (route, list(scopes[0 if needed == "nobody" else scopes.index(needed) :]))
            if needed != "nobody":
                assert (route, httpx.request(method, small_api.url + asked).status_code) == (route, 401)


def test_a_postgres_that_is_away_is_said_without_where_it_is(small_api: SmallApi, postgres: PostgresServer) -> None:
    with small_api.client() as asks:
        name = small_api.database.owner_url.rpartition("/")[2]
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            answer = asks.get(f"/agents/{uuid4()}")
        finally:
            postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["detail"] == "Postgres does not answer"
        assert asks.get(f"/agents/{uuid4()}").status_code == 404


# --- whatever is asked ------------------------------------------------------------------------------


def test_every_refusal_is_a_problem_and_every_answer_has_its_headers(small_api: SmallApi) -> None:
    with small_api.client() as asks:
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("GET", "/docs", 200),
            ("GET", "/openapi.json", 200),
            ("GET", "/nothing", 404),
            ("GET", "/healthz/", 404),
            ("GET", f"/agents/{uuid4()}/", 404),
            ("GET", "//evil.invalid/", 404),
            ("GET", "/agents/%00", 422),
            ("GET", "/agents/%ff?x=%ff&%00=%00", 422),
            ("OPTIONS", "/healthz", 405),
            ("POST", "/healthz", 405),
            ("PUT", "/docs", 405),
            ("TRACE", f"/agents/{uuid4()}", 405),
            ("BREW", f"/agents/{uuid4()}", 405),
        ):
            answer = asks.request(method, path)
            assert (method, path, answer.status_code) == (method, path, status)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers
            assert not [name for name in answer.headers if name.startswith("access-control")]
            if status >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert set(answer.json()) == {"type", "title", "status", "detail", "errors"}
                assert answer.json()["status"] == status


def test_a_wrong_method_is_told_every_right_one(small_api: SmallApi) -> None:
    with small_api.client() as asks:
        assert asks.put(f"/agents/{uuid4()}").headers["allow"] == "DELETE, GET, HEAD, PATCH"
        assert asks.put("/openapi.json").headers["allow"] == "GET, HEAD"


def test_a_parameter_that_is_given_twice_is_refused(small_api: SmallApi) -> None:
    with small_api.client() as asks:
        for path, name in (
            ("/batches?limit=1&limit=2", "limit"),
            ("/webhooks/secret?url=http://a&url=http://b", "url"),
            ("/sip-trunks/trunks?is_active=true&is_active=true", "is_active"),
        ):
            refused = asks.get(path)
            assert refused.status_code == 422
            assert refused.json()["errors"] == [{"field": name, "detail": "is given twice"}]
        assert asks.get("/batches?limit=1").status_code == 200


def test_head_is_get_without_the_body(small_api: SmallApi) -> None:
    key = make_key(small_api.database.engine)
    for path, status in (("/healthz", 200), (f"/agents/{uuid4()}", 404), ("/metrics", 200)):
        with connected(small_api.url) as asks:
            asks.send(head(f"HEAD {path}", key))
            answer = asks.answer("HEAD")
            assert (answer.status, answer.body) == (status, b"")
            assert int(answer.headers["content-length"]) > 0
            asks.send(head("GET /healthz"))  # no byte of the first was left over
            assert asks.answer().status == 200


# --- bodies -----------------------------------------------------------------------------------------


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = 0
    data: dict[str, Any] = {}


@pytest.fixture
def things(small_api: SmallApi) -> Iterator[httpx.Client]:
    """An API with a route that takes a body and writes to the ledger."""

    @small_api.app.post("/things", responses=answers(422))
    def make(thing: Thing, using: Using) -> Thing:
        with using.transaction() as connection:
            connection.execute(text("SELECT cast(:size AS bigint), cast(:name AS text)"), thing.model_dump())
        return thing

    with small_api.client() as asks:
        yield asks


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"name": ', "not JSON"),
        (b'{"name": "x",}', "not JSON"),
        (b"'name'", "not JSON"),
        (b'{"name": "\xff"}', "not UTF-8"),
        ('{"name": "x"}'.encode("utf-16"), "not UTF-8"),
        (b'{"name": "a\x00b"}', "not JSON"),
        (b'{"name": "x", "name": "y"}', "stands twice"),
        (b'{"name": "x", "data": {"a": 1, "a": 1}}', "stands twice"),
        (b'{"name": "x", "size": NaN}', "no number"),
        (b'{"name": "x", "data": {"a": -Infinity}}', "no number"),
        (b'{"name": "x", "data": {"a": 1e999}}', "too large"),
        (b'{"name": "x", "size": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"name": "x", "data": ' + b'{"a":' * 51 + b"1" + b"}" * 52, "nested deeper"),
        (b"[" * 400_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
def test_what_is_no_json_is_refused(things: httpx.Client, body: bytes, detail: str) -> None:
    answer = things.post("/things", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"name": "a\u0000b"}', "name"),
        (rb'{"name": "a\ud800b"}', "name"),
        (rb'{"name": "x", "data": {"b": [1, "\udc00"]}}', "data.b.1"),
        (rb'{"name": "x", "data": {"\ud83d": 1}}', "data"),
        (rb'{"\ud800": 1}', "body"),
        (b'{"name": "x", "other": 1}', "other"),
        (b'{"name": "x", "size": "many"}', "size"),
        (b'{"name": null}', "name"),
        (b"null", "body"),
        (b"[]", "body"),
        (b"", "body"),
    ],
)
def test_what_is_no_thing_is_refused_field_by_field(things: httpx.Client, body: bytes, field: str) -> None:
    answer = things.post("/things", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert field in [error["field"] for error in answer.json()["errors"]]


def test_what_the_ledger_cannot_hold_is_the_clients_fault(things: httpx.Client) -> None:
    answer = things.post("/things", json={"name": "x", "size": 2**63})
    assert (answer.status_code, answer.json()["detail"]) == (422, "a value cannot be kept: bigint out of range")


def test_what_only_looks_odd_is_taken(things: httpx.Client) -> None:
    body = rb'{"name": "\ud83d\ude00 \\u0000", "size": 1, "data": {"a": [[[["\ud83d\ude00"]]]], "b": 1e3}}'
    answer = things.post("/things", content=body, headers={"Content-Type": "application/vnd.thing+json; charset=utf-8"})
    assert (answer.status_code, answer.json()["name"]) == (200, "😀 \\u0000")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "?"]
)
def test_another_media_type_is_named(things: httpx.Client, content_type: str) -> None:
    answer = things.post("/things", content=b'{"name": "x"}', headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["detail"]) == (415, "the body must be application/json")


def test_a_problem_quotes_only_so_much(things: httpx.Client) -> None:
    answer = things.post("/things", json={"name": "x", "y" * 5000: 1} | {f"z{n}": n for n in range(1000)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert len(answer.text) < 10_000


# --- what nobody thought of -------------------------------------------------------------------------


def test_what_nobody_thought_of_is_logged_once_and_not_answered(
    small_api: SmallApi, caplog: pytest.LogCaptureFixture
) -> None:
    @small_api.app.get("/broken/{secret}")
    def broken(secret: str) -> None:
        raise RuntimeError(secret)

    with small_api.client() as asks, capture_logs() as logs:
        answer = asks.get("/broken/hidden")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "something is wrong with trunkline itself: its log says where"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert logs == [
        {"event": "unexpected", "log_level": "error", "exc_info": True, "method": "GET", "route": "/broken/{secret}"}
    ]
    assert caplog.records == []  # the server says nothing of its own


def test_what_breaks_in_the_middle_of_an_answer_cuts_it_off_and_is_logged_once(
    small_api: SmallApi, caplog: pytest.LogCaptureFixture
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise RuntimeError("broken")

    small_api.app.get("/broken")(lambda: StreamingResponse(pieces()))
    with small_api.client() as asks, capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
        asks.get("/broken")
    assert logs == []
    assert [record.getMessage().strip() for record in caplog.records] == ["Exception in ASGI application"]
