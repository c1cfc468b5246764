"""What is made of a gap: nothing is guessed, nothing that happened in it is left for an hour."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import DeadlockDetected
from sqlalchemy.exc import OperationalError

from asterisk import ears
from asterisk import listener as listening
from asterisk.connection import AmiMessage, MaybeSent
from asterisk.link import Down, Up
from asterisk.listener import Listener
from asterisk.reconcile import SILENT_FOR, Reconciler
from deploy.embedded.valkey import Valkey
from models import roles
from models.database import open_engine
from models.roles import hold, listener_of
from models.settings import Login, Node
from models.sightings import Sight, Sighting
from models.slots import Freer, Slots, connect
from tests.integration.conftest import Database, PostgresServer
from tests.integration.ledger_rows import Rows, ended, saw
from tests.integration.system import until

LOGIN = Login(username="u", secret="s")
OLD = timedelta(seconds=5)
NODE = Node(name="n1", host="127.0.0.1", port=1, listener=LOGIN, sender=LOGIN)


@dataclass(kw_only=True)
class ScriptedLink:
    """Asterisk, as far as the listener sees it: what it tells, and what it answers."""

    inbox: queue.SimpleQueue[AmiMessage | Up | Down] = field(default_factory=queue.SimpleQueue)
    live: dict[UUID, str] = field(default_factory=dict)
    with_mark: set[UUID] = field(default_factory=set)
    silent_for: int = 0  #: so many questions get no answer
    blind_for: int = 0  #: so many looks at the channels came too early to see them

    opened: int = 0
    closed: int = 0

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1
        self.inbox.put(Down("stopped"))

    def take(self, *, at_most: int, wait: timedelta) -> list[AmiMessage | Up | Down]:
        try:
            return [self.inbox.get(timeout=wait.total_seconds())]
        except queue.Empty:
            return []

    def channels(self) -> dict[UUID, str]:
        self.blind_for -= 1
        return {} if self.blind_for >= 0 else self.live

    def startup(self) -> str:
        if self.silent_for:
            self.silent_for -= 1
            raise MaybeSent("no answer in time")
        return "2026-05-04 12:00:00"

    def version(self) -> str:
        return "22.10.1"

    def marked(self, marks: Mapping[UUID, str]) -> set[UUID]:
        return self.with_mark & marks.keys()


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test")
    yield Rows(engine=engine)
    engine.dispose()


@pytest.fixture
def cel(database: Database) -> Iterator[Any]:
    """Writes rows as Asterisk does: `cel(attempt, "HANGUP", cause)`."""
    with psycopg.connect(database.owner_url, autocommit=True) as connection:

        def write(attempt_id: UUID, kind: str, cause: int | None = None) -> None:
            connection.execute(
                "INSERT INTO cel (eventtype, eventtime, uniqueid, extra) VALUES (%s, clock_timestamp(), %s, %s)",
                (kind, str(attempt_id), "" if cause is None else f'{{"hangupcause":{cause},"hangupsource":""}}'),
            )

        yield write


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> ScriptedLink:
    link = ScriptedLink()
    monkeypatch.setattr(ears, "Link", lambda node: link)
    monkeypatch.setattr(listening, "_LOOK_EVERY", 0.05)
    return link


@pytest.fixture
def listens(database: Database, valkey: Valkey, link: ScriptedLink, rows: Rows) -> Iterator[None]:
    rows.run("UPDATE nodes SET heard_at = NULL, listening_since = NULL")
    stop = threading.Event()
    listener = Listener(database.settings, NODE, Freer(Slots(connect(valkey.url))))
    thread = threading.Thread(target=listener.run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def claimed(rows: Rows, *sights: Sight, ago: timedelta = timedelta(0)) -> UUID:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    for sight in sights:
        rows.record(saw(attempt, sight))
    rows.run(
        "UPDATE attempts SET initiated_at = initiated_at - %(ago)s::interval WHERE id = %(id)s", ago=ago, id=attempt
    )
    return attempt


def is_heard(rows: Rows) -> bool:
    return bool(rows.value("SELECT heard_at IS NOT NULL FROM nodes"))


# --- the listener ---------------------------------------------------------------------------------


def hangup(attempt_id: UUID, cause: int) -> AmiMessage:
    return AmiMessage(name="Hangup", headers={"uniqueid": str(attempt_id), "cause": str(cause), "techcause": ""})


@pytest.mark.usefixtures("listens")
def test_a_call_that_was_answered_in_the_gap_and_ends_after_it_is_completed(
    rows: Rows, link: ScriptedLink, cel: Any
) -> None:
    """Too young to be looked up, its Newstate Up unheard: only Asterisk's own ledger knows of the answer."""
    attempt = claimed(rows, Sight.RINGING)
    for kind in ("CHAN_START", "ANSWER"):
        cel(attempt, kind)
    link.live[attempt] = "Up"
    link.inbox.put(Up())
    link.inbox.put(hangup(attempt, 16))
    until(lambda: rows.attempt(attempt).ended_at)
    assert (rows.attempt(attempt).status, rows.attempt(attempt).disposition) == ("completed", "answered")


