"""An operator decides on calls whose fate cannot be known; nobody who is up is called again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from asterisk.pool import NeverSent
from asterisk.reconcile import longest_attempt
from deploy.embedded.valkey import Valkey
from models import ledger
from models.database import open_engine
from models.errors import Conflict, NotFound
from models.outcome import Disposition
from models.settings import Settings
from models.sightings import Sight, ending_of
from models.statements import statement
from models.statuses import Status
from scheduler import call_story, campaigns, resolving
from scheduler.cli.app import app, run
from scheduler.housekeeping import Housekeeping
from scheduler.resolving import Decision, Resolved, resolve
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, Rows, ended, saw, uuid7
from tests.integration.system import System, until

AGAIN, LEAVE = Decision.CALL_AGAIN, Decision.LEAVE


@dataclass(kw_only=True)
class Asterisks:
    """What the nodes say when they are asked."""

    live: set[UUID] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    def __call__(self, _: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def channels(self, node: str) -> set[str]:
        if node in self.silent:
            raise NeverSent("connection refused")
        return {str(id) for id in self.live}


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test")
    yield Rows(engine=engine)
    engine.dispose()


@pytest.fixture
def asterisks(monkeypatch: pytest.MonkeyPatch) -> Asterisks:
    asterisks = Asterisks()
    monkeypatch.setattr(resolving, "AmiPool", asterisks)
    return asterisks


@pytest.fixture
def settings(database: Database, valkey: Valkey, asterisks: Asterisks) -> Settings:
    return database.settings.model_copy(update={"redis_url": SecretStr(valkey.url)})


def lost(rows: Rows, number: int, *, of: int | None = None) -> tuple[str, list[UUID]]:
    """A campaign and its unknown attempts, `number` of its calls (all that are not busy), each with its slot held."""
    campaign = rows.campaign(of or number)
    attempts = rows.grant(campaign)
    rows.claim(attempts)
    lose(rows, attempts[:number])
    for attempt in attempts[number:]:
        rows.record(ended(attempt, 17, 486))
    return str(campaign), attempts[:number]


def lose(rows: Rows, attempts: Sequence[UUID]) -> None:
    now = datetime.now(UTC)
    with rows.engine.begin() as connection:
        lost = [
            replace(
                row,
                status=Status.UNKNOWN,
                disposition=Disposition.LOST.value,
                ended_at=now,
                hold_until=now + timedelta(minutes=2),
            )
            for row in ledger.lock_attempts(connection, attempts).values()
        ]
        ledger.write(connection, [ledger.Change(attempt=row) for row in lost])


def holders(rows: Rows) -> set[UUID]:
    return {row.id for row in rows.all(statement("open_attempts"))}


def complete(rows: Rows) -> None:
    with rows.engine.connect() as connection:
        Housekeeping(connection).keep(0.0)


def counts(rows: Rows, campaign: str) -> campaigns.Counts:
    with rows.engine.begin() as connection:
        return campaigns.counts(connection, campaign)


def test_calls_that_are_called_again_are_due_now_their_slots_free_and_a_completed_campaign_runs(
    rows: Rows, settings: Settings
) -> None:
    campaign, attempts = lost(rows, 3, of=5)
    complete(rows)
    assert counts(rows, campaign).status == "completed"
    assert holders(rows) == set(attempts)
    assert resolve(settings, AGAIN, campaign=campaign) == Resolved(called_again=3)
    now = counts(rows, campaign)
    assert (now.status, now.scheduled, now.unknown, now.busy, now.is_final) == ("running", 3, 0, 2, False)
    assert holders(rows) == set()
    assert {rows.attempt(id).status for id in attempts} == {"unknown"}, "what became of these is not known still"
    with rows.engine.begin() as connection:
        endings = map(ending_of, ledger.lock_attempts(connection, attempts).values())
        assert [ending and ending.left for ending in endings] == [False] * 3, "nobody has left them at that"
    newer = rows.grant(UUID(campaign))
    assert len(newer) == 3
    for attempt in rows.claim(newer):
        rows.record(ended(attempt, 17, 486))
    complete(rows)
    assert (counts(rows, campaign).status, counts(rows, campaign).busy) == ("completed", 5)


def test_calls_that_are_left_stay_unknown_and_say_so_and_may_be_called_again_all_the_same(
    rows: Rows, settings: Settings
) -> None:
    campaign, attempts = lost(rows, 2)
    complete(rows)
    assert resolve(settings, LEAVE, campaign=campaign) == Resolved(left=2)
    assert holders(rows) == set()
    assert (counts(rows, campaign).status, counts(rows, campaign).unknown) == ("completed", 2)
    call = rows.call_of(attempts[0])
    assert (call.status, call.disposition) == ("unknown", "lost")
    assert "an operator has left it" in call.explanation
    with rows.engine.begin() as connection:
        assert call_story.tell(connection, call.id).what_to_do == ""
    assert resolve(settings, LEAVE, campaign=campaign) == Resolved(left=2), "it may be asked for again"
    assert resolve(settings, AGAIN, campaign=campaign) == Resolved(called_again=2)
    assert rows.call_of(attempts[0]).explanation is None


@pytest.mark.parametrize("decision", Decision)
def test_a_call_that_is_up_is_neither_called_again_nor_robbed_of_its_slot(
    rows: Rows, settings: Settings, asterisks: Asterisks, decision: Decision
) -> None:
    campaign, (up, over) = lost(rows, 2)
    asterisks.live = {up}
    done = resolve(settings, decision, campaign=campaign)
    assert (done.called_again + done.left, done.still_up) == (1, 1)
    assert holders(rows) == {up}
    assert rows.call_of(up).status == "unknown"
    assert rows.call_of(over).status == ("scheduled" if decision is AGAIN else "unknown")


def test_what_may_be_up_at_a_node_that_does_not_answer_is_not_called_again_before_it_must_be_over(
    rows: Rows, settings: Settings, asterisks: Asterisks
) -> None:
    campaign, (may_be_up, must_be_over, elsewhere) = lost(rows, 3)
    rows.run("UPDATE attempts SET node = 'n2' WHERE id = %(id)s", id=elsewhere)
    longest = longest_attempt(settings)
    rows.run(
        "UPDATE attempts SET initiated_at = now() - %(longest)s::interval WHERE id = %(id)s",
        longest=longest,
        id=must_be_over,
    )
    asterisks.silent = {"n1"}
    done = resolve(settings, AGAIN, campaign=campaign)
    assert (done.called_again, done.not_known) == (2, 1)
    assert done.ask_again_at == rows.attempt(may_be_up).initiated_at + longest
    assert rows.call_of(may_be_up).status == "unknown"
    assert holders(rows) == {may_be_up}
    assert resolve(settings, LEAVE, campaign=campaign) == Resolved(left=1), "an operator may release it all the same"


def test_a_stopped_campaign_calls_nobody_again_and_may_be_left(rows: Rows, settings: Settings) -> None:
    campaign, attempts = lost(rows, 1)
    rows.run("UPDATE campaigns SET status = 'stopped'")
    with pytest.raises(Conflict, match="is stopped, and none of its calls is made any more: leaving them"):
        resolve(settings, AGAIN, campaign=campaign)
    assert holders(rows) == set(attempts)
    assert resolve(settings, LEAVE, campaign=campaign) == Resolved(left=1)


def test_a_paused_campaign_waits_with_what_is_to_be_called_again(rows: Rows, settings: Settings) -> None:
    campaign, _ = lost(rows, 1)
    rows.run("UPDATE campaigns SET status = 'paused'")
    assert resolve(settings, AGAIN, campaign=campaign) == Resolved(called_again=1)
    assert (counts(rows, campaign).status, counts(rows, campaign).scheduled) == ("paused", 1)


def test_only_the_calls_that_are_named_are_decided_on_and_a_single_one_by_its_id(
    rows: Rows, settings: Settings
) -> None:
    campaign, (first, second) = lost(rows, 2)
    call = rows.call_of(first).id
    assert resolve(settings, AGAIN, campaign=campaign, calls=[call]) == Resolved(called_again=1)
    assert (rows.call_of(first).status, rows.call_of(second).status) == ("scheduled", "unknown")
    with pytest.raises(Conflict, match="is scheduled, and only an unknown one"):
        resolve(settings, AGAIN, calls=[call])
    for campaign_name, id in ((None, uuid4()), (str(rows.campaign(1)), rows.call_of(second).id)):
        with pytest.raises(NotFound, match="there is no call"):
            resolve(settings, LEAVE, campaign=campaign_name, calls=[id])
    with pytest.raises(NotFound, match="there is no campaign"):
        resolve(settings, LEAVE, campaign="nobody's")
    single = uuid7()
    rows.run(
        "INSERT INTO calls (id, agent_id, phone_number, from_number) VALUES (%(id)s, %(agent)s, '+12125550101', %(n)s)",
        id=single,
        agent=rows.agent,
        n=FROM,
    )
    with rows.engine.begin() as connection:
        (due,) = ledger.pick_single_calls(connection, [FROM], 1)
        plan = rows.plan(due)
        ledger.grant(connection, [plan])
    rows.claim([plan.id])
    lose(rows, [plan.id])
    assert resolve(settings, AGAIN, calls=[single]) == Resolved(called_again=1)
    assert rows.call_of(plan.id).status == "scheduled"


# --- late evidence --------------------------------------------------------------------------------


def test_an_end_that_is_seen_before_the_new_attempt_has_left_is_the_calls(rows: Rows, settings: Settings) -> None:
    """Whoever turns out to have been talked to is not called again."""
    campaign, (scheduled, queued) = lost(rows, 2)
    resolve(settings, AGAIN, campaign=campaign, calls=[rows.call_of(queued).id])
    (newer,) = rows.grant(UUID(campaign))
    resolve(settings, AGAIN, campaign=campaign)
    for attempt in (scheduled, queued):
        rows.record(saw(attempt, Sight.ANSWERED))
        rows.record(ended(attempt, 16))
        assert (rows.call_of(attempt).status, rows.attempt(attempt).status) == ("completed", "completed")
    assert rows.attempt(newer).status == "withdrawn"
    assert rows.claim([newer]) == []
    assert rows.grant(UUID(campaign)) == []


def test_an_end_that_is_seen_after_the_new_attempt_has_left_is_the_old_attempts_alone(
    rows: Rows, settings: Settings
) -> None:
    campaign, (attempt,) = lost(rows, 1)
    resolve(settings, AGAIN, campaign=campaign)
    (newer,) = rows.claim(rows.grant(UUID(campaign)))
    rows.record(saw(attempt, Sight.RINGING), ended(attempt, 17, 486))
    assert (rows.attempt(attempt).status, rows.call_of(newer).status) == ("busy", "initiated")
    rows.record(saw(newer, Sight.RINGING))
    rows.record(ended(newer, 1, 404))
    assert (rows.call_of(newer).status, rows.call_of(newer).disposition) == ("failed", "invalid-number")


# --- who decides at the same time ------------------------------------------------------------------


def test_a_campaign_that_an_operator_has_in_hand_is_not_completed_meanwhile(rows: Rows, settings: Settings) -> None:
    campaign, attempts = lost(rows, 1)
    with rows.engine.begin() as connection:
        resolving._lock_campaigns(connection, rows.all(statement("unknown_calls"), campaign=campaign, calls=None))
        complete(rows)  # it holds up nobody
        ledger.call_again(connection, attempts)
    complete(rows)
    assert (counts(rows, campaign).status, counts(rows, campaign).scheduled) == ("running", 1)


def test_of_many_who_decide_at_once_each_call_is_called_again_once(rows: Rows, settings: Settings) -> None:
    campaign, attempts = lost(rows, 40)
    done: list[Resolved] = []
    threads = [
        threading.Thread(target=lambda n=n: done.append(resolve(settings, (AGAIN, LEAVE)[n % 2], campaign=campaign)))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 6
    assert sum(one.called_again for one in done) == len(attempts)
    assert (counts(rows, campaign).scheduled, counts(rows, campaign).unknown) == (40, 0)


# --- the command -----------------------------------------------------------------------------------


def test_the_command_says_which_decisions_there_are_and_what_was_done(
    rows: Rows,
    settings: Settings,
    asterisks: Asterisks,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("scheduler.cli.resolve.read_settings", lambda: settings)
    campaign, (up, over, may_be_up) = lost(rows, 3)
    rows.run("UPDATE attempts SET node = 'n2' WHERE id = %(id)s", id=may_be_up)
    for words in ((), ("--leave", "--call-again")):
        assert run(app, ("campaign", "resolve", campaign, *words)) == 2
        usage = capsys.readouterr().err
        assert all(word in usage for word in ("--call-again", "--leave", "slots"))
    asterisks.live, asterisks.silent = {up}, {"n2"}
    assert run(app, ("campaign", "resolve", campaign, "--call-again")) == 1
    said = capsys.readouterr()
    assert said.out == "1 to be called again, 1 still up: their end will be seen\n"
    assert "1 not decided on, since their node does not answer" in said.err
    assert run(app, ("resolve", str(rows.call_of(may_be_up).id), "--leave")) == 0
    assert capsys.readouterr().out == "1 left as unknown\n"
    assert run(app, ("campaign", "resolve", campaign, "--leave", "--call", str(rows.call_of(over).id))) == 1
    assert "is scheduled" in capsys.readouterr().err
    assert run(app, ("resolve", "42", "--leave")) == 1
    rows.run("DELETE FROM attempts")
    assert run(app, ("campaign", "resolve", campaign, "--leave")) == 0
    assert capsys.readouterr().out == "no call is unknown\n"


# --- the whole -------------------------------------------------------------------------------------


def test_calls_that_were_up_when_their_asterisk_died_are_called_again_or_left_as_the_operator_decides(
    system: System,
) -> None:
    from_number, agent = system.add_trunk("resolve", slots=3), system.add_agent("resolve", "playback://demo-congrats")
    again, left = (system.call(agent, from_number, number) for number in ("+13185550100", "+13195550100"))
    until(lambda: [system.status(call) for call in (again, left)] == ["in-progress"] * 2)
    system.run("UPDATE agents SET connect = 'playback://hello-world' WHERE id = %(id)s", id=agent)
    system.kill("asterisk")
    until(lambda: system.value("SELECT heard_at IS NULL FROM nodes"), what="the node is deaf")
    system.start("asterisk")
    until(lambda: [system.status(call) for call in (again, left)] == ["unknown"] * 2, within=60)
    trunk_id = system.value("SELECT id FROM trunks WHERE name = 'resolve'")
    assert system.slots.in_use("trunk", trunk_id) == 2
    assert system.trunkline("resolve", left, "--leave") == "1 left as unknown\n"
    assert system.trunkline("resolve", again, "--call-again") == "1 to be called again\n"
    until(lambda: system.status(again) == "completed", within=60)
    assert (len(system.carried("+13185550100")), len(system.carried("+13195550100"))) == (2, 1)
    until(lambda: system.slots.in_use("trunk", trunk_id) == 0, what="every slot is free")
    assert "operator has left it" in system.trunkline("explain", left)
