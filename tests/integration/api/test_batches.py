"""Lists come in over HTTP and are called: uploads that are cut, killed or hostile leave nothing, and every state says its name."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from deploy.carrier.people import numbers
from deploy.carrier.witness import CarrierCall
from deploy.part import free_port
from scheduler import deletion, loads
from scheduler.housekeeping import Housekeeping
from tests.integration.conftest import SmallApi
from tests.integration.http import client, make_key
from tests.integration.ledger_rows import FROM, Rows
from tests.integration.system import System, until

TO = [f"+1212555{at:04}" for at in range(10_000)]


def listed(people: int, *more: str) -> str:
    return "phone_number,name,city\r\n" + "".join(f"{to},Ada,Köln\r\n" for to in TO[:people]) + "".join(more)


def post(asks: httpx.Client, rows: Rows, content: str | bytes | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if (key := fields.pop("key", None)) else {}
    name = fields.pop("file_name", "people.csv")
    data = {"agent_id": str(rows.agent), "from_phone_numbers": FROM, **fields}
    content = listed(3) if content is None else content
    given = {k: v for k, v in data.items() if v is not None}
    return asks.post("/batches", files={"file": (name, content)}, data=given, headers=headers)


def made(asks: httpx.Client, rows: Rows, content: str | bytes | None = None, **fields: Any) -> str:
    answer = post(asks, rows, content, **fields)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body == {"batch_id": body["batch_id"], "state": "created"}
    return str(UUID(body["batch_id"]))


def is_empty(rows: Rows) -> bool:
    tables = ("campaigns", "calls", "rejected_rows", "campaign_counts", "campaign_count_deltas")
    return not any(rows.all(f"SELECT 1 FROM {table} LIMIT 1") for table in tables)


def keep_house(small_api: SmallApi) -> None:
    """As the leader does it every second."""
    with small_api.database.engine.connect() as connection:
        Housekeeping(connection).keep(0)


# --- uploads --------------------------------------------------------------------------------------


def test_a_list_becomes_a_batch_that_shows_what_was_given_and_counted(asks: httpx.Client, rows: Rows) -> None:
    retry = {"enabled": True, "max_retries": 2}
    batch_id = made(
        asks,
        rows,
        listed(3, "0301,no plus,\r\n", f"{TO[0]},Again,\r\n"),
        file_name="C:\\lists\\spring\N{SNOWMAN}.csv",
        webhook_url="https://example.com/calls",
        retry_config=json.dumps(retry),
        max_concurrent_calls=7,
    )
    shown = asks.get(f"/batches/{batch_id}").json()
    assert {key: shown[key] for key in ("batch_id", "name", "status", "agent_id", "from_phone_numbers")} == {
        "batch_id": batch_id,
        "name": batch_id,
        "status": "ready",
        "agent_id": str(rows.agent),
        "from_phone_numbers": [FROM],
    }
    counts = ("total_contacts", "valid_contacts", "rejected", "duplicate", "suppressed", "max_concurrent_calls")
    assert [shown[key] for key in counts] == [5, 3, 1, 1, 0, 7]
    assert shown["execution_status"]["scheduled"] == 3
    assert shown["execution_status"].keys() >= {"queued", "in-progress", "no-answer", "unknown"}
    assert (shown["file_name"], shown["webhook_url"]) == ("spring\N{SNOWMAN}.csv", "https://example.com/calls")
    assert shown["retry_config"].items() >= retry.items()
    assert shown["created_at"].endswith("Z")
    assert rows.all("SELECT phone_number, name, variables FROM calls ORDER BY 1") == [
        (to, "Ada", {"city": "Köln"}) for to in TO[:3]
    ]


def test_one_from_number_may_be_given_by_its_singular_name(asks: httpx.Client, rows: Rows) -> None:
    batch_id = made(asks, rows, from_phone_numbers=None, from_phone_number=FROM, name="mine")
    shown = asks.get(f"/batches/{batch_id}").json()
    assert (shown["from_phone_numbers"], shown["name"]) == ([FROM], "mine")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("phone_number,name\r\n", "no other"),
        (f"{TO[0]},Ada\r\n", "no column with phone numbers"),
        (b"PK\x03\x04" + bytes(2000), "spreadsheet"),
        (os.urandom(1 << 20), "not"),
        (b"phone_number\r\n" + b"\xff\xfe\r\n" * 50_000, "UTF-8"),
        ("phone_number\r\n" + "1" * 2_000_000, "longer than 1 MB"),
    ],
    ids=["empty", "header alone", "no header", "spreadsheet", "noise", "not UTF-8", "one long line"],
)
def test_a_file_that_is_no_list_is_refused_and_leaves_nothing(
    asks: httpx.Client, rows: Rows, content: str | bytes, said: str
) -> None:
    refused = post(asks, rows, content)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"] == "file"
    assert said in refused.json()["errors"][0]["detail"]
    assert is_empty(rows)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"agent_id": None}, "agent_id"),
        ({"agent_id": "no uuid"}, "agent_id"),
        ({"agent_id": str(uuid4())}, "agent_id"),
        ({"from_phone_numbers": None}, "from_phone_numbers"),
        ({"from_phone_numbers": "+49301234567"}, "from_phone_numbers"),
        ({"from_phone_numbers": "\0"}, "from_phone_numbers"),
        ({"name": "a\0b"}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url"),
        ({"retry_config": "{"}, "retry_config"),
        ({"retry_config": "[" * 5000}, "retry_config"),
        ({"retry_config": '{"max_retries": 1e999}'}, "retry_config.max_retries"),
        ({"retry_config": '{"other": 1}'}, "retry_config.other"),
        ({"max_concurrent_calls": "0"}, "max_concurrent_calls"),
        ({"max_concurrent_calls": "9" * 5000}, "max_concurrent_calls"),
        ({"other": "1"}, "other"),
    ],
)
def test_a_field_that_is_wrong_is_named_as_the_form_names_it(
    asks: httpx.Client, rows: Rows, fields: dict[str, Any], field: str
) -> None:
    refused = post(asks, rows, **fields)
    assert refused.status_code == 422, refused.text
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert is_empty(rows)


def test_forms_that_are_none_are_refused(asks: httpx.Client, rows: Rows) -> None:
    fields = {"agent_id": str(rows.agent), "from_phone_numbers": FROM}
    no_file = asks.post("/batches", files={name: (None, text) for name, text in {**fields, "file": listed(1)}.items()})
    assert (no_file.status_code, no_file.json()["errors"][0]["field"]) == (422, "file")
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
    for content, headers in [
        (b"{}", {"Content-Type": "application/json"}),
        (b"", {}),
        (b"--y--", multipart),
        (head + b"a" * 20_000 + b"\r\n--x--", multipart),
        (head * 2000 + b"\r\n--x--", multipart),
        *(
            (head + text + b"\r\n--x--\r\n", {"Content-Type": f"multipart/form-data; boundary=x; charset={codec}"})
            for text, codec in [(b"+2AA-", "utf-7"), (b"\\ud800", "unicode_escape"), (b"xn--zz-\xe9", "idna")]
        ),
        (b"--x--", {"Content-Type": "multipart/form-data"}),
    ]:
        refused = asks.post("/batches", content=content, headers=headers)
        assert refused.status_code in {400, 415, 422}, (content[:40], refused.text)
        assert "charset" not in headers.get("Content-Type", "") or "must be UTF-8" in refused.json()["detail"]
    two = asks.post("/batches", files=[("file", ("a.csv", listed(1))), ("file", ("b.csv", listed(1)))], data=fields)
    assert two.status_code == 400
    assert is_empty(rows)


def test_a_name_that_is_taken_is_refused(asks: httpx.Client, rows: Rows) -> None:
    made(asks, rows, name="spring")
    refused = post(asks, rows, name="spring")
    assert (refused.status_code, "already" in refused.json()["detail"]) == (409, True)


@contextmanager
def cut_in_the_body(url: str, key: str, rows: Rows, sent: int) -> Iterator[socket.socket]:
    """A connection with a request whose body has come in part."""
    host, _, port = url.removeprefix("http://").partition(":")
    part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}'
    body = part.format("agent_id", "", f"{rows.agent}\r\n") + part.format("from_phone_numbers", "", f"{FROM}\r\n")
    body += part.format("file", '; filename="a.csv"', listed(10_000) * 20)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 99000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        connection.sendall(body.encode()[:sent])
        yield connection


def test_a_connection_that_is_cut_in_the_body_leaves_nothing(small_api: SmallApi, rows: Rows) -> None:
    key = make_key(small_api.database.engine, "call")
    for sent in (100, 1000, 100_000, 3_000_000):
        with cut_in_the_body(small_api.url, key, rows, sent):
            pass
    with small_api.client("call") as asks:
        assert made(asks, rows)  # it is well
    assert rows.value("SELECT count(*) FROM campaigns") == 1


# --- an API that is killed ------------------------------------------------------------------------


@contextmanager
def api_process(small_api: SmallApi, tmp_path: Path, code: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`trunkline run api` in a process of its own, after this code."""
    port = free_port()
    settings = small_api.settings
    assert settings.database_url
    assert settings.redis_url
    environment = {
        **os.environ,
        "TRUNKLINE_HOME": str(tmp_path / "its home"),
        "TRUNKLINE_API_BIND": f"127.0.0.1:{port}",
        "TRUNKLINE_DATABASE_URL": settings.database_url.get_secret_value(),
        "TRUNKLINE_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    program = f"{code}\nfrom deploy.main import main\nimport sys\nsys.argv[1:] = ['run', 'api']\nmain()"
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url), what="the API answers")
        yield process, url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