@pytest.mark.usefixtures("listens")
def test_a_node_that_did_not_answer_after_a_gap_is_asked_again_until_it_is_heard(
    rows: Rows, link: ScriptedLink
) -> None:
    link.silent_for = 3
    link.inbox.put(Up())
    until(lambda: link.silent_for == 0)
    until(lambda: is_heard(rows), what="the node is heard")


@pytest.mark.usefixtures("listens")
def test_a_node_is_deaf_as_soon_as_its_link_is_down(rows: Rows, link: ScriptedLink) -> None:
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    link.inbox.put(Down("cut"))
    until(lambda: not is_heard(rows))
    assert rows.value("SELECT listening_since IS NULL FROM nodes")


def refusal(attempt_id: UUID) -> AmiMessage:
    id = str(attempt_id)
    headers = {"actionid": id, "uniqueid": id, "response": "Failure", "reason": "0"}
    return AmiMessage(name="OriginateResponse", headers=headers)


@pytest.mark.usefixtures("listens")
def test_a_refused_duplicate_after_a_gap_says_nothing_of_the_call_that_was_made_before_it(
    rows: Rows, link: ScriptedLink
) -> None:
    """Its Newchannel was heard by nobody who still remembers it, and the refusal names the live channel."""
    attempt, other = claimed(rows, ago=OLD), claimed(rows, Sight.RINGING)
    link.live[attempt] = "Down"
    link.inbox.put(Up())
    link.inbox.put(refusal(attempt))
    link.inbox.put(hangup(other, 17))
    until(lambda: rows.attempt(other).ended_at, what="what was said before it has been read")
    assert (rows.attempt(attempt).status, rows.call_of(attempt).status) == ("initiated", "initiated")
    link.inbox.put(hangup(attempt, 17))
    until(lambda: rows.attempt(attempt).status == "busy")


@pytest.mark.usefixtures("listens")
def test_what_ended_while_the_link_was_down_is_looked_up_when_it_is_up_again(
    rows: Rows, link: ScriptedLink, cel: Any
) -> None:
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    attempt = claimed(rows, Sight.RINGING)
    link.live[attempt] = "Ringing"
    link.inbox.put(Down("cut"))
    until(lambda: not is_heard(rows))
    del link.live[attempt]
    for kind, cause in (("CHAN_START", None), ("HANGUP", 17)):
        cel(attempt, kind, cause)
    rows.run("UPDATE attempts SET initiated_at = initiated_at - interval '5 seconds'")
    link.inbox.put(Up())
    until(lambda: rows.attempt(attempt).status == "busy")


@pytest.mark.usefixtures("listens")
def test_what_comes_to_be_overdue_is_looked_up_every_few_seconds_without_any_gap(
    rows: Rows, link: ScriptedLink
) -> None:
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    attempt = claimed(rows, ago=SILENT_FOR + OLD)
    until(lambda: rows.attempt(attempt).status == "withdrawn", what="the verdict")
    until(lambda: rows.call_of(attempt).status == "scheduled", what="the second look")
    assert repaired(rows) == {"attempt-withdrawn": 1}


