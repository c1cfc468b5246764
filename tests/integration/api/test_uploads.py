"""What goes wrong while a list comes in: the answer is true, and what was refused leaves nothing behind, not even its key."""

from __future__ import annotations

import os
import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest
from anyio import from_thread, to_thread
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from deploy.embedded.valkey import Valkey
from scheduler import idempotency, intake, loads
from scheduler.api import bodies, limits, server, uploads
from scheduler.api.app import THREADS
from scheduler.idempotency import Asked, thing_for
from tests.integration.api.raw import connected, head
from tests.integration.api.test_batches import TO, is_empty, listed, made, post
from tests.integration.conftest import Database, SmallApi, serving
from tests.integration.http import client, make_key
from tests.integration.ledger_rows import FROM, Rows, uuid7
from tests.integration.system import until


def form(*fields: tuple[str, str], file: str | None = None) -> bytes:
    """One of boundary x; httpx would make another of fields that are given twice."""
    part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    parts = [part.format(name, "", value) for name, value in fields]
    if file is not None:
        parts.append(part.format("file", '; filename="a.csv"', file))
    return ("".join(parts) + "--x--\r\n").encode()


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


class Held:
    """Loads that stand still after their first chunk until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.let_go = threading.Semaphore(0), threading.Event()
        write = loads.Load.write

        def held(load: loads.Load, *chunk: Any) -> None:
            write(load, *chunk)
            self.reached.release()
            assert self.let_go.wait(30)

        monkeypatch.setattr(intake, "CHUNK_ROWS", 5)
        monkeypatch.setattr(loads.Load, "write", held)

    def wait(self) -> None:
        assert self.reached.acquire(timeout=30)


def in_background(asking: Any) -> tuple[threading.Thread, list[Any]]:
    """What it answers, or how it failed."""
    got: list[Any] = []

    def ask() -> None:
        try:
            got.append(asking())
        except httpx.TransportError as error:
            got.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, got


# --- a load that takes long -----------------------------------------------------------------------


def test_a_load_that_takes_long_is_answered_when_it_is_over_and_whole(
    asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LONGEST", 0.3)
    write, late = loads.Load.write, threading.Event()

    def slow(load: loads.Load, *chunk: Any) -> None:
        late.wait(0.2)
        write(load, *chunk)

    monkeypatch.setattr(intake, "CHUNK_ROWS", 5)
    monkeypatch.setattr(loads.Load, "write", slow)
    batch_id = made(asks, rows, listed(20))
    assert rows.all("SELECT id::text, status, accepted FROM campaigns") == [(batch_id, "ready", 20)]


def test_a_load_reads_its_own_file_whatever_becomes_of_the_requests(
    asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "other.csv").write_text(f"phone_number\r\n{TO[9]}\r\n")
    load, others = uploads._load, []

    def closed(form: uploads.NewBatch, *rest: Any) -> uploads.BatchCreated:
        number = form.file.file.fileno()
        form.file.file.close()
        others.append(os.open(tmp_path / "other.csv", os.O_RDONLY))
        assert others == [number], "the number is another file's"
        return load(form, *rest)

    monkeypatch.setattr(uploads, "_load", closed)
    made(asks, rows, listed(3))
    os.close(others[0])
    assert [number for (number,) in rows.all("SELECT phone_number FROM calls ORDER BY 1")] == TO[:3]


def test_a_load_goes_on_when_its_client_has_gone_away_and_its_key_finds_it(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    key = asks.headers["authorization"].removeprefix("Bearer ")
    fields = [("agent_id", str(rows.agent)), ("from_phone_numbers", FROM)]
    body = form(*fields, file=listed(20))
    with connected(small_api.url) as goes:
        headers = {"Content_Type": MULTIPART["Content-Type"], "Idempotency_Key": "k"}
        goes.send(head("POST /batches", key, Content_Length=len(body), **headers))
        goes.send(body)
        held.wait()
    held.let_go.set()
    until(lambda: rows.all("SELECT 1 FROM campaigns WHERE status = 'ready'"), what="it is loaded")
    again = asks.post("/batches", content=body, headers={**MULTIPART, "Idempotency-Key": "k"})
    assert again.status_code == 201, again.text
    assert rows.all("SELECT id::text, accepted FROM campaigns") == [(again.json()["batch_id"], 20)]


# --- a process that is asked to stop --------------------------------------------------------------


def test_a_load_that_takes_longer_than_the_process_has_left_is_refused_and_leaves_nothing(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LOADS_END_SECONDS", 0.1)
    monkeypatch.setattr(intake, "PROGRESS_EVERY", 0)
    held = Held(monkeypatch)
    rows, key = Rows(engine=database.engine), make_key(database.engine, "call")
    with serving(database, valkey) as api, client(api.url, key) as asks:
        thread, got = in_background(lambda: post(asks, rows, listed(20), key="k"))
        held.wait()
        api.ask_to_stop()
        assert api.app.state.parts.ending.wait(10)
        held.let_go.set()
        thread.join()
    assert (got[0].status_code, got[0].headers["retry-after"]) == (503, "5"), got[0].text
    assert is_empty(rows)
    with serving(database, valkey) as api, client(api.url, key) as asks:
        made(asks, rows, listed(3), key="k")


def test_who_has_no_answer_when_the_process_ends_is_cut_off_and_never_told_that_it_failed(
    database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_ENDS_SECONDS", 0.1)
    entered, leave = threading.Event(), threading.Event()
    with serving(database, valkey) as api, api.client() as asks:

        @api.app.get("/slow")
        def slow() -> None:
            entered.set()
            leave.wait(30)

        thread, got = in_background(lambda: asks.get("/slow"))
        assert entered.wait(10)
        api.ask_to_stop()
        thread.join()
        leave.set()
    assert isinstance(got[0], httpx.TransportError)


# --- a key after a refusal ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"from_phone_numbers": "+49301234567"}, 422),
        ({"agent_id": str(uuid4())}, 422),
        ({"retry_config": "{"}, 422),
        ({"webhook_url": "ftp://example.com"}, 422),
        ({"content": "phone_number,name\r\n"}, 422),
        ({"content": b"PK\x03\x04"}, 422),
        ({"name": "taken"}, 409),
    ],
)
def test_a_request_that_is_refused_leaves_its_key_to_the_mended_one(
    asks: httpx.Client, rows: Rows, wrong: dict[str, Any], status: int
) -> None:
    made(asks, rows, name="taken")
    for _ in range(2):
        assert post(asks, rows, key="k", **wrong).status_code == status
    assert rows.all("SELECT 1 FROM idempotency_keys") == []
    mended = made(asks, rows, key="k")
    assert made(asks, rows, key="k") == mended
    assert rows.value("SELECT count(*) FROM campaigns") == 2


def test_a_key_is_free_for_the_next_api_too(database: Database, valkey: Valkey) -> None:
    rows, key = Rows(engine=database.engine), make_key(database.engine, "call")
    with serving(database, valkey) as api, client(api.url, key) as asks:
        assert post(asks, rows, from_phone_numbers="+49301234567", key="k").status_code == 422
    with serving(database, valkey) as api, client(api.url, key) as asks:
        made(asks, rows, key="k")


def test_one_with_another_body_at_the_same_time_is_refused_and_takes_no_key_away(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    key = asks.headers["authorization"].removeprefix("Bearer ")
    with client(small_api.url, key) as first:
        thread, got = in_background(lambda: post(first, rows, listed(20), key="k"))
        held.wait()
        assert post(asks, rows, listed(4), key="k").status_code == 422
        assert post(asks, rows, listed(20), key="k").status_code == 409
        held.let_go.set()
        thread.join()
    assert got[0].status_code == 201
    assert made(asks, rows, listed(20), key="k") == got[0].json()["batch_id"]


def test_a_key_that_is_forgotten_in_the_very_moment_is_kept_anew(database: Database) -> None:
    make_key(database.engine, name="mine")
    with database.engine.begin() as connection:
        owner = connection.exec_driver_sql("SELECT id FROM api_keys").scalar_one()
        asked = Asked.of(owner, "k", "POST /call", {})
        first = thing_for(connection, asked, uuid7())
        connection.exec_driver_sql("UPDATE idempotency_keys SET created_at = now() - interval '2 days'")

    leader_is_here = threading.Event()

    def leader_forgets(asking: Connection, *_: Any) -> None:
        if leader_is_here.is_set():
            return
        leader_is_here.set()
        with database.engine.begin() as leader:
            leader.exec_driver_sql("SET lock_timeout = '200ms'")
            idempotency.forget_old(leader)

    event.listen(database.engine, "after_cursor_execute", leader_forgets)
    with pytest.raises(OperationalError, match="lock timeout"), database.engine.begin() as connection:
        thing_for(connection, asked, uuid7())
    with database.engine.begin() as connection:
        assert thing_for(connection, asked, uuid7()) == first


# --- forms that two would read in two ways --------------------------------------------------------


@pytest.mark.parametrize("charset", ["punycode", "undefined", "hex", "utf-7", "idna", "raw_unicode_escape"])
def test_a_charset_is_judged_as_it_is_used(asks: httpx.Client, rows: Rows, charset: str) -> None:
    fields = [("agent_id", str(rows.agent)), ("from_phone_numbers", FROM), ("name", "xn--zz\xff..")]
    for given in (f"charset=utf-8; charset={charset}", f"charset={charset}", f'CHARSET="{charset.upper()}"'):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; {given}"}
        refused = asks.post("/batches", content=form(*fields, file=listed(1)), headers=headers)
        assert (given, refused.status_code, refused.json()["detail"]) == (given, 400, "the form must be UTF-8")
    assert is_empty(rows)


@pytest.mark.parametrize(
    ("again", "field"),
    [
        (("agent_id", str(uuid4())), "agent_id"),
        (("name", "b"), "name"),
        (("max_concurrent_calls", "1000"), "max_concurrent_calls"),
        (("retry_config", '{"enabled": true, "enabled": false}'), "retry_config"),
    ],
)
def test_what_is_given_twice_is_refused(asks: httpx.Client, rows: Rows, again: tuple[str, str], field: str) -> None:
    fields = [("agent_id", str(rows.agent)), ("from_phone_numbers", FROM), ("name", "a"), ("max_concurrent_calls", "1")]
    refused = asks.post("/batches", content=form(*fields, again, file=listed(1)), headers=MULTIPART)
    assert refused.status_code == 422, refused.text
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert "twice" in refused.json()["detail"]
    assert is_empty(rows)


def test_several_numbers_to_call_from_may_be_given(asks: httpx.Client, rows: Rows) -> None:
    other = "+12025550101"
    rows.run("INSERT INTO phone_numbers (phone_number, trunk_id) VALUES (%(n)s, %(t)s)", n=other, t=rows.trunk)
    batch_id = made(asks, rows, from_phone_numbers=[FROM, other])
    assert asks.get(f"/batches/{batch_id}").json()["from_phone_numbers"] == [FROM, other]


# --- how much at once -----------------------------------------------------------------------------


def test_more_uploads_than_may_be_under_way_are_sent_away_before_their_bodies_are_read(
    small_api: SmallApi, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = threading.Event()

    class Watched(bodies.Upload):
        async def __call__(self) -> Any:
            under_way.set()
            return await super().__call__()

    monkeypatch.setattr("scheduler.api.gate.UPLOADS", limits.Hands(1, "uploads"))
    monkeypatch.setattr("scheduler.api.gate.Upload", Watched)
    key = make_key(small_api.database.engine, "call")
    with client(small_api.url, key) as asks, connected(small_api.url) as other:
        with connected(small_api.url) as slow:
            slow.send(head("POST /batches", key, Content_Length=1000, Content_Type=MULTIPART["Content-Type"]))
            assert under_way.wait(10)
            assert post(asks, rows).status_code == 503
            other.send(head("POST /batches", key, Content_Length=1000, Expect="100-continue"))
            refused = other.answer()
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert refused.problem["detail"] == "1 uploads are under way: try again in a moment"
            assert asks.get("/batches").status_code == 200
        until(lambda: post(asks, rows).status_code == 201, what="its place is free")


def test_uploads_leave_some_of_the_disk_to_postgres(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DISK_LEFT", 1 << 62)
    refused = post(asks, rows, key="k")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "of the disk is free" in refused.json()["detail"]
    with connected(small_api.url) as large:
        key = asks.headers["authorization"].removeprefix("Bearer ")
        large.send(head("POST /batches", key, Content_Length=3_000_000, Content_Type=MULTIPART["Content-Type"]))
        large.send(form(("agent_id", str(rows.agent)), file="x" * 2_000_000))
        assert large.answer().status == 503, "while it comes"
    monkeypatch.setattr(bodies, "DISK_LEFT", 0)
    assert is_empty(rows)
    made(asks, rows, key="k")


def test_a_load_keeps_one_of_the_routes_threads_and_each_of_these_finds_a_connection(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, found = uploads._load, []

    def watched(*given: Any) -> uploads.BatchCreated:
        found.append(from_thread.run_sync(lambda: to_thread.current_default_thread_limiter().statistics()))
        return load(*given)

    monkeypatch.setattr(uploads, "_load", watched)
    made(asks, rows)
    pool = small_api.app.state.parts.engine.pool
    assert (found[0].borrowed_tokens, found[0].total_tokens, pool.size()) == (1, THREADS, THREADS)


# --- HEAD -----------------------------------------------------------------------------------------


def test_head_of_a_csv_makes_none(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.api.batch_rows._AT_ONCE", 2)
    batch_id = made(asks, rows, listed(100))
    key = asks.headers["authorization"].removeprefix("Bearer ")
    pages: list[object] = []

    def counted(*asked: object) -> list[object]:
        pages.append(asked)
        return []

    monkeypatch.setattr("scheduler.campaigns.calls_by_id", counted)
    with connected(small_api.url) as raw:
        raw.send(head(f"HEAD /batches/{batch_id}/executions?format=csv", key))
        answer = raw.answer("HEAD")
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/csv; charset=utf-8", b"")
        raw.send(head("GET /healthz"))  # no byte of the first was left over
        assert raw.answer().status == 200
    assert pages == []
