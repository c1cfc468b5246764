"""The command line against a real Postgres and a real Valkey: what it writes, what it refuses, what it never shows."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import Engine

from deploy.embedded.valkey import Valkey
from deploy.part import free_port, running
from models.database import sqlalchemy_url
from models.settings import Settings
from models.slots import Bell, connect
from scheduler import keys, single
from scheduler.cli.app import app, run
from scheduler.single import CallState
from tests.integration.conftest import Database
from tests.integration.system import until

OURS, THEIRS = "+4930123456", "+4930654321"


@dataclass(frozen=True, kw_only=True)
class Ended:
    status: int
    out: str
    err: str


class Operator:
    """Types commands; `owner` sees what they have written."""

    def __init__(self, database: Database, owner: Engine, capsys: pytest.CaptureFixture[str]) -> None:
        self.settings: Settings = database.settings
        self.engine = database.engine
        self.owner = owner
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        self._capsys.readouterr()
        status = run(app, words)
        seen = self._capsys.readouterr()
        return Ended(status=status, out=seen.out, err=seen.err)

    def does(self, *words: str) -> str:
        """The command succeeds; returns what it said."""
        ended = self(*words)
        assert (ended.status, "error" in ended.err) == (0, False), ended
        return ended.out

    def is_refused(self, *words: str, status: int = 1) -> str:
        """The command fails with one line on stderr, and has written nothing; returns the line."""
        before = self.everything()
        ended = self(*words)
        assert ended.status == status, ended
        assert ended.out == ""
        assert re.fullmatch(r"error: [^\n\x00-\x1f]+\n", ended.err), ended.err
        assert self.everything() == before
        return ended.err.removeprefix("error: ").rstrip("\n")

    def everything(self) -> dict[str, Any]:
        tables = (
            "trunks",
            "trunk_gateways",
            "trunk_credentials",
            "phone_numbers",
            "agents",
            "campaigns",
            "calls",
            "rejected_rows",
            "api_keys",
        )
        with self.owner.connect() as connection:
            return {
                table: connection.exec_driver_sql(f"SELECT t::text FROM {table} t ORDER BY 1").scalars().all()
                for table in tables
            }

    def one(self, query: str, **values: Any) -> Any:
        with self.owner.begin() as connection:
            return connection.execute(text(query), values).scalar_one()

    def write(self, query: str, **values: Any) -> None:
        with self.owner.begin() as connection:
            connection.execute(text(query), values)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("valkey")
    server = Valkey(directory=directory / "data", port=free_port(), passwords=directory / "passwords.json")
    server.prepare()
    with running(server.part()):
        yield server.url


@pytest.fixture
def operator(
    database: Database, valkey: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Operator]:
    for name in [name for name in os.environ if name.startswith("TRUNKLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRUNKLINE_HOME", str(database.settings.home))
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", database.owner_url)
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", valkey)
    monkeypatch.setenv("TRUNKLINE_DIALPLAN_CONTEXTS", "bots")
    owner = create_engine(sqlalchemy_url(database.owner_url))
    with owner.begin() as connection:
        _hear(connection)
    yield Operator(database, owner, capsys)
    owner.dispose()


def _hear(connection: Connection) -> None:
    """A node with a live listener, for as long as a test takes."""
    connection.exec_driver_sql(
        "INSERT INTO nodes (name, max_calls, heard_at) VALUES ('pbx', 10, now() + interval '1 hour')"
    )


@pytest.fixture
def ready(operator: Operator) -> Operator:
    """With a trunk, a number of it, and an agent."""
    operator.does("trunk", "create", "acme", "--gateway", "sip.example.com:5080", "--auth-type", "ip-based")
    operator.does("number", "add", OURS, "--trunk", "acme")
    operator.does("agent", "create", "bot", "--connect", "playback://demo-congrats")
    return operator


def upload(operator: Operator, path: Path, content: str, *options: str, name: str = "spring") -> Ended:
    path.write_text(content)
    return operator("campaign", "upload", str(path), "--name", name, "--agent", "bot", "--from", OURS, *options)


# ------------------------------------------------------------------------------- trunks, numbers, agents


def test_a_trunk_is_made_shown_changed_and_deleted(operator: Operator) -> None:
    operator.does(
        *(
            "trunk",
            "create",
            "acme",
            "--gateway",
            "sip.example.com:5080",
            "--gateway",
            "[2001:db8::1]",
            "--auth-type",
            "userpass",
        ),
        *(
            "--username",
            "me",
            "--password",
            "s;e^c'ret",
            "--max-concurrent-calls",
            "20",
            "--max-calls-per-second",
            "2.5",
        ),
        *("--no-leading-plus", "--allow", "ulaw", "--allowed-prefix", "+49", "--allowed-prefix", "+43"),
        *("--transport", "transport-tls", "--media-encryption", "sdes", "--from-user", "me"),
        *("--description", "for spring"),
    )
    assert operator.one("SELECT auth_password FROM trunk_credentials") == "s;e^c'ret"
    assert "acme" in operator.does("trunk", "list")
    shown = operator.does("trunk", "show", "acme")
    for line in ("gateways .*sip.example.com:5080, \\[2001:db8::1\\]", "allowed_prefixes .*\\+49, \\+43", "outbound_leading_plus_enabled +no",
                 "max_calls_per_second +2.5", "media_encryption +sdes", "from_user +me", "description +for spring"):  # fmt: skip
        assert re.search(line, shown), shown
    assert "s;e^c'ret" not in shown
    assert "auth_password" not in shown

    stays = operator.one("SELECT id FROM trunk_gateways WHERE port = 5080")
    operator.does("trunk", "update", "acme", "--gateway", "other.example.com", "--gateway", "sip.example.com:5080",
                  "--rename", "new name", "--from-user", "", "--description", "", "--allowed-prefix", "", "--password", "second")  # fmt: skip
    with operator.owner.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT gateway_address, port, priority FROM trunk_gateways ORDER BY priority"
        ).all()
    assert [tuple(row) for row in rows] == [("other.example.com", None, 1), ("sip.example.com", 5080, 2)]
    assert operator.one("SELECT id FROM trunk_gateways WHERE port = 5080") == stays
    assert operator.one("SELECT auth_username || ' ' || auth_password FROM trunk_credentials") == "me second"
    assert operator.one(
        "SELECT from_user IS NULL AND description IS NULL AND allowed_prefixes IS NULL AND max_concurrent_calls = 20 FROM trunks"
    )

    operator.does("trunk", "disable", "new name")
    assert operator.one("SELECT is_active FROM trunks") is False
    operator.does("trunk", "enable", "new name")
    assert operator.one("SELECT is_active FROM trunks") is True
    operator.does("trunk", "update", "new name", "--auth-type", "ip-based")
    assert operator.one("SELECT count(*) FROM trunk_credentials") == 0

    operator.does("number", "add", OURS, "--trunk", "new name")
    assert "1 number" in operator.does("trunk", "delete", "new name")
    assert operator.everything()["phone_numbers"] == operator.everything()["trunk_gateways"] == []


def test_a_password_may_be_read_from_stdin(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a file\n"))
    operator.does(
        "trunk", "create", "a", "--gateway", "a.de", "--auth-type", "userpass", "--username", "u", "--password", "-"
    )
    assert operator.one("SELECT auth_password FROM trunk_credentials") == "from a file"


def test_a_trunk_with_open_attempts_stays(ready: Operator) -> None:
    call_id = ready.does("call", THEIRS, "--agent", "bot", "--from", OURS).strip()
    attempt = uuid4()
    ready.write(
        "INSERT INTO attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number)"
        " SELECT :id, :call, t.id, g.id, 'pbx', :to, :ours FROM trunks t JOIN trunk_gateways g ON g.trunk_id = t.id",
        id=attempt, call=call_id, to=THEIRS, ours=OURS,
    )  # fmt: skip
    assert "has 1 open call: switch it off" in ready.is_refused("trunk", "delete", "acme")
    ready.write("UPDATE attempts SET status = 'initiated'")
    ready.write("UPDATE attempts SET status = 'unknown', hold_until = now() + interval '1 minute'")
    ready.is_refused("trunk", "delete", "acme")
    ready.write("UPDATE attempts SET hold_until = now()")
    assert "1 single call waits" in ready.is_refused("trunk", "delete", "acme")
    ready.write("UPDATE calls SET status = 'canceled'")
    ready.does("trunk", "delete", "acme")


def test_numbers_and_agents_are_listed_and_removed(ready: Operator) -> None:
    ready.does("trunk", "create", "other", "--gateway", "b.de", "--auth-type", "ip-based")
    assert f"phone_number: {OURS} is already registered on trunk 'acme'" in ready.is_refused(
        "number", "add", OURS, "--trunk", "other"
    )
    assert ready.does("number", "list").splitlines()[1].split() == [OURS, "acme"]
    ready.does("number", "add", "+12025550177", "--trunk", "acme", "--name", "Support")
    assert ready.does("number", "list").splitlines()[1].split() == ["+12025550177", "acme", "Support"]
    ready.does("number", "remove", OURS)
    assert "there is no phone_number" in ready.is_refused("number", "remove", OURS)
    ready.does("agent", "create", "[red]x[/]", "--connect", "dialplan://bots/s")
    assert re.search(r"^\[red\]x\[/\] +dialplan://bots/s$", ready.does("agent", "list"), re.MULTILINE)
    assert "dialplan://bots/s" in ready.does("agent", "show", "[red]x[/]")
    ready.does("agent", "delete", "[red]x[/]")
    assert "[red]x[/]" not in ready.does("agent", "list")


def test_an_agent_changes_in_what_is_given_and_goes_back_to_its_defaults(ready: Operator) -> None:
    ready.does(
        "agent", "create", "x", "--connect", "playback://a", "--fallback", "mine/sorry", "--max-call-seconds", "90"
    )
    assert ready.does("agent", "list").splitlines()[2].split() == ["x", "playback://a", "mine/sorry", "90"]
    ready.does("agent", "update", "x", "--connect", "audiosocket://127.0.0.1:9092")
    assert ready.does("agent", "list").splitlines()[2].split() == [
        "x",
        "audiosocket://127.0.0.1:9092",
        "mine/sorry",
        "90",
    ]
    shown = ready.does("agent", "show", "x")
    assert re.search("^fallback +mine/sorry$", shown, re.MULTILINE)
    assert re.search("^max_call_seconds +90$", shown, re.MULTILINE)
    ready.does("agent", "update", "x", "--fallback", "", "--max-call-seconds", "0")
    assert ready.does("agent", "list").splitlines()[2].split() == ["x", "audiosocket://127.0.0.1:9092"]
    assert "3600" in ready.does("agent", "show", "x")
    assert "nothing to change" in ready("agent", "update", "x").err
    assert ready.is_refused("agent", "update", "nope", "--fallback", "a") == "agent: there is no agent 'nope'"
    for wrong in ("a&b", "a,b", "a b", "../a", "${X}"):
        assert ready.is_refused("agent", "update", "x", "--fallback", wrong).startswith("fallback: must be SOUND")
        assert ready.is_refused("agent", "create", "y", "--connect", "playback://a", "--fallback", wrong).startswith(
            "fallback: "
        )
    for wrong in ("-1", "86401"):
        assert ready.is_refused("agent", "update", "x", "--max-call-seconds", wrong).startswith("max_call_seconds: ")
    assert ready.is_refused("agent", "update", "x", "--connect", "dialplan://private/s").startswith("connect: ")


def test_an_agents_limit_webhook_and_name_are_given_shown_and_unset(ready: Operator) -> None:
    url = "https://example.com/calls"
    ready.does("agent", "create", "x", "--connect", "playback://a", "--max-concurrent-calls", "3", "--webhook-url", url)
    shown = ready.does("agent", "show", "x")
    assert re.search(r"^max_concurrent_calls +3$", shown, re.MULTILINE)
    assert re.search(rf"^webhook_url +{re.escape(url)}$", shown, re.MULTILINE)
    ready.does("agent", "update", "x", "--max-concurrent-calls", "4", "--rename", "y")
    shown = ready.does("agent", "show", "y")
    assert re.search(r"^max_concurrent_calls +4$", shown, re.MULTILINE)
    assert url in shown
    ready.does("agent", "update", "y", "--max-concurrent-calls", "0", "--webhook-url", "")
    shown = ready.does("agent", "show", "y")
    assert "as many as its trunks carry" in shown
    assert re.search(r"^webhook_url +none$", shown, re.MULTILINE)
    for wrong in ("-1", "100001"):
        assert ready.is_refused("agent", "update", "y", "--max-concurrent-calls", wrong).startswith(
            "max_concurrent_calls: "
        )
    assert ready.is_refused("agent", "update", "y", "--webhook-url", "ftp://a").startswith("webhook_url: ")
    assert "already an agent 'bot'" in ready.is_refused("agent", "update", "y", "--rename", "bot")


def test_an_agent_with_calls_or_campaigns_stays(ready: Operator, tmp_path: Path) -> None:
    assert upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n").status == 0
    assert "has campaigns or calls and stays" in ready.is_refused("agent", "delete", "bot")
    ready.does("agent", "create", "solo", "--connect", "playback://a")
    ready.does("call", THEIRS, "--agent", "solo", "--from", OURS)
    assert "has campaigns or calls and stays" in ready.is_refused("agent", "delete", "solo")


# --------------------------------------------------------------------------------------------- campaigns


@contextmanager
def rung(url: str) -> Iterator[None]:
    """The leader's bell rings for something new, once the block is done."""
    with closing(connect(url)) as client, closing(Bell(client)) as bell:
        bell.wait(timedelta(0))  # from now on it hears
        yield
        until(lambda: bell.wait(timedelta(seconds=1)), what="the leader is woken")