SLOW = "from scheduler import intake; intake.CHUNK_ROWS = 5; import scheduler.loads as l, time; w = l.Load.write\ndef slow(*a): w(*a); time.sleep(0.2)\nl.Load.write = slow"


def asking_in_the_background(url: str, api_key: str, rows: Rows, **fields: Any) -> threading.Thread:
    def ask() -> None:
        with client(url, api_key) as asks, suppress(httpx.TransportError):
            post(asks, rows, listed(2000), **fields)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_how_far_a_list_is_loaded_can_be_read_and_a_killed_api_leaves_nothing(
    small_api: SmallApi, rows: Rows, tmp_path: Path
) -> None:
    key = make_key(small_api.database.engine, "call")
    with api_process(small_api, tmp_path, SLOW) as (process, url), small_api.client("read") as asks:
        thread = asking_in_the_background(url, key, rows)

        def first() -> Any:
            return next(iter(asks.get("/batches").json()["data"]), None)

        loading = until(first, what="it is listed")
        assert loading["status"] == "loading"
        so_far = until(lambda: first()["total_contacts"], what="rows are counted")
        until(lambda: first()["total_contacts"] > so_far, what="more rows are counted")
        assert asks.get(f"/batches/{loading['batch_id']}").json()["valid_contacts"] < 2000
        with small_api.client("call") as acts:
            refused = acts.post(f"/batches/{loading['batch_id']}/schedule")
            assert (refused.status_code, refused.json()["detail"]) == (409, "batch is not ready: it is loading")
            assert acts.delete(f"/batches/{loading['batch_id']}").status_code == 409
        process.kill()
        thread.join()

        def gone() -> bool:
            keep_house(small_api)
            return is_empty(rows)

        until(gone, what="the leader removes what is there")
        assert asks.get(f"/batches/{loading['batch_id']}").status_code == 404


