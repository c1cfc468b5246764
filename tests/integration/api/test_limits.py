"""What a client may not draw out: how much, how often, how many at once, how slowly."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import Engine, event

from deploy.embedded.valkey import Valkey
from scheduler import single
from scheduler.api import bodies, limits, server
from tests.integration.api.raw import connected, head
from tests.integration.conftest import Database, SmallApi, serving
from tests.integration.http import client, make_key
from tests.integration.ledger_rows import FROM, Rows
from tests.integration.system import until


class Thing(BaseModel):
    name: str


def take_things(api: SmallApi) -> None:
    @api.app.post("/things")
    def thing(thing: Thing) -> Thing:
        return thing


# --- how much ---------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(small_api: SmallApi) -> None:
    key = make_key(small_api.database.engine)
    for line in ("POST /things", "PATCH /agents/x", "GET /agents/x", "POST /healthz"):
        with connected(small_api.url) as asks:
            asks.send(head(line, key, Content_Length=bodies.JSON_BYTES + 1, Content_Type="application/json"))
            answer = asks.answer()
        assert (line, answer.status) == (line, 413)
        assert answer.problem["detail"] == "the body must be at most 1000000 bytes"
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_body_in_chunks_is_counted_as_it_comes(small_api: SmallApi, content_type: str) -> None:
    take_things(small_api)
    chunk = b"%x\r\n%s\r\n" % (100_000, b" " * 100_000)
    with connected(small_api.url) as asks:
        key = make_key(small_api.database.engine)
        asks.send(head("POST /things", key, Transfer_Encoding="chunked", Content_Type=content_type))
        for _ in range(11):  # and no end
            asks.send(chunk)
        assert asks.answer().problem["title"] in ("Request Entity Too Large", "Content Too Large")


def test_an_upload_may_be_longer_as_the_setting_says(database: Database, valkey: Valkey) -> None:
    with serving(database, valkey, api_longest_upload_megabytes=3) as api:
        key = make_key(database.engine)
        for length, refused in ((3_000_000, False), (3_000_001, True)):
            with connected(api.url) as asks:
                asks.send(head("POST /batches", key, Content_Length=length, Content_Type="multipart/form-data"))
                if refused:
                    assert asks.answer().status == 413
                else:
                    asks.send(b"x" * length)
                    assert asks.answer().status != 413


# --- how slowly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [b"", b" "])
def test_a_body_that_comes_too_slowly_holds_its_place_no_longer_than_patience_lasts(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, byte: bytes
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.6)
    with serving(database, valkey, api_requests_at_once=1) as api:
        take_things(api)
        key = make_key(database.engine)
        with connected(api.url) as slow, connected(api.url) as other:
            began = time.monotonic()
            slow.send(head("POST /things", key, Content_Length=1000, Content_Type="application/json"))
            time.sleep(0.2)
            other.send(head("GET /agents/x", key))
            assert other.answer().status == 503  # the place is held
            if byte:
                for _ in range(3):  # each in time, and all of them too slow
                    time.sleep(0.1)
                    slow.send(byte)
            assert slow.answer().status == 408
            assert time.monotonic() - began < 3
            other.send(head("GET /agents/x", key))
            assert other.answer().status == 422


def test_a_fast_beginning_does_not_pay_for_a_long_silence() -> None:
    async def main() -> None:
        pieces = [{"type": "http.request", "body": b"x" * 10_000_000, "more_body": True}]

        async def receive() -> dict[str, object]:
            if pieces:
                return pieces.pop()
            await anyio.sleep_forever()
            raise AssertionError

        body = bodies.Body(receive, most=1 << 30)
        await body()
        with anyio.fail_after(bodies.PATIENCE + 2), pytest.raises(Exception, match="too slowly"):
            await body()

    anyio.run(main)


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Slow: "])
def test_a_head_that_does_not_end_is_cut_off(
    small_api: SmallApi, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    with connected(small_api.url) as asks:
        asks.send(first)
        asks.trickle_until_closed(b"x" if first else b"", within=3)


def test_what_is_left_of_a_body_that_was_refused_is_not_waited_for_without_end(
    small_api: SmallApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    with connected(small_api.url) as asks:
        asks.send(head("POST /things", "wrong", Content_Length=1000, Content_Type="application/json"))
        assert asks.answer().status == 401
        asks.trickle_until_closed(b"x", within=3)


def test_a_second_request_on_a_connection_has_its_whole_time(
    small_api: SmallApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)

    @small_api.app.get("/healthz/slow")
    async def slow() -> str:
        await anyio.sleep(1)
        return "done"

    key = make_key(small_api.database.engine)
    with connected(small_api.url) as asks:
        for _ in range(2):
            time.sleep(0.3)
            asks.send(head("GET /healthz/slow", key) * 2)  # the second is there before the first is answered
            assert [asks.answer().body for _ in range(2)] == [b'"done"'] * 2


def test_an_answer_that_nobody_reads_is_given_up(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.5)
    ended = threading.Event()

    async def stream() -> AsyncIterator[bytes]:
        try:
            while True:
                await anyio.lowlevel.checkpoint()
                yield b"x" * 100_000
        finally:
            ended.set()

    with serving(database, valkey, api_requests_at_once=1) as api:
        api.app.get("/endless")(lambda: StreamingResponse(stream()))
        key = make_key(database.engine)
        with connected(api.url, receive_buffer=4096) as asks:
            asks.send(head("GET /endless", key))
            assert ended.wait(5)
            with client(api.url, key) as other:
                until(lambda: other.get("/agents/x").status_code == 422, what="its place is free")


def test_a_body_that_takes_too_long_in_all_is_refused(small_api: SmallApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LONGEST", 0.5)
    monkeypatch.setattr(bodies, "PATIENCE", 1000.0)
    take_things(small_api)
    key = make_key(small_api.database.engine)
    with connected(small_api.url) as slow:
        slow.send(head("POST /things", key, Content_Length=50_000, Content_Type="application/json"))
        slow.send(b" " * 40_000)  # fast enough, and the rest never comes
        assert slow.answer().status == 408


def test_an_answer_that_is_read_too_slowly_is_cut_off(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LONGEST", 0.5)

    async def stream() -> AsyncIterator[bytes]:
        while True:
            await anyio.lowlevel.checkpoint()
            yield b"x" * 100_000

    with serving(database, valkey, api_requests_at_once=1) as api:
        api.app.get("/endless")(lambda: StreamingResponse(stream()))
        key = make_key(database.engine)
        with connected(api.url, receive_buffer=4096) as asks:
            asks.send(head("GET /endless", key))
            with client(api.url, key) as other:
                until(lambda: other.get("/agents/x").status_code == 422, within=10, what="its place is free")


def test_a_route_that_is_at_work_gives_its_own_answer_however_long_it_takes(
    small_api: SmallApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LONGEST", 0.3)
    rows, place = Rows(engine=small_api.database.engine), single.place
    late = threading.Event()

    def place_late(*given: Any, **named: Any) -> None:
        late.wait(1)
        place(*given, **named)

    monkeypatch.setattr(single, "place", place_late)
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    call = {"agent_id": str(rows.agent), "recipient_phone_number": "+12125550000", "from_number": FROM}
    with small_api.client("call") as asks:
        answer = asks.post("/call", json={**call, "scheduled_at": later})
    assert answer.status_code == 200, answer.text
    assert rows.all("SELECT id::text FROM calls") == [(answer.json()["execution_id"],)]


# --- how often --------------------------------------------------------------------------------------


class Asked:
    """Counts what Postgres is asked by this process."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, *_: object) -> None:
        self.times += 1