def test_a_list_becomes_a_campaign_that_is_started_watched_and_read(
    ready: Operator, tmp_path: Path, valkey: str
) -> None:
    name = '[red]Doe[/], "Jo" 李'
    ended = upload(ready, tmp_path / "a.csv", f'phone,name\n{THEIRS},"[b]Doe[/b], Jo"\n{THEIRS},x\n12,y\n', name=name)
    assert ended.status == 0
    assert ended.out == f"campaign {name} is ready: 3 rows, 1 accepted, 1 rejected, 1 duplicate\n"
    assert "trunkline campaign rejected '[red]Doe[/], \"Jo\" 李' --format csv" in ended.err

    with rung(valkey):
        ready.does("campaign", "start", name)
    assert ready.one("SELECT status || (started_at IS NOT NULL) FROM campaigns") == "runningtrue"
    assert "is running, and only a ready one can be started: nothing is to be done" in ready.is_refused(
        "campaign", "start", name
    )

    one = json.loads(ready.does("campaign", "status", name, "--json"))
    with ready.engine.connect() as connection:
        columns = connection.exec_driver_sql("SELECT * FROM campaign_status").keys()
    assert list(one) == list(columns)
    assert (one["name"], one["status"], one["total"], one["scheduled"], one["rejected_rows"]) == (
        name,
        "running",
        1,
        1,
        2,
    )
    assert str(UUID(one["campaign_id"])) == one["campaign_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one["updated_at"])
    assert json.loads(ready.does("campaign", "status", "--json")) == [one]
    assert name in ready.does("campaign", "status")

    listed = json.loads(ready.does("campaign", "calls", name, "--format", "json"))
    assert {key: listed[0][key] for key in listed[0] if key not in {"call_id", "created_at"}} == {
        "phone_number": THEIRS, "name": "[b]Doe[/b], Jo", "status": "scheduled", "disposition": None, "sip_code": None,
        "q850_cause": None, "explanation": None, "attempts": 0, "from_number": None, "ended_at": None,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(ready.does("campaign", "calls", name, "--format", "csv"))))
    assert list(rows[0]) == list(listed[0])
    assert rows[0]["name"] == "[b]Doe[/b], Jo"
    assert rows[0]["phone_number"] == THEIRS
    assert "[b]Doe[/b], Jo" in ready.does("campaign", "calls", name)
    assert json.loads(ready.does("campaign", "calls", name, "--status", "busy", "--format", "json")) == []
    assert len(ready.does("campaign", "calls", name, "--status", "scheduled", "--format", "csv").splitlines()) == 2

    rejected = list(csv.DictReader(io.StringIO(ready.does("campaign", "rejected", name, "--format", "csv"))))
    assert [row["rejected_line"] for row in rejected] == ["3", "4"]
    assert "duplicate" in ready.does("campaign", "rejected", name)