@contextmanager
def database_away(database: Database, postgres: PostgresServer) -> Iterator[None]:
    """Whoever is connected is thrown out, and nobody gets in."""
    name = urlsplit(database.owner_url).path.strip("/")
    database.engine.dispose()
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def message(name: str, **headers: str) -> AmiMessage:
    return AmiMessage(name=name, headers=headers)


@pytest.mark.usefixtures("listens")
def test_what_was_heard_while_the_database_was_away_is_written_before_anything_is_judged(
    rows: Rows, link: ScriptedLink, database: Database, postgres: PostgresServer
) -> None:
    """Asterisk's own ledger has nothing of it: who looked first would find a channel that vanished."""
    attempt, refused = claimed(rows, Sight.RINGING, ago=OLD), claimed(rows)
    link.live[attempt] = "Ringing"
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    rows.run("UPDATE attempts SET initiated_at = clock_timestamp() WHERE id = %(id)s", id=refused)
    with database_away(database, postgres):
        del link.live[attempt]
        link.inbox.put(hangup(attempt, 17))
        link.inbox.put(message("OriginateResponse", response="Failure", actionid=str(refused)))
    until(lambda: rows.attempt(attempt).ended_at, what="it has ended")
    assert rows.attempt(attempt).status == "busy"
    assert all("unknown" not in move for move in rows.moves(attempt))
    until(lambda: rows.attempt(refused).ended_at, what="the refusal is written")
    assert rows.attempt(refused).disposition == "not-placed", "the stream is whole: it shows that nobody was called"
    until(lambda: is_heard(rows), what="the node is heard again")


@pytest.mark.usefixtures("listens")
def test_a_gap_while_the_database_was_away_is_a_gap(
    rows: Rows, link: ScriptedLink, database: Database, postgres: PostgresServer, cel: Any
) -> None:
    """Also one because more was heard than could be kept: what came before it is written, what followed is looked up."""
    kept, missed = claimed(rows, Sight.RINGING, ago=OLD), claimed(rows, Sight.RINGING, ago=OLD)
    refused = claimed(rows, ago=OLD)
    link.live |= {kept: "Ringing", missed: "Ringing", refused: "Down"}
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    cel(missed, "HANGUP", 17)
    with database_away(database, postgres):
        link.live.clear()
        link.inbox.put(hangup(kept, 17))
        link.inbox.put(Down("the events were more than could be taken in"))
        link.inbox.put(Up())
        link.inbox.put(message("OriginateResponse", response="Failure", actionid=str(refused)))
    until(lambda: rows.attempt(kept).ended_at and rows.attempt(missed).ended_at, what="both have ended")
    assert [rows.attempt(id).status for id in (kept, missed)] == ["busy", "busy"]
    until(lambda: rows.attempt(refused).ended_at, what="it was looked up")
    assert rows.attempt(refused).disposition is None, "a channel may have been made unheard: only a look tells"