@pytest.fixture
def asked() -> Iterator[Asked]:
    counts = Asked()
    event.listen(Engine, "before_cursor_execute", counts)
    yield counts
    event.remove(Engine, "before_cursor_execute", counts)


def test_a_key_that_asks_too_often_is_told_when_to_ask_again_and_costs_postgres_nothing(
    database: Database, valkey: Valkey, asked: Asked
) -> None:
    with serving(database, valkey, api_requests_per_minute=5) as api, api.client() as often, api.client() as other:
        statuses = [often.get("/agents/x").status_code for _ in range(6)]
        assert statuses == [422] * 6  # the first made the key known
        before = asked.times
        refused = often.get("/agents/x")
        assert (refused.status_code, asked.times) == (429, before)
        assert refused.json()["detail"] == "more than 5 requests a minute"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert other.get("/agents/x").status_code == 422


def test_strangers_of_an_address_are_limited_before_postgres_is_asked_and_shut_out_nobody_who_was_known(
    database: Database, valkey: Valkey, asked: Asked
) -> None:
    with serving(database, valkey, api_strangers_requests_per_minute=4) as api, api.client() as known:
        assert known.get("/agents/x").status_code == 422
        guesses = [httpx.get(f"{api.url}/agents/x", headers={"Authorization": f"Bearer {n}"}) for n in range(4)]
        assert {answer.status_code for answer in guesses} == {401}
        before = asked.times
        for n, headers in enumerate(({"Authorization": "Bearer 5"}, {}, {"X-Forwarded-For": "203.0.113.9"})):
            refused = httpx.get(f"{api.url}/{('agents/x', 'call/x', 'docs')[n]}", headers=headers)
            assert (refused.status_code, asked.times) == (429, before)
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert known.get("/agents/x").status_code == 422
        assert httpx.get(f"{api.url}/healthz").status_code == 200