def test_a_body_is_kept_under_the_home_in_a_file_without_a_name(
    small_api: SmallApi, rows: Rows, tmp_path: Path
) -> None:
    key = make_key(small_api.database.engine, "call")
    with api_process(small_api, tmp_path) as (process, url):

        def files() -> list[str]:
            directory = Path(f"/proc/{process.pid}/fd")
            if not directory.exists():
                pytest.skip("the files of a process are seen in /proc only")
            return [os.readlink(file) for file in directory.iterdir() if "uploads" in os.readlink(file)]

        with cut_in_the_body(url, key, rows, 3_000_000):
            (kept,) = until(files, what="the body is on the disk")
            assert kept.startswith(str(tmp_path / "its home" / "uploads"))
            assert kept.endswith("(deleted)")
        until(lambda: not files(), what="it is gone")
        assert list((tmp_path / "its home" / "uploads").iterdir()) == []
    assert is_empty(rows)


def test_a_long_list_is_never_whole_in_memory(small_api: SmallApi, rows: Rows, tmp_path: Path) -> None:
    key, people, longest = make_key(small_api.database.engine, "call"), 100_000, "x" * 500
    with api_process(small_api, tmp_path) as (process, url), client(url, key) as asks:
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("the memory of a process is seen in /proc only")

        def peak() -> int:
            (found,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            return int(found) * 1024

        made(asks, rows, listed(1000))  # what any upload needs
        before = peak()
        content = "phone_number,note\n" + "".join(f"+1212{2_000_000 + at},{longest}\n" for at in range(people))
        batch_id = made(asks, rows, content)
        grown = peak() - before
    assert rows.value("SELECT accepted FROM campaigns WHERE id = %(id)s", id=batch_id) == people
    assert grown < len(content) * 3 / 4, f"{grown / 1e6:.0f} MB for a file of {len(content) / 1e6:.0f} MB"


# --- Idempotency-Key ------------------------------------------------------------------------------


def test_the_same_key_and_body_make_one_batch_and_another_body_is_refused(asks: httpx.Client, rows: Rows) -> None:
    first = made(asks, rows, key="k 1")
    assert made(asks, rows, key="k 1") == first
    assert made(asks, rows, key="k 2") != first
    for other in ({"content": listed(4)}, {"name": "other"}, {"max_concurrent_calls": 3}):
        refused = post(asks, rows, key="k 1", **other)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert rows.value("SELECT count(*) FROM campaigns") == 2
    assert asks.delete(f"/batches/{first}").status_code == 200
    assert made(asks, rows, key="k 1") == first, "deleted, it is not made again"
    assert rows.value("SELECT count(*) FROM campaigns") == 1


def test_a_key_is_good_again_after_a_request_that_was_refused(asks: httpx.Client, rows: Rows) -> None:
    taken = made(asks, rows, name="spring")
    assert post(asks, rows, name="spring", key="k").status_code == 409
    assert asks.delete(f"/batches/{taken}").status_code == 200
    made(asks, rows, name="spring", key="k")


def test_a_load_under_way_is_told_from_one_that_died_which_is_loaded_again_under_its_id(
    small_api: SmallApi, rows: Rows, tmp_path: Path
) -> None:
    key = make_key(small_api.database.engine, "call")
    with api_process(small_api, tmp_path, SLOW) as (process, url), client(small_api.url, key) as asks:
        thread = asking_in_the_background(url, key, rows, key="k")
        until(lambda: rows.all("SELECT 1 FROM calls"), what="it is loading")
        batch_id = str(rows.value("SELECT id FROM campaigns"))
        slow = post(asks, rows, listed(2000), key="k")
        assert (slow.status_code, int(slow.headers["Retry-After"]) > 0) == (409, True), slow.text
        process.kill()
        thread.join()

        def again() -> httpx.Response | None:
            answer = post(asks, rows, listed(2000), key="k")
            return answer if answer.status_code == 201 else None

        loaded = until(again, what="Postgres has noticed")
        assert loaded is not None
        assert loaded.json()["batch_id"] == batch_id
        assert rows.all("SELECT id::text, status, accepted FROM campaigns") == [(batch_id, "ready", 2000)]
        assert asks.get(f"/batches/{batch_id}").json()["execution_status"]["scheduled"] == 2000


def test_many_who_ask_at_once_with_one_key_get_one_batch(small_api: SmallApi, rows: Rows) -> None:
    key = make_key(small_api.database.engine, "call")
    got: list[httpx.Response] = []

    def ask() -> None:
        with client(small_api.url, key) as asks:
            got.append(post(asks, rows, listed(500), key="k"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in got} <= {201, 409}
    assert len({answer.json()["batch_id"] for answer in got if answer.status_code == 201}) == 1
    assert rows.all("SELECT status, accepted FROM campaigns") == [("ready", 500)]


# --- states ---------------------------------------------------------------------------------------


def detail(answer: httpx.Response, status: int = 409) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["detail"])


def test_a_batch_goes_through_its_states_and_each_refusal_names_the_state(asks: httpx.Client, rows: Rows) -> None:
    batch = f"/batches/{made(asks, rows)}"
    assert detail(asks.post(f"{batch}/pause")) == "batch is not running: it is ready"
    assert detail(asks.post(f"{batch}/resume")) == "batch is not paused: it is ready"
    assert asks.post(f"{batch}/schedule").json() == {"message": "success", "state": "running", "scheduled_at": None}
    assert detail(asks.post(f"{batch}/schedule", json={})) == "batch is not ready: it is running"
    assert detail(asks.delete(batch)) == "batch is not ready or completed or stopped: it is running"
    paused = asks.post(f"{batch}/pause").json()
    assert paused == {"message": "success", "state": "paused", "withdrawn": 0, "canceled": 0, "still_up": 0}
    assert asks.post(f"{batch}/pause").status_code == 200, "twice is as good as once"
    assert detail(asks.delete(batch)) == "batch is not ready or completed or stopped: it is paused"
    assert asks.post(f"{batch}/resume").json()["state"] == "running"
    stopped = asks.post(f"{batch}/stop", json={"hang_up": True}).json()
    assert (stopped["state"], stopped["canceled"]) == ("stopped", 3)
    assert detail(asks.post(f"{batch}/resume")) == "batch is not paused: it is stopped"
    assert asks.delete(batch).json() == {"message": "success", "state": "deleted"}
    for answer in (asks.get(batch), asks.post(f"{batch}/stop"), asks.delete(batch), asks.get(f"{batch}/executions")):
        assert detail(answer, 404).startswith("batch: there is no batch")


def test_nothing_is_started_without_an_asterisk_that_is_listened_to(asks: httpx.Client, rows: Rows) -> None:
    batch_id = made(asks, rows)
    rows.run("UPDATE nodes SET heard_at = NULL")
    assert detail(asks.post(f"/batches/{batch_id}/schedule"), 503).startswith("Asterisk: no node")
    assert asks.get(f"/batches/{batch_id}").json()["status"] == "ready"


@pytest.mark.parametrize(
    "at",
    [
        *("2030-01-01T00:00:00", "tomorrow", 1_900_000_000, "1900000000", "", "2030-13-01T00:00:00Z", "\ud800", [], {}),
        *("9999-12-31T23:59:59-23:59", "2222-02-22T22:22:22Z"),
    ],
)
def test_a_time_that_is_none_is_refused(asks: httpx.Client, rows: Rows, at: object) -> None:
    batch_id = made(asks, rows)
    content = json.dumps({"scheduled_at": at})
    refused = asks.post(f"/batches/{batch_id}/schedule", content=content, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"].startswith("scheduled_at")
    assert asks.get(f"/batches/{batch_id}").json()["status"] == "ready"


FORMS = {"urlencoded": "application/x-www-form-urlencoded", "multipart": "multipart/form-data"}


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_schedules_a_batch_as_json_does(asks: httpx.Client, rows: Rows, kind: str) -> None:
    batch = f"/batches/{made(asks, rows)}"
    assert asks.get(batch).json()["bypass_call_guardrails"] is False

    def schedules(**fields: str) -> httpx.Response:
        if kind == "urlencoded":
            return asks.post(f"{batch}/schedule", data=fields)
        return asks.post(f"{batch}/schedule", files={name: (None, text) for name, text in fields.items()})

    at = (datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)).isoformat()
    answer = schedules(scheduled_at=at, bypass_call_guardrails="true")
    assert answer.request.headers["content-type"].startswith(FORMS[kind])
    assert (answer.status_code, answer.json()["state"]) == (200, "scheduled"), answer.text
    shown = asks.get(batch).json()
    assert (shown["status"], shown["bypass_call_guardrails"]) == ("scheduled", True)
    assert datetime.fromisoformat(shown["scheduled_at"]) == datetime.fromisoformat(at)
    calls = asks.get(f"{batch}/executions").json()["data"]
    assert [call["bypass_call_guardrails"] for call in calls] == [True] * 3

    for fields, field in [
        ({"scheduled_at": "tomorrow"}, "scheduled_at"),
        ({"scheduled_at": ""}, "scheduled_at"),
        ({"scheduled_at": at, "bypass_call_guardrails": "maybe"}, "bypass_call_guardrails"),
        ({"scheduled_at": at, "schedule_at": at}, "schedule_at"),
        ({"scheduled_at": "2222-02-22T22:22:22Z"}, "scheduled_at"),
    ]:
        refused = schedules(**fields)
        assert (refused.status_code, [each["field"] for each in refused.json()["errors"]]) == (422, [field]), fields
    assert asks.get(batch).json() == shown, "nothing was written"

    assert schedules(scheduled_at=at).status_code == 200
    assert asks.get(batch).json()["bypass_call_guardrails"] is False, "each time it is as it was said"
    assert schedules(scheduled_at="2020-01-01T00:00:00Z", bypass_call_guardrails="True").json()["state"] == "running"
    assert asks.get(batch).json()["bypass_call_guardrails"] is True
    assert detail(schedules(scheduled_at=at)) == "batch is not ready: it is running"


def test_what_is_no_form_starts_nothing(asks: httpx.Client, rows: Rows) -> None:
    batch = f"/batches/{made(asks, rows)}"
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    multipart, urlencoded = "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"
    head = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    moment = head.format("scheduled_at", at)
    for content, content_type, status in [
        (moment, multipart, 400),  # cut: no end
        (head.format("bypass_call_guardrails", "true") + moment[:-3], multipart, 400),
        ("--y--", multipart, 400),
        ("x", "multipart/form-data", 400),
        (moment + "--x--", f"{multipart}; charset=utf-7", 400),
        (moment + moment + "--x--", multipart, 422),
        ("scheduled_at=&scheduled_at=", urlencoded, 422),
        ("a" * 20_000, urlencoded, 413),
        ("scheduled_at=" + "%00", urlencoded, 422),
        ("%00=1", urlencoded, 422),
        ("{}", "text/plain", 415),
        ("{}", "", 415),
        ("[]", "application/json", 422),
        ("null", "application/json", 422),
        ('{"bypass_call_guardrails": "true"}', "application/json", 422),
    ]:
        refused = asks.post(f"{batch}/schedule", content=content, headers={"Content-Type": content_type})
        assert refused.status_code == status, (content[:60], refused.text)
    file = asks.post(f"{batch}/schedule", files={"scheduled_at": ("at.txt", at)})
    assert (file.status_code, file.json()["detail"]) == (422, "scheduled_at: must be text, not a file")
    assert asks.get(batch).json()["status"] == "ready"


def test_guardrails_that_a_scheduled_batch_bypasses_stay_so_when_it_starts(
    small_api: SmallApi, asks: httpx.Client, rows: Rows
) -> None:
    batch = f"/batches/{made(asks, rows)}"
    soon = {"scheduled_at": (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat(), "bypass_call_guardrails": True}
    assert asks.post(f"{batch}/schedule", json=soon).status_code == 200

    def runs() -> bool:
        keep_house(small_api)
        return bool(asks.get(batch).json()["status"] == "running")

    until(runs, what="the leader starts it")
    assert asks.get(batch).json()["bypass_call_guardrails"] is True


def test_a_batch_is_scheduled_scheduled_anew_and_started_when_its_time_has_come(
    small_api: SmallApi, asks: httpx.Client, rows: Rows
) -> None:
    batch_id = made(asks, rows)
    far = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    east = far.astimezone(datetime.strptime("+0530", "%z").tzinfo).isoformat()
    answer = asks.post(f"/batches/{batch_id}/schedule", json={"scheduled_at": east}).json()
    assert (answer["state"], answer["scheduled_at"]) == ("scheduled", far.isoformat().replace("+00:00", "Z"))
    shown = asks.get(f"/batches/{batch_id}").json()
    assert (shown["status"], shown["scheduled_at"]) == ("scheduled", answer["scheduled_at"])
    (holdup,) = asks.get(f"/batches/{batch_id}/explain").json()["holdups"]
    assert (holdup["what"], holdup["until"], "starts by itself" in holdup["sentence"]) == (
        "ready",
        answer["scheduled_at"],
        True,
    )
    keep_house(small_api)
    assert asks.get(f"/batches/{batch_id}").json()["status"] == "scheduled"
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    assert asks.post(f"/batches/{batch_id}/schedule", json={"scheduled_at": soon.isoformat()}).status_code == 200
    rows.run("INSERT INTO agent_health (agent_id, failures, last_failure_at) VALUES (%(a)s, 1, now())", a=rows.agent)

    def runs() -> bool:
        keep_house(small_api)
        return bool(asks.get(f"/batches/{batch_id}").json()["status"] == "running")

    until(runs, what="the leader starts it")
    assert datetime.now(UTC) >= soon
    assert rows.all("SELECT 1 FROM agent_health") == [], "as by hand: what its agent missed before says nothing of now"
    assert asks.get(f"/batches/{batch_id}").json()["started_at"]


def test_one_that_is_started_by_hand_before_its_time_is_not_shown_as_waiting(asks: httpx.Client, rows: Rows) -> None:
    batch_id = made(asks, rows)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert asks.post(f"/batches/{batch_id}/schedule", json={"scheduled_at": later}).status_code == 200
    assert asks.post(f"/batches/{batch_id}/schedule", json={"scheduled_at": "2020-01-01T00:00:00Z"}).status_code == 200
    shown = asks.get(f"/batches/{batch_id}").json()
    assert (shown["status"], shown["scheduled_at"]) == ("running", None)


# --- deleting -------------------------------------------------------------------------------------


def test_a_deleted_batch_is_removed_piece_by_piece_by_whoever_leads(
    small_api: SmallApi, asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = made(asks, rows), made(asks, rows, listed(50, *["0301,no plus,\r\n"] * 50), name="gone")
    rows.run("UPDATE campaigns SET status = 'running' WHERE name = 'gone'")
    (attempt,) = rows.grant(UUID(gone), most=1)
    rows.run("UPDATE campaigns SET status = 'completed' WHERE name = 'gone'")
    assert "1 call still up" in detail(asks.delete(f"/batches/{gone}"))
    rows.run("UPDATE attempts SET status = 'withdrawn', hold_until = now() WHERE id = %(id)s", id=attempt)
    assert "1 call still up" in detail(asks.delete(f"/batches/{gone}")), "it awaits its second look"
    rows.run("UPDATE attempts SET hold_until = NULL")
    assert asks.delete(f"/batches/{gone}").status_code == 200
    assert asks.get(f"/batches/{gone}").status_code == 404
    assert [batch["batch_id"] for batch in asks.get("/batches").json()["data"]] == [kept]
    assert made(asks, rows, name="gone") != gone, "its name is free"

    monkeypatch.setattr(deletion, "_PIECE", 20)
    pieces = 0

    def cut(connection: Any, campaign_id: UUID, limit: int) -> bool:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise KeyboardInterrupt
        return loads.remove_piece(connection, campaign_id, limit)

    monkeypatch.setattr(deletion, "remove_piece", cut)
    with small_api.database.engine.connect() as connection, pytest.raises(KeyboardInterrupt):
        deletion.remove_deleted(connection)
    of_gone = "SELECT count(*) FROM {} WHERE campaign_id = %(id)s"
    assert rows.value(of_gone.format("calls"), id=gone) == 10

    def emptied() -> bool:
        keep_house(small_api)
        return bool(rows.all("SELECT 1 FROM deleted_campaigns WHERE emptied_at IS NOT NULL"))

    until(emptied, what="the next leader goes on")
    for table in ("calls", "attempts", "rejected_rows", "campaign_counts", "campaign_count_deltas"):
        assert rows.value(of_gone.format(table), id=gone) == 0, table
    assert rows.value(of_gone.format("calls"), id=kept) == 3
    assert asks.get(f"/batches/{kept}").json()["execution_status"]["scheduled"] == 3


# --- lists ----------------------------------------------------------------------------------------


def test_batches_are_paged_the_newest_first(asks: httpx.Client, rows: Rows) -> None:
    ids = [made(asks, rows) for _ in range(5)]
    pages = list(paged(asks, "/batches", limit=2))
    assert [[batch["batch_id"] for batch in page] for page in pages] == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    other = uuid4()
    rows.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, 'other', 'playback://x')", id=other)
    assert [batch["batch_id"] for batch in asks.get(f"/batches/{rows.agent}/all").json()] == ids[::-1]
    cut = asks.get(f"/batches/{rows.agent}/all", params={"limit": 2, "cursor": ids[2]}).json()
    assert [batch["batch_id"] for batch in cut] == ids[1::-1]
    assert asks.get(f"/batches/{other}/all").json() == []
    assert asks.get(f"/batches/{uuid4()}/all").status_code == 404


def paged(asks: httpx.Client, path: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    cursor = None
    while True:
        answer = asks.get(path, params={**query, **({"cursor": cursor} if cursor is not None else {})})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page["data"]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            return


def next_of(number: str, rows: Rows) -> str:
    return str(rows.value("SELECT id FROM calls WHERE phone_number = %(n)s", n=number))


def test_calls_are_paged_in_a_lasting_order_by_status_or_all(
    asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = made(asks, rows, listed(25))
    busy = TO[3:25:10]
    rows.run(
        "UPDATE calls SET status = 'queued'; UPDATE calls SET status = 'busy', disposition = 'busy', ended_at = now()"
        f" WHERE phone_number IN ({', '.join(map(repr, busy))})"
    )
    path = f"/batches/{batch_id}/executions"

    def people(page: list[dict[str, Any]]) -> list[str]:
        return [one["recipient"]["phone_number"] for one in page]

    pages = [people(page) for page in paged(asks, path, limit=10)]
    assert pages == [TO[:10], TO[10:20], TO[20:25]]
    monkeypatch.setattr("scheduler.batches._MOST_LOOKED_AT", 8)
    found = list(paged(asks, path, limit=2, status="busy"))
    assert [number for page in found for number in people(page)] == busy
    assert {one["status"] for page in found for one in page} == {"busy"}
    assert {one["batch_id"] for page in found for one in page} == {batch_id}
    assert asks.get(f"{path}?status=failed").json() == {
        "data": [],
        "has_more": True,
        "next_cursor": next_of(TO[7], rows),
    }
    for wrong in ("status=nonsense", f"cursor={uuid4()}", "cursor=x", "limit=0", f"limit={10**30}", "format=xml"):
        assert asks.get(f"{path}?{wrong}").status_code == 422


def test_calls_come_as_one_csv_whole(asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.api.batch_rows._AT_ONCE", 100)
    batch_id = made(asks, rows, listed(250))
    for answer in (
        asks.get(f"/batches/{batch_id}/executions", params={"format": "csv"}),
        asks.get(f"/batches/{batch_id}/executions", headers={"Accept": "text/csv"}),
    ):
        assert answer.headers["content-type"].startswith("text/csv")
        found = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["phone_number"] for row in found] == TO[:250]
        assert {row["status"] for row in found} == {"scheduled"}
    assert asks.get(f"/batches/{uuid4()}/executions", params={"format": "csv"}).status_code == 404


def test_no_name_is_a_formula_in_a_spreadsheet_and_a_number_is_a_number(asks: httpx.Client, rows: Rows) -> None:
    names = ['=HYPERLINK("http://example.com/?"&B2)', "+1+1", "-1+1", "@SUM(1)", "Ada = Eve", "+12125550199"]
    file = io.StringIO()
    csv.writer(file).writerows([["phone_number", "name"], *zip(TO, names, strict=False)])
    batch_id = made(asks, rows, file.getvalue())
    found = list(csv.DictReader(io.StringIO(asks.get(f"/batches/{batch_id}/executions?format=csv").text)))
    assert [row["name"] for row in found] == [f"'{name}" for name in names[:4]] + names[4:]
    assert [row["phone_number"] for row in found] == TO[: len(names)]
    assert rows.value("SELECT name FROM calls WHERE phone_number = %(n)s", n=TO[0]) == names[0], "a reading, no change"
    told = asks.get(f"/batches/{batch_id}/executions").json()["data"]
    assert [one["recipient"]["name"] for one in told] == names, "no spreadsheet reads JSON"


def test_a_slow_reader_of_a_csv_holds_no_transaction(small_api: SmallApi, rows: Rows) -> None:
    """One that did would be thrown out by Postgres after four seconds."""
    batch_id = rows.campaign(20_000, "ready")
    rows.run("UPDATE calls SET name = repeat('x', 1000)")  # more than sockets buffer
    owner = psycopg.connect(small_api.database.owner_url, autocommit=True)  # others are not shown what sessions do
    with small_api.client("read") as asks, owner:
        asking = asks.stream("GET", f"/batches/{batch_id}/executions", params={"format": "csv"})
        with asking as answer:
            pieces = answer.iter_bytes()
            first = next(pieces)

            def nobody_is_in_a_transaction() -> bool:
                open_ones = owner.execute(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'trunkline-api' AND state <> 'idle'"
                )
                return not open_ones.fetchall()

            until(nobody_is_in_a_transaction, what="it waits for its reader")
            text = (first + b"".join(pieces)).decode()
    assert text.count("\r\n") == 20_001


def test_rejected_rows_are_paged_and_come_as_a_csv_that_can_be_mended(
    asks: httpx.Client, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.api.batch_rows._AT_ONCE", 2)
    batch_id = made(asks, rows, listed(2, *[f"030{at},no plus,\r\n" for at in range(5)]))
    pages = list(paged(asks, f"/batches/{batch_id}/rejected", limit=2))
    assert [[row["line_number"] for row in page] for page in pages] == [[4, 5], [6, 7], [8]]
    assert {(row["kind"], "no +" in row["reason"]) for page in pages for row in page} == {("rejected", True)}
    answer = asks.get(f"/batches/{batch_id}/rejected", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert len(list(csv.DictReader(io.StringIO(answer.text)))) == 5
    mended = made(asks, rows, answer.text.replace(",030", ",+1212555010"))
    assert asks.get(f"/batches/{mended}").json()["valid_contacts"] == 5


def test_what_holds_a_batch_back_is_said(asks: httpx.Client, rows: Rows) -> None:
    batch_id = made(asks, rows)
    asks.post(f"/batches/{batch_id}/schedule")
    said = asks.get(f"/batches/{batch_id}/explain").json()
    assert (said["batch_id"], said["status"]) == (batch_id, "running")
    assert "no-scheduler" in {holdup["what"] for holdup in said["holdups"]}
    assert asks.get(f"/batches/{uuid4()}/explain").status_code == 404


def test_unknown_calls_are_decided_on(asks: httpx.Client, rows: Rows) -> None:
    campaign_id = rows.campaign(3)
    attempts = rows.grant(campaign_id)
    rows.claim(attempts)
    rows.run("UPDATE attempts SET status = 'unknown', hold_until = now() + interval '1 minute', ended_at = now()")
    rows.run("UPDATE calls SET status = 'unknown', ended_at = now()")
    batch = f"/batches/{campaign_id}"
    one = str(rows.call_of(attempts[0]).id)
    left = asks.post(f"{batch}/resolve", json={"decision": "leave", "call_ids": [one]}).json()
    assert (left["left"], left["called_again"]) == (1, 0)
    rows.run("UPDATE attempts SET initiated_at = now() - interval '1 day'")  # over, whatever its node says
    again = asks.post(f"{batch}/resolve", json={"decision": "call-again"}).json()
    assert (again["called_again"], again["not_known"]) == (3, 0)
    assert asks.get(batch).json()["execution_status"]["scheduled"] == 3
    assert detail(asks.post(f"{batch}/resolve", json={"decision": "leave", "call_ids": [one]})).startswith("call:")
    for body in ({"decision": "other"}, {}, {"decision": "leave", "call_ids": []}, {"decision": "leave", "more": 1}):
        assert asks.post(f"{batch}/resolve", json=body).status_code == 422


@pytest.mark.parametrize(
    "path", ["no-uuid", "no-uuid/executions", "no-uuid/all", "00000000-0000-7000-8000-00000000000g"]
)
def test_an_id_that_is_none_is_refused(asks: httpx.Client, path: str) -> None:
    assert asks.get(f"/batches/{path}").status_code == 422


def test_a_key_that_may_only_read_starts_nothing(small_api: SmallApi, asks: httpx.Client, rows: Rows) -> None:
    batch_id = made(asks, rows)
    with small_api.client("read") as reader:
        assert post(reader, rows).status_code == 403
        assert reader.post(f"/batches/{batch_id}/schedule").status_code == 403
        assert reader.delete(f"/batches/{batch_id}").status_code == 403
        assert reader.get(f"/batches/{batch_id}").status_code == 200


# --- for real -------------------------------------------------------------------------------------


def test_a_batch_that_is_scheduled_is_called_at_its_time_and_never_before(api: httpx.Client, system: System) -> None:
    from_number = system.add_trunk("scheduled batch", slots=10)
    agent_id = system.add_agent("scheduled batch", "playback://hello-world")
    to = numbers({"01": 12, "86": 5, "04": 3})
    answer = api.post(
        "/batches",
        files={"file": ("people.csv", "phone_number\n" + "\n".join(to) + "\n")},
        data={"agent_id": str(agent_id), "from_phone_numbers": [from_number]},
    )
    assert answer.status_code == 201, answer.text
    batch = f"/batches/{answer.json()['batch_id']}"
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    assert api.post(f"{batch}/schedule", json={"scheduled_at": at.isoformat()}).json()["state"] == "scheduled"
    until(lambda: api.get(batch).json()["status"] == "completed", within=60, what="it is over")
    carried = [call for call in system.carrier_calls() if call.number in set(to)]
    assert sorted(call.number for call in carried) == sorted(to), "everybody once"
    assert min(call.invited_at for call in carried) >= at.timestamp()
    assert min(call.invited_at for call in carried) < at.timestamp() + 5
    shown = api.get(batch).json()
    assert {word: n for word, n in shown["execution_status"].items() if n} == {"completed": 12, "busy": 5, "failed": 3}
    executions = [one for page in paged(api, f"{batch}/executions", limit=7) for one in page]
    assert {one["recipient"]["phone_number"] for one in executions} == set(to)
    assert {one["telephony_data"]["from_number"] for one in executions} == {from_number}
    assert api.delete(batch).status_code == 200
    gone = "SELECT count(*) FROM calls WHERE campaign_id = %(id)s"
    until(lambda: not system.value(gone, id=batch.rpartition("/")[2]), what="the leader removes its calls")
    assert api.get(batch).status_code == 404


def test_a_batch_is_paused_resumed_and_hung_up_while_its_calls_are_up(api: httpx.Client, system: System) -> None:
    """Two at a time: nobody of the other two is called while it is paused, nor after the stop."""
    from_number = system.add_trunk("batch held up", slots=10)
    agent_id = system.add_agent("batch held up", "playback://demo-congrats")
    to = numbers({"00": 6})
    answer = api.post(
        "/batches",
        files={"file": ("people.csv", "phone_number\n" + "\n".join(to) + "\n")},
        data={"agent_id": str(agent_id), "from_phone_numbers": [from_number], "max_concurrent_calls": "2"},
    )
    assert answer.status_code == 201, answer.text
    batch = f"/batches/{answer.json()['batch_id']}"

    def up() -> int:
        return int(api.get(batch).json()["execution_status"]["in-progress"])

    assert api.post(f"{batch}/schedule").json()["state"] == "running"
    until(lambda: up() == 2, what="two talk")
    paused = api.post(f"{batch}/pause").json()
    assert (paused["state"], paused["still_up"], paused["canceled"]) == ("paused", 2, 0)
    assert sorted(call.end or "up" for call in carried(system, to)) == ["up", "up"], "those that are up go on"
    first = [execution["id"] for execution in in_progress(api, batch)]
    for id in first:
        assert api.post(f"/call/{id}/stop").json()["status"] == "completed"
    assert len(carried(system, to)) == 2, "their slots are free, and nobody is called"
    assert api.post(f"{batch}/resume").json()["state"] == "running"
    until(lambda: up() == 2, what="the next two talk")
    stopped = api.post(f"{batch}/stop", json={"hang_up": True}).json()
    assert (stopped["state"], stopped["still_up"], stopped["canceled"]) == ("stopped", 0, 2)
    seen = carried(system, to)
    assert len(seen) == len({call.number for call in seen}) == 4
    assert [call.end for call in seen] == ["bye-received"] * 4
    assert {word: n for word, n in api.get(batch).json()["execution_status"].items() if n} == {
        "completed": 4,
        "canceled": 2,
    }
    assert {one["telephony_data"]["hangup_by"] for one in api.get(f"{batch}/executions").json()["data"]} == {"operator"}


def test_a_batch_that_is_stopped_without_hanging_up_says_how_many_are_up(api: httpx.Client, system: System) -> None:
    from_number = system.add_trunk("batch stopped", slots=10)
    agent_id = system.add_agent("batch stopped", "playback://demo-congrats")
    to = numbers({"00": 2})
    answer = api.post(
        "/batches",
        files={"file": ("people.csv", "phone_number\n" + "\n".join(to) + "\n")},
        data={"agent_id": str(agent_id), "from_phone_numbers": [from_number]},
    )
    batch = f"/batches/{answer.json()['batch_id']}"
    api.post(f"{batch}/schedule")
    until(lambda: len(in_progress(api, batch)) == 2, what="both talk")
    stopped = api.post(f"{batch}/stop").json()
    assert (stopped["state"], stopped["still_up"]) == ("stopped", 2)
    assert [call.end for call in carried(system, to)] == [None, None]
    assert api.post(f"{batch}/stop", json={"hang_up": True}).json()["still_up"] == 0, "it may be said again"
    assert [call.end for call in carried(system, to)] == ["bye-received"] * 2


def carried(system: System, to: Sequence[str]) -> list[CarrierCall]:
    """What the carrier has seen of these people."""
    return [call for call in system.carrier_calls() if call.number in set(to)]


def in_progress(api: httpx.Client, batch: str) -> list[Any]:
    return list(api.get(f"{batch}/executions", params={"status": "in-progress"}).json()["data"])


def test_what_holds_a_batch_back_is_what_the_command_line_says(api: httpx.Client, system: System) -> None:
    from_number = system.add_trunk("batch explained", slots=1)
    agent_id = system.add_agent("batch explained", "playback://demo-congrats")
    to = numbers({"00": 3})
    answer = api.post(
        "/batches",
        files={"file": ("people.csv", "phone_number\n" + "\n".join(to) + "\n")},
        data={"agent_id": str(agent_id), "from_phone_numbers": [from_number], "name": "explained"},
    )
    batch = f"/batches/{answer.json()['batch_id']}"

    def told() -> list[Any]:
        of_command = json.loads(system.trunkline("explain", "explained", "--json"))["holdups"]
        of_api = api.get(f"{batch}/explain").json()["holdups"]
        assert of_api == of_command
        return list(of_api)

    assert [holdup["what"] for holdup in told()] == ["ready"]
    api.post(f"{batch}/schedule")
    until(lambda: len(in_progress(api, batch)) == 1, what="the trunk is full")
    assert [(holdup["what"], holdup["count"], holdup["limit"]) for holdup in told()] == [("trunk-full", 1, 1)]
    system.trunkline("trunk", "disable", "batch explained")
    assert [holdup["what"] for holdup in told()] == ["trunk-off"]
    api.post(f"{batch}/stop", json={"hang_up": True})
    assert [holdup["what"] for holdup in told()] == ["stopped"]