@pytest.mark.usefixtures("listens")
def test_what_was_heard_is_handed_in_where_another_one_listens_by_now(
    rows: Rows, link: ScriptedLink, database: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_HOLD_AGAIN_AFTER", 2.0)
    attempt = claimed(rows, Sight.RINGING)
    link.live[attempt] = "Ringing"
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    with database_away(database, postgres):
        link.inbox.put(hangup(attempt, 17))
    with hold(database.settings, listener_of("n1"), threading.Event()) as role:
        assert role is not None
        until(lambda: rows.attempt(attempt).ended_at, what="it is written by who has no role")
        assert rows.attempt(attempt).status == "busy"
        until(lambda: link.closed == 1, what="it hears no more")
    until(lambda: link.opened == 2, what="it listens again")


@pytest.mark.usefixtures("listens")
def test_who_finds_the_role_held_by_a_dead_session_of_its_own_hears_on(
    rows: Rows, link: ScriptedLink, database: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_HOLD_AGAIN_AFTER", 2.0)
    attempt = claimed(rows, Sight.RINGING)
    link.live[attempt] = "Ringing"
    link.inbox.put(Up())
    until(lambda: is_heard(rows))
    with database_away(database, postgres):
        link.inbox.put(hangup(attempt, 17))
    with database.engine.connect() as dead:
        assert roles._try_lock(dead, listener_of("n1"))
        until(lambda: rows.attempt(attempt).ended_at, what="what was heard is written")
    until(lambda: is_heard(rows), what="it listens again")
    assert (link.opened, link.closed) == (1, 0)


@pytest.mark.usefixtures("listens")
def test_a_deadlock_costs_a_look_and_not_the_role(
    rows: Rows, link: ScriptedLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = until(lambda: rows.value("SELECT max(epoch) FROM roles"))
    attempt = claimed(rows, ago=OLD)
    link.live[attempt] = "Up"
    deadlocks = iter([DeadlockDetected("deadlock detected")] * 2)

    def find(reconciler: Reconciler, ids: Sequence[UUID]) -> Any:
        for deadlock in deadlocks:
            raise OperationalError("SELECT", {}, deadlock)
        return looked(reconciler, ids)

    looked = Reconciler._find
    monkeypatch.setattr(Reconciler, "_find", find)
    link.inbox.put(Up())
    until(lambda: rows.attempt(attempt).status == "in-progress", what="it was looked up")
    assert rows.value("SELECT max(epoch) FROM roles") == epoch


# --- the look -------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Look:
    """A reconciler whose clock the test moves."""

    rows: Rows
    link: ScriptedLink
    database: Database
    clock: float = 0.0
    heard: list[Sighting] = field(default_factory=list)  #: and not written when a look begins

    def __enter__(self) -> Self:
        self._connection = self.rows.engine.connect()
        self.reconciler = Reconciler(
            self.database.settings,
            "n1",
            self._connection,
            self.link,  # type: ignore[arg-type]
            self._catch_up,
            now=lambda: self.clock,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _catch_up(self) -> None:
        self.rows.record(*self.heard)

    def after_gap(self) -> list[UUID]:
        return [row.id for row in self.reconciler.after_gap(datetime.now(UTC))]


@pytest.fixture
def look(rows: Rows, database: Database) -> Iterator[Look]:
    with Look(rows=rows, link=ScriptedLink(), database=database) as look:
        yield look


def repaired(rows: Rows) -> dict[str, int]:
    return {row.what: row.times for row in rows.all("SELECT what, times FROM repairs")}


def test_what_ended_in_the_gap_while_it_was_in_hand_is_looked_up_a_moment_later(
    rows: Rows, look: Look, cel: Any
) -> None:
    attempt = claimed(rows, Sight.RINGING)
    cel(attempt, "CHAN_START")
    cel(attempt, "HANGUP", 17)
    assert look.after_gap() == []
    assert rows.attempt(attempt).status == "ringing", "it is too young for a verdict"
    rows.run("UPDATE attempts SET initiated_at = initiated_at - interval '4 seconds'")
    look.clock += 4.0
    assert [row.id for row in look.reconciler.overdue()] == [attempt]
    assert rows.attempt(attempt).status == "busy"
    other = claimed(rows, Sight.RINGING, ago=OLD)
    assert look.reconciler.overdue() == []
    assert rows.attempt(other).status == "ringing", "only what is overdue from then on"


def test_a_channel_that_ended_while_it_was_looked_for_has_ended_as_was_heard(rows: Rows, look: Look) -> None:
    """Its Hangup waits behind our question, and nobody has written it down for us."""
    attempt = claimed(rows, Sight.RINGING, ago=OLD)
    look.heard.append(ended(attempt, 17))
    assert look.after_gap() == []
    assert rows.attempt(attempt).status == "busy"
    assert all("unknown" not in move for move in rows.moves(attempt))


def test_a_live_channel_carries_on(rows: Rows, look: Look) -> None:
    attempt = claimed(rows, ago=OLD)
    look.link.live[attempt] = "Up"
    assert look.after_gap() == []
    assert rows.attempt(attempt).status == "in-progress"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("CHAN_START", None), ("ANSWER", None), ("HANGUP", 16)], ("completed", "answered")),
        ([("CHAN_START", None), ("HANGUP", 17)], ("busy", "busy")),
        ([("CHAN_START", None), ("HANGUP", 21)], ("failed", "rejected")),
        ([("CHAN_START", None), ("HANGUP", 0)], ("failed", "not-placed")),
    ],
)
def test_an_outcome_in_asterisks_ledger_is_that_outcome(
    rows: Rows, look: Look, cel: Any, events: list[tuple[str, int | None]], expected: tuple[str, str]
) -> None:
    attempt = claimed(rows, ago=OLD)
    for kind, cause in events:
        cel(attempt, kind, cause)
    assert look.after_gap() == [attempt]
    assert (rows.attempt(attempt).status, rows.attempt(attempt).disposition) == expected