def test_who_waits_as_long_as_told_is_let_in(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("time.time", lambda: now[0])
    with serving(database, valkey, api_requests_per_minute=6) as api, api.client() as asks:
        asks.get("/agents/x")
        for _ in range(30):
            answer = asks.get("/agents/x")
            if answer.status_code == 429:
                now[0] += int(answer.headers["retry-after"])
                answer = asks.get("/agents/x")
            assert answer.status_code == 422
            now[0] += 0.5


def test_a_proxy_is_believed_only_where_it_is_named(database: Database, valkey: Valkey) -> None:
    def ask(api: SmallApi, address: str) -> int:
        return httpx.get(f"{api.url}/agents/x", headers={"X-Forwarded-For": address}).status_code

    with serving(database, valkey, api_strangers_requests_per_minute=1) as api:
        assert [ask(api, "203.0.113.1"), ask(api, "203.0.113.2")] == [401, 429]
    with serving(database, valkey, api_strangers_requests_per_minute=1, api_proxies="127.0.0.1") as api:
        assert [ask(api, "203.0.113.1"), ask(api, "203.0.113.2"), ask(api, "203.0.113.2")] == [401, 401, 429]
        # what a client has put there itself stands before what the proxy has added
        assert [ask(api, "198.51.100.1, 203.0.113.3"), ask(api, "198.51.100.2, 203.0.113.3")] == [401, 429]
        # a host has a whole network of IPv6
        assert [ask(api, "2001:db8:1:2::1"), ask(api, "2001:db8:1:2:ffff::2")] == [401, 429]
        assert ask(api, "2001:db8:1:3::1") == 401


# --- how many at once -------------------------------------------------------------------------------


def test_more_requests_than_places_are_sent_away_and_health_still_answers(database: Database, valkey: Valkey) -> None:
    entered, leave = threading.Event(), threading.Event()
    with serving(database, valkey, api_requests_at_once=1) as api:

        @api.app.get("/busy")
        def busy() -> str:
            entered.set()
            leave.wait(20)
            return "done"

        with api.client() as asks, api.client() as other:
            answers: list[int] = []
            first = threading.Thread(target=lambda: answers.append(asks.get("/busy").status_code))
            first.start()
            try:
                assert entered.wait(10)
                refused = other.get(f"/agents/{uuid4()}")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert httpx.get(f"{api.url}/healthz").status_code == 200
            finally:
                leave.set()
                first.join()
            assert answers == [200]
            assert other.get(f"/agents/{uuid4()}").status_code == 404


def test_stops_that_take_long_leave_threads_to_the_others(small_api: SmallApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.api.batches.STOPS", stops := limits.Hands(1, "stops"))
    monkeypatch.setattr("scheduler.api.calls.STOPS", stops)
    with small_api.client("call") as asks:
        one = f"/batches/{uuid4()}"
        paths = [f"/call/{uuid4()}/stop", f"{one}/stop", f"{one}/pause", f"{one}/resolve"]
        with stops.one():
            for path in paths:
                refused = asks.post(path, json={"decision": "leave"} if "resolve" in path else None)
                assert (path, refused.status_code, refused.headers["retry-after"]) == (path, 503, "5")
                assert refused.json()["detail"] == "1 stops are under way: try again in a moment"
        assert asks.post(f"{one}/pause").status_code == 404


def test_more_connections_than_may_be_open_are_sent_away(small_api: SmallApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    with connected(small_api.url), connected(small_api.url), connected(small_api.url) as third:
        refused = third.answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.problem["detail"] == "too many connections"


# --- heads ------------------------------------------------------------------------------------------


def test_a_head_that_is_too_large_or_no_http_is_answered_with_a_problem(small_api: SmallApi) -> None:
    for sent, status in (
        (b"GET / HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 20_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ):
        with connected(small_api.url) as asks:
            asks.send(sent)
            assert (sent[:60], asks.answer().problem["status"]) == (sent[:60], status)