def test_a_calls_from_number_is_that_of_its_current_attempt(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n")
    ready.write(
        "WITH a AS (INSERT INTO attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number)"
        " SELECT gen_random_uuid(), c.id, t.id, g.id, 'pbx', c.phone_number, :ours"
        " FROM calls c, trunks t JOIN trunk_gateways g ON g.trunk_id = t.id RETURNING id)"
        " UPDATE calls SET current_attempt_id = a.id, status = 'queued' FROM a", ours=OURS,
    )  # fmt: skip
    assert json.loads(ready.does("campaign", "calls", "spring", "--format", "json"))[0]["from_number"] == OURS


def test_upload_may_start_it_and_resume_goes_on(ready: Operator, tmp_path: Path) -> None:
    ended = upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n", "--start", "--max-concurrent-calls", "3")
    assert ended.status == 0, ended
    assert "is running" in ended.out
    assert ready.one("SELECT status || max_concurrent_calls FROM campaigns") == "running3"
    started = ready.one("SELECT started_at FROM campaigns")
    assert "only a paused one can be resumed" in ready.is_refused("campaign", "resume", "spring")
    ready.write("UPDATE campaigns SET status = 'paused'")
    assert "`trunkline campaign resume spring`" in ready.is_refused("campaign", "start", "spring")
    ready.does("campaign", "resume", "spring")
    assert ready.one("SELECT started_at FROM campaigns") == started
    ready.write("UPDATE campaigns SET status = 'stopped'")
    assert "is stopped" in ready.is_refused("campaign", "resume", "spring")


def test_a_campaign_may_be_started_later_and_says_so(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n")
    assert "with an offset" in ready.is_refused("campaign", "start", "spring", "--at", "2030-01-01T09:30:00")
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    said = ready.does("campaign", "start", "spring", "--at", at.isoformat())
    assert said == f"campaign spring starts by itself at {at:%Y-%m-%d %H:%M:%S} UTC\n"
    assert f"It starts by itself at {at:%Y-%m-%d %H:%M:%S} UTC" in ready.does("explain", "spring")
    said = ready.does("campaign", "start", "spring", "--at", "2020-01-01T00:00:00Z")
    assert said == "campaign spring is running\n"
    assert "is running" in ready.is_refused("campaign", "start", "spring", "--at", at.isoformat())


def test_pause_and_stop_say_what_they_did(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n", "--start")
    for _ in range(2):
        said = ready.does("campaign", "pause", "spring")
        assert said == "campaign spring is paused: 0 calls taken back, no call is up\n"
    assert ready.does("campaign", "stop", "spring") == "campaign spring is stopped: 1 canceled, no call is up\n"
    said = ready.does("campaign", "stop", "spring", "--hang-up")
    assert said == "campaign spring is stopped: 0 canceled, no call is up\n"
    ready.is_refused("campaign", "pause", "spring")


def test_watch_tells_each_change_and_ends_with_the_campaign(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n", "--start")
    watched = threading.Timer(0.2, lambda: ready.write("UPDATE campaigns SET status = 'stopped', updated_at = now()"))
    watched.start()
    lines = ready.does("campaign", "status", "spring", "--watch").splitlines()
    watched.join()
    assert re.fullmatch(r"\d\d:\d\d:\d\d running: 0 of 1 over; 1 scheduled", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d stopped: 0 of 1 over; 1 scheduled", lines[-1])


def test_a_trunk_that_has_paused_by_itself_says_so_and_why_wherever_it_is_shown(
    ready: Operator, tmp_path: Path
) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n", "--start")
    ready.write(
        "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
        " SELECT id, 5, 'congestion', 1, now() + interval '1 hour' FROM trunk_gateways"
    )
    why = "Trunk acme is paused, its gateway sip.example.com:5080 keeps failing"
    listed = ready("trunk", "list")
    assert listed.out.splitlines()[1].split()[:2] == ["acme", "paused"]
    assert why in listed.err
    shown = ready.does("trunk", "show", "acme")
    assert why in shown
    assert "sip.example.com:5080 (rests until" in shown
    assert why in ready.does("explain", "spring")
    watched = threading.Timer(0.2, lambda: ready.write("UPDATE campaigns SET status = 'stopped', updated_at = now()"))
    watched.start()
    lines = ready.does("campaign", "status", "spring", "--watch").splitlines()
    watched.join()
    assert why in lines[0]
    assert why not in lines[-1]
    ready.write("UPDATE gateway_health SET failures = 0, rests = 0, rests_until = NULL")
    assert "paused" not in ready.does("trunk", "list") + ready.does("trunk", "show", "acme")


def test_ten_thousand_calls_are_streamed_and_head_may_leave(ready: Operator, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    upload(ready, path, "phone\n" + "".join(f"+49301{index:07}\n" for index in range(10_000)))
    words = [
        sys.executable,
        "-c",
        "from scheduler.cli.app import main; main()",
        "campaign",
        "calls",
        "spring",
        "--format",
        "csv",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"call_id,phone_number,")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert len(ready.does("campaign", "calls", "spring", "--format", "csv").splitlines()) == 10_001


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n", "--start")
    words = [
        sys.executable,
        "-c",
        "from scheduler.cli.app import main; main()",
        "campaign",
        "status",
        "spring",
        "--watch",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"running" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    assert ready.one("SELECT status FROM campaigns") == "running"


# ------------------------------------------------------------------------------------------ single calls


def test_a_single_call_is_due_now_and_wakes_the_leader(ready: Operator, valkey: str) -> None:
    with rung(valkey):
        call_id = ready.does("call", THEIRS, "--agent", "bot", "--from", OURS, "--name", "O'Brien, 李").strip()
    assert (
        ready.one(
            "SELECT id::text || status || name || from_number || (campaign_id IS NULL) || (due_at <= now()) FROM calls"
        )
        == f"{call_id}scheduledO'Brien, 李{OURS}truetrue"
    )
    assert UUID(call_id).version == 7


@pytest.mark.parametrize(("end", "status"), [("completed", 0), ("busy", 1)])
def test_wait_tells_every_status_and_its_own_is_that_of_the_call(ready: Operator, end: str, status: int) -> None:
    def move() -> None:
        deadline = time.monotonic() + 20
        while not ready.one("SELECT count(*) FROM calls"):
            assert time.monotonic() < deadline
        for step in ("queued", "initiated", "ringing", end):
            ready.write(
                "UPDATE calls SET status = :step, explanation = CASE WHEN :step = :end THEN 'That was it.' END",
                step=step,
                end=end,
            )

    mover = threading.Thread(target=move)
    mover.start()
    ended = ready("call", THEIRS, "--agent", "bot", "--from", OURS, "--wait")
    mover.join()
    assert ended.out.splitlines()[1:] == ["scheduled", "queued", "initiated", "ringing", end, "That was it."]
    assert ended.status == status


def test_wait_is_usable_without_the_command_line(ready: Operator) -> None:
    call_id = UUID(ready.does("call", THEIRS, "--agent", "bot", "--from", OURS).strip())
    ready.write("UPDATE calls SET status = 'canceled', disposition = 'canceled', explanation = 'No.'")
    told: list[CallState] = []
    end = single.wait(ready.engine, call_id, told.append)
    assert [state.status.value for state in told] == ["scheduled", "canceled"]
    assert (end.disposition, end.explanation) == ("canceled", "No.")


def test_a_call_that_is_still_to_be_made_is_taken_back(ready: Operator) -> None:
    call_id = ready.does("call", THEIRS, "--agent", "bot", "--from", OURS).strip()
    assert ready.does("hang-up", call_id) == "canceled\n"
    assert "over already" in ready.is_refused("hang-up", call_id)


def test_what_is_neither_a_call_nor_a_campaign_is_not_explained(ready: Operator) -> None:
    unknown = str(uuid4())
    assert ready.is_refused("explain", unknown) == f"call: there is no call {unknown!r}"
    assert ready.is_refused("explain", "no-such-thing") == "campaign: there is no campaign 'no-such-thing'"


def test_a_campaign_whose_name_looks_like_an_id_is_explained(ready: Operator, tmp_path: Path) -> None:
    name = str(uuid4())
    upload(ready, tmp_path / "people.csv", f"phone_number\n{THEIRS}\n", name=name)
    assert f"campaign {name}, " in ready.does("explain", name)


def test_commands_are_told_with_the_names_they_need_quoted(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "people.csv", f"phone_number\n{THEIRS}\n", name="my list")
    assert "`trunkline campaign start 'my list'`" in ready.does("explain", "my list")
    assert "`trunkline campaign start 'my list'`" in ready.is_refused("campaign", "resume", "my list")
    ready.write("UPDATE campaigns SET status = 'running'")
    ready.write("UPDATE campaigns SET status = 'paused'")
    assert "`trunkline campaign resume 'my list'`" in ready.does("explain", "my list")
    ready.write("UPDATE campaigns SET status = 'running'")
    ready.does("trunk", "update", "acme", "--rename", "my trunk")
    gateway = ready.one("SELECT id FROM trunk_gateways")
    ready.write(
        "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
        " VALUES (:gateway, 5, 'congestion', 1, '2099-01-02')",
        gateway=gateway,
    )
    assert "`trunkline trunk check 'my trunk'`" in ready.does("explain", "my list")
    ready.does("trunk", "disable", "my trunk")
    assert "`trunkline trunk enable 'my trunk'`" in ready.does("explain", "my list")
    assert "on trunk 'my trunk', which is off" in ready.is_refused("call", THEIRS, "--agent", "bot", "--from", OURS)


def test_a_call_that_no_worker_takes_says_so(ready: Operator) -> None:
    call_id = ready.does("call", THEIRS, "--agent", "bot", "--from", OURS).strip()
    waits = ready.does("explain", call_id)
    assert "It waits for its turn" in waits
    assert "explain" not in waits, "there is no campaign to explain"
    ready.write("UPDATE calls SET status = 'queued'")
    said = ready.does("explain", call_id)
    assert "why: It has its slot, and no worker has taken it yet." in said
    assert "`trunkline doctor`" in said


def test_values_are_refused_in_plain_words(ready: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [word for at in range(21) for word in ("--gateway", f"a{at}.de")]
    line = ready.is_refused("trunk", "create", "many", "--auth-type", "ip-based", *many)
    assert line == "gateways: must be at most 20"
    for name, wrong, problem in (
        ("TRUNKLINE_NAMESERVER", "ns.example.com", "must be ADDRESS or ADDRESS@PORT, such as 192.0.2.53@53"),
        ("TRUNKLINE_NAMESERVER", "192.0.2.53@0", "must be ADDRESS or ADDRESS@PORT, such as 192.0.2.53@53"),
        ("TRUNKLINE_WORKERS", "0", "must be greater than or equal to 1"),
        ("TRUNKLINE_WORKERS", "many", "must be a valid integer, unable to parse string as an integer"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, wrong)
            assert ready.is_refused("trunk", "list") == f"{name}: {problem} (got {wrong!r})"


def test_a_campaign_is_explained_with_what_holds_it_back(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "people.csv", f"phone_number\n{THEIRS}\n")
    assert "It was not started yet: `trunkline campaign start spring`. 1 call waiting." in ready.does(
        "explain", "spring"
    )
    told = json.loads(ready.does("explain", "spring", "--json"))
    assert told["counts"]["scheduled"] == 1
    assert [holdup["what"] for holdup in told["holdups"]] == ["ready"]


def test_every_figure_of_an_attempt_is_told(ready: Operator) -> None:
    call_id, attempt = ready.does("call", THEIRS, "--agent", "bot", "--from", OURS, "--name", "Ö").strip(), uuid4()
    assert "It waits for its turn" in ready.does("explain", call_id)
    ready.write("UPDATE nodes SET heard_at = now() - interval '1 minute'")
    assert "no Asterisk is heard" in ready.does("explain", call_id)
    ready.write(
        "INSERT INTO attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number, status, disposition,"
        " hangup_by, initiated_at, ringing_at, answered_at, ended_at, sip_call_id, codec, media_address, rx_packets,"
        " tx_packets, rx_lost, tx_lost, explanation)"
        " SELECT :id, :call, t.id, g.id, 'pbx', :to, :ours, 'completed', 'answered', 'callee', now(), now() + interval '1.5 s',"
        " now() + interval '4 s', now() + interval '14 s', '5f0@pbx', 'ulaw', '192.0.2.9:4000', 400, 500, 100, 2, 'It was so.'"
        " FROM trunks t JOIN trunk_gateways g ON g.trunk_id = t.id",
        id=attempt, call=call_id, to=THEIRS, ours=OURS,
    )  # fmt: skip
    for step in ("queued", "initiated", "in-progress", "completed"):
        ready.write("UPDATE calls SET status = :step, disposition = 'answered', explanation = 'It was so.'", step=step)
    said = ready.does("explain", call_id)
    for words in (
        f"call {call_id} to {THEIRS} (Ö), agent bot, a single call",
        "completed, answered",
        "post-dial delay 1.5 s, rang 2.5 s, talked 10.0 s",
        "received 400 packets (100 lost), sent 500 packets (2 lost), codec ulaw, to 192.0.2.9:4000",
        "hung up by: the person called",
        "Call-ID: 5f0@pbx",
        "It was so.",
        "what to do: Look for a line that is full or bad",
    ):
        assert words in said
    told = json.loads(ready.does("explain", call_id, "--json"))
    [one] = told["attempts"]
    assert (one["post_dial_delay"], one["ring_time"], one["talk_time"]) == (1.5, 2.5, 10.0)
    assert (one["attempt_id"], one["sip_call_id"], one["tx_lost"], one["sip"]) == (str(attempt), "5f0@pbx", 2, None)
    assert (told["name"], told["gateway_faults"]) == ("Ö", [])
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    documented = readme.partition("With `--json` it is one object")[2].partition("The table is made")[0]
    named = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`]+)`", documented))))
    assert {*told, *one, "gateway", "probed_at", "finding", "detail", "null"} == named
    ready.write("DELETE FROM trunk_gateways")
    assert "a gateway that is removed" in ready.does("explain", call_id)
    ready.does("trunk", "delete", "acme")
    said = ready.does("explain", call_id)
    for words in (
        f"through a trunk that is deleted, a gateway that is removed, node pbx, from {OURS} to {THEIRS}",
        "post-dial delay 1.5 s, rang 2.5 s, talked 10.0 s",
        "It was so.",
        "Its trunk is deleted by now",
    ):
        assert words in said


def test_a_call_of_a_campaign_that_was_paused_says_why(ready: Operator, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(f"phone_number\n{THEIRS}\n")
    ready.does("campaign", "upload", str(tmp_path / "people.csv"), "--name", "spring", "--agent", "bot", "--from", OURS)
    call_id = str(ready.one("SELECT id FROM calls"))
    assert "its campaign is ready" in ready.does("explain", call_id)
    ready.write("UPDATE campaigns SET status = 'paused', pause_reason = 'its agent is down'")
    said = ready.does("explain", call_id)
    assert "of campaign spring" in said
    assert "its campaign is paused: its agent is down" in said


def test_config_has_real_urls_for_other_programs(
    operator: Operator, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_ASTERISK_NODES", "pbx=ami://me:hidden@127.0.0.1:5038")
    found = json.loads(operator.does("config", "--json"))
    assert found["redis_url"] == valkey
    assert found["database_url"].startswith("postgresql://")
    assert {"api_url", "flower_url", "home"} <= set(found)
    assert found["asterisk_nodes"] == [{"name": "pbx", "host": "127.0.0.1", "port": 5038, "max_calls": 200}]
    assert valkey in operator.does("config")
    assert "hidden" not in operator.does("config", "--json") + operator.does("config")


# -------------------------------------------------------------------------------------------------- keys


def test_a_key_is_the_only_thing_on_stdout_and_is_shown_once(operator: Operator) -> None:
    made = operator("key", "create", "mine", "--scope", "call")
    assert (made.status, made.err) == (0, "keep it: it cannot be shown again\n")
    key = made.out.rstrip("\n")
    assert re.fullmatch(r"trunkline_[\w-]{43}", key)
    with operator.engine.begin() as connection:
        found = keys.find(connection, key)
    assert found is not None
    assert (found.name, found.scope) == ("mine", "call")
    kept = str(operator.everything()["api_keys"])
    assert key not in kept
    assert key.removeprefix("trunkline_") not in kept
    listed = operator.does("key", "list")
    assert re.search(r"^mine +call +\S+ +\S+Z$", listed, re.M)
    assert "trunkline_" not in listed


def test_a_key_that_is_revoked_is_known_no_more_and_stays_in_the_list(operator: Operator) -> None:
    key = operator.does("key", "create", "mine", "--scope", "read").strip()
    assert operator.does("key", "revoke", "mine") == "key mine is revoked\n"
    with operator.engine.begin() as connection:
        assert keys.find(connection, key) is None
    listed = operator.does("key", "list")
    assert "mine" in listed
    operator.does("key", "revoke", "mine")
    assert operator.does("key", "list") == listed  # since when stays as it was
    assert "there is already a key 'mine'" in operator.is_refused("key", "create", "mine", "--scope", "read")


def test_a_key_without_a_scope_a_name_or_any_trace_is_refused(operator: Operator) -> None:
    for scope in ("all", "", "Read", "read,call"):
        assert "scope: must be one of read, call, admin" in operator.is_refused("key", "create", "x", "--scope", scope)
    assert "--scope" in operator.is_refused("key", "create", "x", status=2)
    assert "NAME" in operator.is_refused("key", "create", "--scope", "read", status=2)
    for name in ("", "a\nb", "\x1b[31m", "x" * 1000, "\udcff"):
        assert operator.is_refused("key", "create", name, "--scope", "read").startswith("name: ")
    assert "there is no key 'nobody'" in operator.is_refused("key", "revoke", "nobody")


# --------------------------------------------------------------------------------------------- bad input

WRONG_NUMBERS = ["+49/30123456", "+4930@123456", "+49&30123456", "+4930123456;x", "+4930123456,1", "+49 30 123456", "+49abc123456",
                 "+4930\n123456", "+49\0" + "30123456", "+4930\x1b[31m123456", "030123456", "4930123456", "+0123456789", "+491", "",
                 "+99912345678", "+49301234567890123"]  # fmt: skip


def test_a_wrong_number_is_refused_everywhere(ready: Operator, tmp_path: Path) -> None:
    for number in WRONG_NUMBERS:
        path = tmp_path / "a.csv"
        path.write_text(f"phone\n{THEIRS}\n")
        assert ready.is_refused("number", "add", number, "--trunk", "acme").startswith("phone_number: ")
        assert ready.is_refused("call", number, "--agent", "bot", "--from", OURS).startswith("phone_number: ")
        assert ready.is_refused("call", THEIRS, "--agent", "bot", "--from", number).startswith("from: ")
        assert ready.is_refused(
            "campaign", "upload", str(path), "--name", "n", "--agent", "bot", "--from", number
        ).startswith("from: ")


WRONG_NAMES = ["a\0b", "a\x1b[31mb", "a\nb", "\udcff", " a", "a ", "", "x" * 1025]


def test_a_wrong_name_of_a_thing_is_refused_everywhere(ready: Operator, tmp_path: Path) -> None:
    for wrong in WRONG_NAMES:
        path = tmp_path / "a.csv"
        path.write_text(f"phone\n{THEIRS}\n")
        for field, words in [
            ("name", ("trunk", "create", wrong, "--gateway", "a.de", "--auth-type", "ip-based")),
            ("name", ("trunk", "update", "acme", "--rename", wrong)),
            ("name", ("agent", "create", wrong, "--connect", "playback://a")),
            ("name", ("campaign", "upload", str(path), "--name", wrong, "--agent", "bot", "--from", OURS)),
            ("trunk", ("trunk", "show", wrong)),
            ("trunk", ("trunk", "disable", wrong)),
            ("trunk", ("number", "add", "+4930222333", "--trunk", wrong)),
            ("agent", ("agent", "delete", wrong)),
            ("agent", ("call", THEIRS, "--agent", wrong, "--from", OURS)),
            ("campaign", ("campaign", "start", wrong)),
            ("campaign", ("campaign", "pause", wrong)),
            ("campaign", ("campaign", "status", wrong)),
            ("campaign", ("campaign", "calls", wrong)),
        ]:
            assert ready.is_refused(*words).startswith(f"{field}: "), words


WRONG_NAMES_OF_PEOPLE = ["a\0b", "a\x1b[31mb", "a\nb", "\udcff", "é" * 513]


def test_a_persons_name_that_cannot_be_stored_is_refused(ready: Operator) -> None:
    for name in WRONG_NAMES_OF_PEOPLE:
        assert ready.is_refused("call", THEIRS, "--agent", "bot", "--from", OURS, "--name", name).startswith(
            "name: must"
        )


def test_limits_are_positive(ready: Operator, tmp_path: Path) -> None:
    made = ("trunk", "create", "b", "--gateway", "b.de", "--auth-type", "ip-based")
    for wrong in ("0", "-1"):
        for words in (made, ("trunk", "update", "acme")):
            assert ready.is_refused(*words, "--max-concurrent-calls", wrong).startswith(
                "max_concurrent_calls: must be greater than 0"
            )
            assert ready.is_refused(*words, "--max-calls-per-second", wrong).startswith(
                "max_calls_per_second: must be greater than or equal to 0.001"
            )
        (tmp_path / "a.csv").write_text(f"phone\n{THEIRS}\n")
        line = ready.is_refused("campaign", "upload", str(tmp_path / "a.csv"), "--name", "n", "--agent", "bot", "--from", OURS,
                                "--max-concurrent-calls", wrong)  # fmt: skip
        assert line.startswith("max_concurrent_calls: ")
    assert "max_calls_per_second" in ready.is_refused(*made, "--max-calls-per-second", "nan")


def test_what_is_unknown_is_named(ready: Operator, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"phone\n{THEIRS}\n")
    unknown: list[tuple[str, ...]] = [
        ("trunk", "show", "nope"), ("trunk", "update", "nope", "--allow", "ulaw"), ("trunk", "enable", "nope"), ("trunk", "disable", "nope"),
        ("trunk", "delete", "nope"), ("number", "add", "+4930222333", "--trunk", "nope"),
    ]  # fmt: skip
    for words in unknown:
        assert ready.is_refused(*words) == "trunk: there is no trunk 'nope'"
    unknown = [
        ("agent", "show", "nope"), ("agent", "delete", "nope"), ("call", THEIRS, "--agent", "nope", "--from", OURS),
        ("campaign", "upload", str(path), "--name", "n", "--agent", "nope", "--from", OURS),
    ]  # fmt: skip
    for words in unknown:
        assert ready.is_refused(*words) == "agent: there is no agent 'nope'"
    for verb in ("start", "resume", "pause", "stop", "status", "calls", "rejected"):
        assert ready.is_refused("campaign", verb, "nope") == "campaign: there is no campaign 'nope'"
    assert ready.is_refused("campaign", "status", "nope", "--watch") == "campaign: there is no campaign 'nope'"
    assert ready.is_refused("hang-up", str(uuid4())).startswith("call: there is no call ")
    assert ready.is_refused("hang-up", "nope").startswith("call_id: must be a call's id")


def test_a_second_thing_of_the_same_name_is_refused(ready: Operator, tmp_path: Path) -> None:
    assert ready.is_refused("trunk", "create", "acme", "--gateway", "a.de", "--auth-type", "ip-based").startswith(
        "name: there is already a trunk 'acme'"
    )
    assert ready.is_refused("agent", "create", "bot", "--connect", "playback://a").startswith(
        "name: there is already an agent 'bot'"
    )
    ready.does("trunk", "create", "b", "--gateway", "a.de", "--auth-type", "ip-based")
    assert ready.is_refused("trunk", "update", "b", "--rename", "acme").startswith(
        "name: there is already a trunk 'acme'"
    )
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n")
    line = ready.is_refused(
        "campaign", "upload", str(tmp_path / "a.csv"), "--name", "spring", "--agent", "bot", "--from", OURS
    )
    assert "spring" in line


WRONG_GATEWAYS = [
    "",
    "a b",
    "sip:a.de",
    "a.de:0",
    "a.de:65536",
    "a.de:x",
    "a.de;transport=tcp",
    "::1",
    "u@a.de",
    "a.de/x",
    "1.2.3",
]


def test_a_gateway_that_is_no_host_is_refused(ready: Operator) -> None:
    for gateway in WRONG_GATEWAYS:
        assert ready.is_refused("trunk", "create", "b", "--gateway", gateway, "--auth-type", "ip-based").startswith(
            "gateway: "
        )
        assert ready.is_refused("trunk", "update", "acme", "--gateway", gateway).startswith("gateway: ")


def test_a_file_that_is_none_is_refused(ready: Operator, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path, Path("/dev/null")):
        assert ready.is_refused(
            "campaign", "upload", str(path), "--name", "n", "--agent", "bot", "--from", OURS
        ).startswith("file: ")


def test_credentials_go_with_userpass_only(ready: Operator) -> None:
    userpass = ("trunk", "create", "b", "--gateway", "b.de", "--auth-type", "userpass")
    ip_based = ("trunk", "create", "b", "--gateway", "b.de", "--auth-type", "ip-based")
    assert ready.is_refused(*userpass).startswith("auth_username: is missing")
    assert ready.is_refused(*userpass, "--username", "u").startswith("auth_password: is missing")
    assert ready.is_refused(*ip_based, "--username", "u").startswith(
        "auth_username: does not go with auth_type ip-based"
    )
    assert ready.is_refused(*ip_based, "--password", "topsecret").startswith("auth_password: does not go with")
    assert ready.is_refused("trunk", "update", "acme", "--password", "p").startswith("auth_password: does not go with")
    assert ready.is_refused("trunk", "update", "acme", "--auth-type", "userpass").startswith(
        "auth_username: is missing"
    )
    assert ready.is_refused("trunk", "create", "b", "--gateway", "b.de", "--auth-type", "magic").startswith(
        "auth_type: must be 'userpass' or"
    )


def test_what_does_not_go_together_is_refused(ready: Operator) -> None:
    assert ready.is_refused("trunk", "update", "acme", "--media-encryption", "sdes").startswith(
        "media_encryption: sdes needs TLS"
    )
    ready.does("trunk", "update", "acme", "--media-encryption", "sdes", "--transport", "transport-tls")
    assert ready.is_refused("trunk", "update", "acme", "--transport", "transport-udp").startswith(
        "media_encryption: sdes needs TLS"
    )
    assert ready.is_refused("trunk", "update", "acme", "--inbound-enabled").startswith(
        "inbound_enabled: inbound calls are not supported"
    )
    assert ready.is_refused("trunk", "update", "acme", "--gateway", "a.de:1", "--gateway", "A.de:1").startswith(
        "gateways: "
    )
    assert ready.is_refused("agent", "create", "x", "--connect", "ws://h:1").startswith(
        "connect: ws:// is not supported yet"
    )
    assert "TRUNKLINE_DIALPLAN_CONTEXTS" in ready.is_refused(
        "agent", "create", "x", "--connect", "dialplan://private/s"
    )


def test_a_call_goes_from_a_registered_number_of_an_active_trunk_to_an_allowed_one(ready: Operator) -> None:
    assert "is not registered on any trunk" in ready.is_refused(
        "call", THEIRS, "--agent", "bot", "--from", "+4930999888"
    )
    line = ready.is_refused("call", "+12025550123", "--agent", "bot", "--from", OURS)
    assert line.startswith("phone_number: trunk 'acme' may only call numbers that start with +49")
    ready.does("trunk", "update", "acme", "--allowed-prefix", "+1")
    ready.does("call", "+12025550123", "--agent", "bot", "--from", OURS)
    ready.is_refused("call", THEIRS, "--agent", "bot", "--from", OURS)
    ready.does("trunk", "disable", "acme")
    assert "is on trunk 'acme', which is off" in ready.is_refused(
        "call", "+12025550123", "--agent", "bot", "--from", OURS
    )


def test_a_word_that_is_no_status_is_refused(ready: Operator, tmp_path: Path) -> None:
    upload(ready, tmp_path / "a.csv", f"phone\n{THEIRS}\n")
    assert ready.is_refused("campaign", "calls", "spring", "--status", "bussy").startswith(
        "status: must be one of scheduled, "
    )


USAGE_ERRORS: list[tuple[str, ...]] = [
    ("trunk", "create", "x"),
    ("call", THEIRS, "--bogus"),
    ("campaign", "upload", "x.csv", "--max-concurrent-calls", "many"),
    ("campaign", "calls", "x", "--format", "xml"),
    ("campaign", "status", "--watch"),
    ("campaign", "status", "x", "--watch", "--json"),
    ("trunk", "update", "acme"),
    ("dial",),
]


def test_a_command_that_cannot_be_understood_ends_with_2(ready: Operator) -> None:
    for words in USAGE_ERRORS:
        ready.is_refused(*words, status=2)


def test_a_part_that_is_down_is_one_line_and_nothing_is_written(
    ready: Operator, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    upload(ready, path, f"phone\n{THEIRS}\n")
    begin: list[tuple[str, ...]] = [("campaign", "start", "spring"), ("call", THEIRS, "--agent", "bot", "--from", OURS),
             ("campaign", "upload", str(path), "--name", "n", "--agent", "bot", "--from", OURS, "--start")]  # fmt: skip
    ready.write("UPDATE nodes SET heard_at = now() - interval '1 minute'")
    for words in begin:
        assert ready.is_refused(*words).startswith("Asterisk: no node is up")
    ready.write("UPDATE nodes SET heard_at = now() + interval '1 hour'")

    monkeypatch.setenv("TRUNKLINE_REDIS_URL", f"redis://:x@127.0.0.1:{free_port()}/0")
    for words in begin:
        assert ready.is_refused(*words).startswith("Redis does not answer: ")
    ready.does("trunk", "disable", "acme")  # what does not need Redis works
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", "localhost")
    for word in ("start", "pause"):
        assert ready.is_refused("campaign", word, "spring").startswith("TRUNKLINE_REDIS_URL: must be redis://")
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", valkey)

    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", f"postgresql://x:x@127.0.0.1:{free_port()}/x")
    begin += [("trunk", "list"), ("campaign", "status")]
    for words in begin:
        line = ready.is_refused(*words)
        assert line.startswith("Postgres does not answer: ")
        assert "refused" in line, "the cause, not libpq's question after it"
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", "mysql://x")
    assert ready.is_refused("trunk", "list").startswith("TRUNKLINE_DATABASE_URL: must be postgresql://")
    monkeypatch.delenv("TRUNKLINE_DATABASE_URL")
    assert ready.is_refused("trunk", "list").startswith("Postgres: not running; start trunkline")


def test_an_unexpected_exception_is_one_line(ready: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("scheduler.trunks.list_all", broken)
    assert ready.is_refused("trunk", "list") == "unexpected RuntimeError: first (TRUNKLINE_DEBUG=1 shows where)"
    monkeypatch.setenv("TRUNKLINE_DEBUG", "1")
    assert "Traceback" in ready("trunk", "list").err