@pytest.mark.parametrize("sign", ["cel", "mark", "event", "restart"])
def test_a_channel_that_was_made_and_has_no_end_is_unknown_and_keeps_its_slot(
    rows: Rows, look: Look, cel: Any, sign: str
) -> None:
    attempt = claimed(rows, *([Sight.RINGING] if sign == "event" else []), ago=OLD)
    if sign == "cel":
        cel(attempt, "CHAN_START")
    if sign == "mark":
        look.link.with_mark.add(attempt)
    if sign == "restart":
        rows.run("UPDATE nodes SET started_at = clock_timestamp()")
    assert look.after_gap() == []
    row = rows.attempt(attempt)
    assert (row.status, row.disposition, rows.call_of(attempt).status) == ("unknown", "lost", "unknown")
    longest = look.database.settings.ring_timeout + look.database.settings.longest_call
    at_least = longest - OLD * 2 if sign == "restart" else look.database.settings.lost_call_hold - OLD
    assert row.hold_until - datetime.now(UTC) > at_least


@pytest.mark.parametrize("trace", ["cel", "mark"])
def test_a_channel_that_was_made_between_the_look_at_the_channels_and_that_at_its_traces_is_live(
    rows: Rows, look: Look, cel: Any, trace: str
) -> None:
    attempt = claimed(rows, ago=OLD)
    look.link.live[attempt], look.link.blind_for = "Ringing", 1
    if trace == "cel":
        cel(attempt, "CHAN_START")
    else:
        look.link.with_mark.add(attempt)
    assert look.after_gap() == []
    assert rows.attempt(attempt).status == "ringing"


def test_an_unknown_attempt_that_has_a_channel_after_all_keeps_its_slot_until_the_call_ends(
    rows: Rows, look: Look, cel: Any
) -> None:
    attempt = claimed(rows, ago=OLD)
    cel(attempt, "CHAN_START")
    look.after_gap()
    rows.run("UPDATE attempts SET hold_until = clock_timestamp() + interval '3 s'")
    look.link.live[attempt] = "Up"
    assert look.reconciler.overdue() == []
    row = rows.attempt(attempt)
    assert row.status == "unknown"
    assert row.hold_until - datetime.now(UTC) > look.database.settings.lost_call_hold - OLD
    assert rows.record(ended(attempt, 16)) == [attempt]
    assert rows.call_of(attempt).status == "completed"


def test_no_trace_at_all_is_withdrawn_first_and_given_back_after_a_second_look(rows: Rows, look: Look) -> None:
    attempt = claimed(rows, ago=OLD)
    assert look.after_gap() == []
    assert (rows.attempt(attempt).status, rows.call_of(attempt).status) == ("withdrawn", "initiated")
    assert look.reconciler.second_looks() == [], "2 s have not passed"
    rows.run("UPDATE attempts SET hold_until = now()")
    assert [row.id for row in look.reconciler.second_looks()] == [attempt]
    assert rows.call_of(attempt).status == "scheduled"


