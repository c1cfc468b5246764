"""A file becomes a campaign, or nothing; every row ends as a call or as a rejected row."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from models.database import open_engine
from models.errors import Conflict, Invalid, NotFound, TrunklineError, Unavailable
from scheduler import intake
from scheduler.exports import write_rejected
from scheduler.intake import Progress, Upload, upload
from scheduler.loads import Load, remove_dead_loads
from tests.integration.conftest import Database

OURS = "+4930123456"
FROM_AMERICA = "+12025550199"


def number(index: int) -> str:
    return f"+49301{index:07}"


@pytest.fixture
def engine(database: Database) -> Engine:
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("INSERT INTO agents (name, connect) VALUES ('bot', 'playback://demo')")
        for trunk, phone, prefixes in [("berlin", OURS, None), ("austin", FROM_AMERICA, ["+1", "+4930"])]:
            connection.execute(
                "WITH t AS (INSERT INTO trunks (name, auth_type, allowed_prefixes) VALUES (%s, 'ip-based', %s) RETURNING id)"
                " INSERT INTO phone_numbers (phone_number, trunk_id) SELECT %s, id FROM t",
                (trunk, prefixes, phone),
            )
    return database.engine


class Uploads:
    """Uploads of files given as text."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.path = directory / "list.csv"

    def __call__(self, content: str | bytes, **arguments: Any) -> Upload:
        self.path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = {"name": "spring", "agent": "bot", "from_numbers": [OURS], **arguments}
        return upload(self.engine, self.path, **given)

    def all(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def rejected(self) -> list[tuple[Any, ...]]:
        return self.all("SELECT line_number, kind, reason, row FROM rejected_rows ORDER BY line_number")

    def export(self, campaign_id: UUID) -> str:
        file = io.StringIO(newline="")
        with self.engine.connect() as connection:
            write_rejected(connection, campaign_id, file)
        return file.getvalue()

    def is_empty(self) -> bool:
        tables = ("campaigns", "calls", "rejected_rows", "campaign_counts", "campaign_count_deltas")
        return not any(self.all(f"SELECT 1 FROM {table}") for table in tables)


@pytest.fixture
def uploads(engine: Engine, tmp_path: Path) -> Uploads:
    return Uploads(engine, tmp_path)


def counts(done: Upload) -> tuple[int, int, int, int]:
    assert done.accepted + done.rejected + done.duplicate + done.suppressed == done.rows
    return done.rows, done.accepted, done.rejected, done.duplicate


def test_each_row_becomes_a_call_or_a_rejected_row_with_its_line_and_reason(uploads: Uploads) -> None:
    done = uploads(
        "phone_number,name,city\r\n"
        f"{number(1)},Jürgen,Köln\r\n"
        "\r\n"
        f'{number(2)},"two\r\nlines",\r\n'
        "030123,No Plus,\r\n"
        f"{number(3)}\r\n"
        f"{number(1)},Again,\r\n"
        "+12025550100,America,\r\n"
        f"{number(4)},a,b,c\r\n"
    )
    assert counts(done) == (7, 2, 4, 1)
    assert uploads.all("SELECT phone_number, name, variables, line_number, status FROM calls ORDER BY due_at, id") == [
        (number(1), "Jürgen", {"city": "Köln"}, 2, "scheduled"),
        (number(3), None, {}, 7, "scheduled"),
    ]
    rejected = uploads.rejected()
    assert [(line, kind) for line, kind, _, _ in rejected] == [
        (4, "rejected"),
        (6, "rejected"),
        (8, "duplicate"),
        (9, "rejected"),
        (10, "rejected"),
    ]
    reasons = [reason for _, _, reason, _ in rejected]
    assert reasons[0] == "name: contains a line break: leave it out"
    assert reasons[1].startswith("phone_number: has no + and country code")
    assert reasons[2] == "has the same number as line 2"
    assert reasons[3] == "phone_number: trunk 'berlin' may only dial +49"
    assert reasons[4].startswith("row: has 4 cells")


def test_campaign_and_its_status_agree_with_what_was_returned(uploads: Uploads) -> None:
    done = uploads(
        f"to\n{number(1)}\n{number(1)}\nx\n", max_concurrent_calls=7, from_numbers=[OURS, f" {OURS}", FROM_AMERICA]
    )
    assert uploads.all(
        "SELECT id, status, rows, accepted, rejected, duplicate, suppressed, max_concurrent_calls, from_numbers, header FROM campaigns"
    ) == [(done.campaign_id, "ready", 3, 1, 1, 1, 0, 7, [OURS, FROM_AMERICA], "to")]
    assert uploads.all("SELECT total, scheduled, rejected_rows FROM campaign_status") == [(1, 1, 2)]


@pytest.mark.parametrize(
    "value", ["a,b", 'say "hi"', "O'Brien; DROP TABLE calls; --", "a|b", "👩‍👩‍👧 李雷", "\\N", "\\t\\.", "{}"]
)
def test_a_name_and_a_variable_reach_the_ledger_to_the_character(uploads: Uploads, value: str) -> None:
    quoted = '"' + value.replace('"', '""') + '"'
    assert counts(uploads(f"phone,name,note\n{number(1)},{quoted},{quoted}\n")) == (1, 1, 0, 0)
    assert uploads.all("SELECT name, variables FROM calls") == [(value, {"note": value})]


def test_what_postgres_cannot_store_is_rejected_and_kept_visible(uploads: Uploads) -> None:
    content = f"phone,name\n{number(1)},a\0b\n{number(2)},".encode() + b"\xff\n" + f"{number(3)},\\u0000\n".encode()
    assert counts(uploads(content)) == (3, 1, 2, 0)
    assert [row for _, _, _, row in uploads.rejected()] == [f"{number(1)},a␀b", f"{number(2)},\ufffd"]


def test_the_first_line_with_a_number_wins_within_a_chunk_and_across_chunks(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 3)
    order = [1, 2, 1, 3, 1, 1, 2, 4, 4]
    done = uploads("phone\n" + "".join(f"{number(index)}\n" for index in order))
    assert counts(done) == (9, 4, 0, 5)
    assert uploads.all("SELECT phone_number, line_number FROM calls ORDER BY due_at, id") == [
        (number(1), 2),
        (number(2), 3),
        (number(3), 5),
        (number(4), 9),
    ]
    reasons = [(line, int(reason.rpartition(" ")[2])) for line, _, reason, _ in uploads.rejected()]
    assert reasons == [(4, 2), (6, 2), (7, 2), (8, 3), (10, 9)]


def test_the_calls_are_due_in_the_order_of_the_file(uploads: Uploads) -> None:
    lines = [(index * 7919) % 25_000 for index in range(25_000)]
    uploads("phone\n" + "".join(f"{number(index)}\n" for index in lines))
    found = uploads.all("SELECT line_number FROM calls ORDER BY due_at, id")
    assert found == [(line,) for line in range(2, 25_002)]


def test_a_number_must_be_allowed_by_every_trunk_that_may_dial_it(uploads: Uploads) -> None:
    both = "phone\n+4930123459\n+498912345678\n+12025550100\n"
    assert counts(uploads(both, from_numbers=[OURS, FROM_AMERICA])) == (3, 1, 2, 0)
    assert [reason for _, _, reason, _ in uploads.rejected()] == [
        "phone: trunk 'austin' may only dial +1, +4930",
        "phone: trunk 'berlin' may only dial +49",
    ]
    assert counts(uploads(both, name="autumn", from_numbers=[OURS])) == (3, 2, 1, 0)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rejected_rows_can_be_exported_mended_and_uploaded_again(uploads: Uploads, delimiter: str) -> None:
    def line(*cells: str) -> str:
        return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"

    first = uploads(
        line("name", "phone", "note")
        + line("Ann", number(1), "")
        + line('Bob "B", jr; \t'.strip(), "0301000002", f"a{delimiter}b".replace("\t", " "))
        + line("Cy", f"{number(3)} ext", "x")
        + line("Dee", number(1), "same")
    )
    assert counts(first) == (4, 1, 2, 1)
    exported = uploads.export(first.campaign_id)
    assert exported.splitlines()[0] == delimiter.join(["rejected_line", "rejected_reason", "name", "phone", "note"])

    # as it is, it is rejected again, and its export has no column twice
    second = uploads(exported, name="second")
    assert counts(second) == (3, 1, 2, 0)
    again = uploads.export(second.campaign_id)
    assert again.count("rejected_line") == 1

    mended = again.replace("0301000002", number(2)).replace(" ext", "")
    third = uploads(mended, name="third")
    assert counts(third) == (2, 2, 0, 0)
    assert uploads.all(
        "SELECT name, variables FROM calls WHERE campaign_id = :id ORDER BY id", id=third.campaign_id
    ) == [
        ('Bob "B", jr;', {"note": f"a{delimiter}b".replace("\t", " ")}),
        ("Cy", {"note": "x"}),
    ]


def test_a_file_of_which_every_row_is_rejected_stays_to_be_exported(uploads: Uploads) -> None:
    done = uploads("phone,name\nx,Ann\n")
    assert counts(done) == (1, 0, 1, 0)
    assert uploads.all("SELECT status FROM campaigns") == [("ready",)]
    assert uploads.export(done.campaign_id).startswith("rejected_line,rejected_reason,phone,name\r\n2,")


def test_an_export_of_no_campaign_is_refused(uploads: Uploads) -> None:
    with pytest.raises(NotFound):
        uploads.export(uuid4())


@pytest.mark.parametrize(
    ("content", "arguments", "kind", "sentence"),
    [
        (b"", {}, Invalid, "file: is empty"),
        (b"phone\n", {}, Invalid, "file: has a header row and no other"),
        (b"phone\n\n \n", {}, Invalid, "file: has a header row and no other"),
        (b"name\nBob\n", {}, Invalid, "no column with phone numbers"),
        (b"phone\n+4930123456\n" + b"x" * 2_000_000, {}, Invalid, "line 3 is longer than 1 MB"),
        (None, {"name": ""}, Invalid, "name: must be 1 to 100 characters"),
        (None, {"name": "x" * 101}, Invalid, "name: must be 1 to 100 characters"),
        (None, {"name": "a\nb"}, Invalid, "name: must"),
        (None, {"name": "a\0"}, Invalid, "name: must"),
        (None, {"name": "a\udcff"}, Invalid, "name: must be"),
        (None, {"name": " a"}, Invalid, "name: must"),
        (None, {"agent": "nobody"}, NotFound, "there is no agent 'nobody'"),
        (None, {"agent": "no\0body"}, Invalid, "agent: must have no NUL"),
        (None, {"from_numbers": []}, Invalid, "from: give at least one"),
        (None, {"from_numbers": ["030123"]}, Invalid, "from: has no +"),
        (None, {"from_numbers": ["+4930999999"]}, Invalid, r"from: \+4930999999 is not registered on any trunk"),
        (None, {"max_concurrent_calls": 0}, Invalid, "max_concurrent_calls: must be between 1"),
        (None, {"max_concurrent_calls": 2**40}, Invalid, "max_concurrent_calls: must be between 1"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    uploads: Uploads,
    content: bytes | None,
    arguments: dict[str, Any],
    kind: type[TrunklineError],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        uploads(f"phone\n{number(1)}\n" if content is None else content, **arguments)
    assert uploads.is_empty()


def test_a_file_that_turns_out_bad_after_committed_chunks_leaves_nothing_behind(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 2)
    with pytest.raises(Invalid, match="line 12 is longer than 1 MB"):
        uploads("phone\n" + "".join(f"{number(index // 2)}\n" for index in range(10)) + "x" * 2_000_000)
    assert uploads.is_empty()


def after_chunks(count: int, act: Callable[[Load], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls `act` once, when that many chunks are committed."""
    write, seen = Load.write, [0]

    def counted(self: Load, recipients: Any, rejections: Any) -> None:
        write(self, recipients, rejections)
        seen[0] += 1
        if seen[0] == count:
            act(self)

    monkeypatch.setattr(intake, "CHUNK_ROWS", 2)
    monkeypatch.setattr(Load, "write", counted)


TEN = "phone\n" + "".join(f"{number(index)}\n" for index in range(10))


def interrupt(load: Load) -> None:
    raise KeyboardInterrupt


def test_control_c_leaves_nothing_behind(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    after_chunks(3, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        uploads(TEN)
    assert uploads.is_empty()


def test_control_c_in_the_middle_of_a_copy_leaves_nothing_behind(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [0]
    write_row = psycopg.Copy.write_row

    def interrupted(self: psycopg.Copy, row: Sequence[Any]) -> None:
        written[0] += 1
        if written[0] == 7:
            raise KeyboardInterrupt
        write_row(self, row)

    monkeypatch.setattr(intake, "CHUNK_ROWS", 2)
    monkeypatch.setattr(psycopg.Copy, "write_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        uploads(TEN)
    assert uploads.is_empty()


def kill_backend(load: Load, owner_url: str) -> None:
    dead = load._cursor().connection.info.backend_pid
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (dead,))


def test_a_connection_that_is_lost_leaves_nothing_behind_and_says_so(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_chunks(3, lambda load: kill_backend(load, database.owner_url), monkeypatch)
    with pytest.raises(Unavailable):
        uploads(TEN)
    assert uploads.is_empty()


def test_a_second_campaign_of_the_same_name_is_refused(uploads: Uploads) -> None:
    uploads(f"phone\n{number(1)}\n")
    with pytest.raises(Conflict, match="there is a campaign 'spring' already"):
        uploads(f"phone\n{number(2)}\n")
    assert uploads.all("SELECT phone_number FROM calls") == [(number(1),)]


def test_of_two_uploads_of_one_name_at_the_same_time_one_is_refused(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[TrunklineError] = []

    def meanwhile(load: Load) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(30)

    def second() -> None:
        try:
            uploads(TEN)
        except TrunklineError as error:
            refused.append(error)

    after_chunks(2, meanwhile, monkeypatch)
    assert counts(uploads(TEN)) == (10, 10, 0, 0)
    assert [type(error) for error in refused] == [Conflict]


DYING = """
import os, signal, sys
from pathlib import Path
from models.database import open_engine
from models.settings import Settings
from scheduler import intake
from scheduler.loads import Load

write = Load.write

def last(self, recipients, rejections):
    write(self, recipients, rejections)
    os.kill(os.getpid(), signal.SIGKILL)

Load.write, intake.CHUNK_ROWS = last, 5
engine = open_engine(Settings(database_url=os.environ["URL"]), "trunkline-test")
intake.upload(engine, Path(sys.argv[1]), name=sys.argv[2], agent="bot", from_numbers=[sys.argv[3]])
"""


def load_and_die(uploads: Uploads, database: Database, name: str) -> None:
    """A loader is killed as by kill -9 when five calls are committed; Postgres has noticed."""
    uploads.path.write_text(TEN)
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(uploads.path), name, OURS],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "URL": database.owner_url, "PYTHONPATH": "."},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    ((campaign_id,),) = uploads.all("SELECT id FROM campaigns WHERE name = :name AND status = 'loading'", name=name)
    wait_for_lock(database, campaign_id)
    assert uploads.all("SELECT total FROM campaign_status WHERE name = :name", name=name) == [(5,)]


def wait_for_lock(database: Database, campaign_id: UUID) -> None:
    """Until nobody holds it; asked by a session of its own, for which none of ours is its own."""
    with psycopg.connect(database.owner_url, options="-c statement_timeout=20s") as connection:
        connection.execute("SELECT pg_advisory_xact_lock(1819238756, hashtext(%s))", (str(campaign_id),))


def test_a_dead_load_is_removed_and_a_living_one_is_not(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[list[str]] = []

    def remove(load: Load) -> None:
        with database.engine.connect() as connection:
            removed.append(remove_dead_loads(connection))

    load_and_die(uploads, database, "dead")
    after_chunks(2, remove, monkeypatch)
    uploads(TEN, name="alive")
    assert removed == [["dead"]]
    assert uploads.all("SELECT name, total FROM campaign_status") == [("alive", 10)]
    assert uploads.all("SELECT count(*) FROM calls") == [(10,)]


def test_a_large_dead_load_is_removed_in_bounded_steps(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.loads._DELETED_AT_ONCE", 2)
    load_and_die(uploads, database, "dead")
    with database.engine.connect() as connection:
        assert remove_dead_loads(connection, limit=4) == []
        assert uploads.all("SELECT count(*) FROM calls") == [(1,)]
        assert remove_dead_loads(connection, limit=4) == ["dead"]
    assert uploads.is_empty()


def test_a_name_is_free_again_once_its_loader_is_dead(uploads: Uploads, database: Database) -> None:
    load_and_die(uploads, database, "spring")
    assert counts(uploads(TEN)) == (10, 10, 0, 0)
    assert uploads.all("SELECT count(*) FROM calls") == [(10,)]


def test_a_campaign_that_was_removed_meanwhile_does_not_become_ready(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(load: Load) -> None:
        with psycopg.connect(database.owner_url) as connection:
            connection.execute("DELETE FROM campaigns")

    after_chunks(5, remove, monkeypatch)
    with pytest.raises(Conflict, match="was removed while"):
        uploads(TEN)


def test_a_lock_ends_with_the_upload_and_no_connection_is_kept(uploads: Uploads, database: Database) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "g"):  # more than the pool has
        done = uploads(TEN, name=name)
        wait_for_lock(database, done.campaign_id)


def test_progress_grows_to_the_whole_file(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 2)
    monkeypatch.setattr(intake, "PROGRESS_EVERY", 0)
    seen: list[Progress] = []
    uploads(TEN, progress=seen.append)
    assert [progress.rows for progress in seen] == [2, 4, 6, 8, 10, 10]
    assert seen[-1] == Progress(bytes_read=len(TEN), total_bytes=len(TEN), rows=10)


def test_without_postgres_the_upload_says_so(uploads: Uploads, database: Database) -> None:
    settings = database.settings.model_copy(update={"database_url": SecretStr("postgresql://x:y@127.0.0.1:1/x")})
    uploads.engine = open_engine(settings, "trunkline-test")
    with pytest.raises(Unavailable, match="Postgres does not answer"):
        uploads(TEN)