def test_a_channel_that_passed_the_gate_just_before_it_closed_is_found_by_the_second_look(
    rows: Rows, look: Look, cel: Any
) -> None:
    alive, made = claimed(rows, ago=OLD), claimed(rows, ago=OLD)
    look.after_gap()
    rows.run("UPDATE attempts SET hold_until = now()")
    look.link.live[alive] = "Ringing"
    look.link.with_mark.add(made)
    assert look.reconciler.second_looks() == []
    assert (rows.attempt(alive).status, rows.call_of(alive).status) == ("ringing", "ringing")
    assert (rows.attempt(made).status, rows.call_of(made).status) == ("unknown", "unknown")


def test_an_end_that_reaches_asterisks_ledger_after_the_verdict_is_that_end(rows: Rows, look: Look, cel: Any) -> None:
    """Its Postgres was frozen: the row waited in Asterisk's memory."""
    attempt = claimed(rows, Sight.RINGING, ago=OLD)
    look.after_gap()
    assert (rows.attempt(attempt).status, rows.call_of(attempt).status) == ("unknown", "unknown")
    cel(attempt, "HANGUP", 17)
    assert [row.id for row in look.reconciler.overdue()] == [attempt]
    assert (rows.attempt(attempt).status, rows.call_of(attempt).status) == ("busy", "busy")
    assert repaired(rows) == {"attempt-lost": 1, "verdict-overturned": 1}


def test_a_call_that_is_up_for_longer_than_any_can_be_is_looked_up(rows: Rows, look: Look, cel: Any) -> None:
    settings = look.database.settings
    attempt = claimed(rows, Sight.ANSWERED, ago=settings.ring_timeout + settings.longest_call)
    assert look.reconciler.overdue() == []
    assert rows.attempt(attempt).status == "in-progress"
    rows.run("UPDATE attempts SET initiated_at = initiated_at - interval '1 minute'")
    cel(attempt, "HANGUP", 16)
    assert [row.id for row in look.reconciler.overdue()] == [attempt]
    assert rows.attempt(attempt).status == "completed"


@pytest.mark.parametrize("which", ["after the gap", "the second look"])
def test_a_look_that_waits_for_an_attempt_keeps_nobody_from_what_is_locked_after_attempts(
    rows: Rows, look: Look, cel: Any, which: str
) -> None:
    failed, other = claimed(rows, ago=OLD), claimed(rows, ago=OLD)
    rows.run("INSERT INTO gateway_health (gateway_id) VALUES (%(id)s)", id=rows.gateway)
    do = look.after_gap
    if which == "the second look":
        look.after_gap()
        rows.run("UPDATE attempts SET hold_until = now() WHERE hold_until IS NOT NULL")
        do = look.reconciler.second_looks  # type: ignore[assignment]
    cel(failed, "CHAN_START")
    cel(failed, "HANGUP", 34)
    with ThreadPoolExecutor() as executor:
        with rows.engine.begin() as writer:
            writer.exec_driver_sql("SELECT FROM attempts WHERE id = %(id)s FOR UPDATE", {"id": other})
            looking = executor.submit(do)
            until(lambda: rows.value("SELECT count(*) FROM pg_locks WHERE NOT granted"), what="it waits")
            writer.exec_driver_sql("SELECT FROM gateway_health FOR UPDATE NOWAIT")
        looking.result(30)
    assert rows.attempt(failed).disposition == "congestion"


def test_every_verdict_and_every_verdict_that_was_overturned_is_counted(rows: Rows, look: Look) -> None:
    alive, made, gone = (claimed(rows, ago=OLD) for _ in range(3))
    lost = claimed(rows, Sight.RINGING, ago=OLD)
    look.after_gap()
    assert rows.attempt(lost).status == "unknown"
    assert repaired(rows) == {"attempt-withdrawn": 3, "attempt-lost": 1}
    rows.run("UPDATE attempts SET hold_until = now() WHERE status = 'withdrawn'")
    look.link.live[alive] = "Ringing"
    look.link.with_mark.add(made)
    assert [row.id for row in look.reconciler.second_looks()] == [gone]
    assert repaired(rows) == {"attempt-withdrawn": 3, "attempt-lost": 2, "verdict-overturned": 2}
