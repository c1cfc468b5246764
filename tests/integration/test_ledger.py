"""Every write to an attempt or a call is conditional, happens once, and never deadlocks."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from models import ledger
from models.database import open_engine
from models.outcome import Disposition
from models.sightings import AtTheEnd, Sight, Sighting
from models.statements import statement
from models.statuses import DIALABLE, ENDS, Status
from tests.integration.conftest import Database
from tests.integration.ledger_rows import TIMER_B, Rows, ended, saw
from tests.integration.system import until

T = TypeVar("T")


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = open_engine(database.settings, "trunkline-test", pool_size=24)
    yield engine
    engine.dispose()


@pytest.fixture
def rows(engine: Engine) -> Rows:
    return Rows(engine=engine)


def at_once(work: Callable[[int], T], threads: int) -> list[T]:
    """Runs `work(0)`, `work(1)`, ... in threads that start together; the first error is the test's."""
    ready = threading.Barrier(threads)

    def start(number: int) -> T:
        ready.wait(30)
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return [done.result(60) for done in [pool.submit(start, number) for number in range(threads)]]


def waiting_for_a_lock(rows: Rows) -> int:
    return int(rows.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))


@contextmanager
def holding(engine: Engine, sql: str, **parameters: object) -> Iterator[Connection]:
    """A transaction that has run `sql` and stays open."""
    with engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters)
        yield connection


# --- the claim ------------------------------------------------------------------------------------


def test_attempts_that_twenty_workers_claim_at_once_are_each_claimed_by_one(rows: Rows) -> None:
    attempts = rows.grant(rows.campaign(60))

    def work(number: int) -> list[UUID]:
        mine = random.Random(number).sample(attempts, len(attempts))
        return [id for start in range(0, len(mine), 15) for id in rows.claim(mine[start : start + 15])]

    claimed = Counter(id for ids in at_once(work, 20) for id in ids)
    assert claimed == Counter(attempts)
    assert rows.all("SELECT DISTINCT a.status, c.status FROM attempts a JOIN calls c ON c.id = a.call_id") == [
        ("initiated", "initiated")
    ]


def test_a_second_delivery_finds_nothing_to_claim(rows: Rows) -> None:
    attempts = rows.grant(rows.campaign(3))
    assert sorted(rows.claim(attempts)) == sorted(attempts)
    assert rows.claim(attempts) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE campaigns SET status = 'paused'",
        "UPDATE campaigns SET status = 'stopped'",
        "UPDATE trunks SET is_active = false",
        "UPDATE attempts SET queued_at = clock_timestamp() - interval '30 seconds'",
        "UPDATE calls SET status = 'canceled'",
        "UPDATE calls SET current_attempt_id = NULL",
    ],
)
def test_a_claim_is_refused_once_the_ground_for_it_is_gone(rows: Rows, change: str) -> None:
    attempts = rows.grant(rows.campaign(2))
    rows.run(change)
    assert rows.claim(attempts) == []
    assert {rows.attempt(id).status for id in attempts} == {"queued"}


def test_what_was_withdrawn_cannot_be_claimed_though_its_call_has_not_been_given_back(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    withdraw(rows, [attempt], Status.QUEUED, second_look_after=timedelta(0))
    assert rows.call_of(attempt).status == "queued"
    assert rows.claim([attempt]) == []


def test_a_claim_goes_through_just_before_its_grant_is_void(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.run("UPDATE attempts SET queued_at = clock_timestamp() - interval '25 seconds'")
    with rows.engine.begin() as connection:
        (claim,) = ledger.claim(connection, [attempt])
    assert (claim.connect, claim.node, claim.trunk_id) == ("playback://demo-congrats", "n1", rows.trunk)


def test_a_single_call_is_claimed_without_a_campaign(rows: Rows) -> None:
    (call,) = single_calls(rows, 1)
    with rows.engine.begin() as connection:
        (due,) = ledger.pick_single_calls(connection, ["+12025550100"], 5)
        assert due.id == call
        grant = rows.plan(due)
        ledger.grant(connection, [grant])
    assert rows.claim([grant.id]) == [grant.id]


def single_calls(rows: Rows, number: int) -> list[UUID]:
    return [
        row[0]
        for row in rows.all(
            "INSERT INTO calls (id, agent_id, phone_number, from_number)"
            " SELECT gen_random_uuid(), %(agent)s, '+1213' || (1000000 + n), '+12025550100' FROM generate_series(1, %(n)s) n"
            " RETURNING id",
            agent=rows.agent,
            n=number,
        )
    ]


def test_a_claim_waits_for_a_pause_in_hand_and_then_refuses_and_locks_no_attempt_meanwhile(rows: Rows) -> None:
    """A pause locks its campaign first and its attempts after it: so must the claim, or the two deadlock."""
    campaign = rows.campaign(3)
    attempts = rows.grant(campaign)
    with ThreadPoolExecutor(1) as pool:
        with holding(rows.engine, "UPDATE campaigns SET status = 'paused' WHERE id = %(id)s", id=campaign) as pausing:
            claimed = pool.submit(rows.claim, attempts)
            until(lambda: waiting_for_a_lock(rows), what="the claim waits for the campaign's row")
            pausing.exec_driver_sql("SELECT FROM attempts FOR UPDATE NOWAIT")
        assert claimed.result(30) == []


def test_a_pause_waits_for_a_claim_in_hand_and_then_finds_it(rows: Rows) -> None:
    campaign = rows.campaign(1)
    attempts = rows.grant(campaign)

    def pause() -> list[tuple[str]]:
        with holding(rows.engine, "SELECT FROM campaigns WHERE id = %(id)s FOR UPDATE", id=campaign) as pausing:
            return [tuple(row) for row in pausing.exec_driver_sql("SELECT status FROM attempts")]

    with ThreadPoolExecutor(1) as pool:
        with rows.engine.begin() as claiming:
            assert len(ledger.claim(claiming, attempts)) == 1
            paused = pool.submit(pause)
            until(lambda: waiting_for_a_lock(rows), what="the pause waits for the claim")
        assert paused.result(30) == [("initiated",)]


# --- withdraw, give back --------------------------------------------------------------------------


def withdraw(rows: Rows, ids: Sequence[UUID], *of: Status, **more: object) -> list[UUID]:
    with rows.engine.begin() as connection:
        return ledger.withdraw(
            connection,
            ids,
            of=set(of),
            explanation="a test",
            **more,  # type: ignore[arg-type]
        )


def test_only_attempts_in_the_given_statuses_are_withdrawn_and_their_calls_come_back_due(rows: Rows) -> None:
    queued, initiated, ringing = rows.grant(rows.campaign(3))
    rows.claim([initiated, ringing])
    rows.record(saw(ringing, Sight.RINGING))
    assert withdraw(rows, [queued, initiated, ringing], Status.QUEUED) == [queued]
    assert withdraw(rows, [queued, initiated, ringing], Status.INITIATED, delay=timedelta(hours=1)) == [initiated]
    assert [rows.attempt(id).status for id in (queued, initiated, ringing)] == ["withdrawn", "withdrawn", "ringing"]
    assert [rows.call_of(id).status for id in (queued, initiated, ringing)] == ["scheduled", "scheduled", "ringing"]
    assert rows.value("SELECT due_at <= now() FROM calls WHERE id = %(id)s", id=rows.call_of(queued).id)
    assert rows.value(
        "SELECT due_at > now() + interval '59 minutes' FROM calls WHERE id = %(id)s", id=rows.call_of(initiated).id
    )
    assert rows.claim([queued, initiated]) == []


def test_a_withdrawal_by_an_operator_cancels_the_call(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    withdraw(rows, [attempt], Status.QUEUED, disposition=Disposition.CANCELED)
    call = rows.call_of(attempt)
    assert (call.status, call.disposition, call.ended_at is not None) == ("canceled", "canceled", True)


def holders(rows: Rows) -> set[UUID]:
    return {row.id for row in rows.all(statement("open_attempts"))}


def pending(rows: Rows) -> UUID:
    """An attempt that was claimed and withdrawn, whose verdict awaits its second look."""
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    withdraw(rows, [attempt], Status.INITIATED, second_look_after=timedelta(0))
    return attempt


def test_a_verdict_keeps_its_call_and_its_slot_until_the_second_look(rows: Rows) -> None:
    attempt = pending(rows)
    assert rows.attempt(attempt).status == "withdrawn"
    assert rows.call_of(attempt).status == "initiated"
    assert holders(rows) == {attempt}
    with rows.engine.begin() as connection:
        assert ledger.give_back(connection, [attempt]) == [attempt]
    assert rows.call_of(attempt).status == "scheduled"
    assert holders(rows) == set()
    with rows.engine.begin() as connection:
        assert ledger.give_back(connection, [attempt]) == [], "given back already"


def test_what_is_learned_of_a_withdrawn_attempt_does_not_give_its_call_back_before_the_second_look(rows: Rows) -> None:
    attempt = pending(rows)
    late = Sighting(attempt_id=attempt, at=datetime.now(UTC), sight=Sight.AGENT_LEG, text="CHANUNAVAIL")
    assert rows.record(late) == []
    assert (rows.attempt(attempt).status, rows.attempt(attempt).agent_status) == ("withdrawn", "CHANUNAVAIL")
    assert rows.call_of(attempt).status == "initiated"
    assert holders(rows) == {attempt}


def test_an_attempt_that_lives_after_all_has_its_verdict_taken_back(rows: Rows) -> None:
    attempt = pending(rows)
    assert rows.record(saw(attempt, Sight.RINGING)) == []
    assert (rows.attempt(attempt).status, rows.attempt(attempt).hold_until) == ("ringing", None)
    assert rows.call_of(attempt).status == "ringing"
    with rows.engine.begin() as connection:
        assert ledger.give_back(connection, [attempt]) == []
    assert rows.record(ended(attempt, 17, 486)) == [attempt]
    assert rows.call_of(attempt).status == "busy"


def test_who_holds_a_slot_is_what_is_open_and_what_is_lost_until_its_hold_is_over(
    rows: Rows, database: Database
) -> None:
    attempts = rows.grant(rows.campaign(len(Status)))
    in_status: dict[Status, UUID] = dict(zip(set(Status) - {Status.SCHEDULED}, attempts, strict=False))
    force_status(database, {id: status for status, id in in_status.items()})
    assert holders(rows) == set(attempts[len(in_status) :]) | {
        in_status[status] for status in (*DIALABLE, Status.QUEUED)
    }
    rows.run("UPDATE attempts SET hold_until = now() + interval '1 minute'")
    assert {in_status[Status.UNKNOWN], in_status[Status.WITHDRAWN]} <= holders(rows)
    assert not holders(rows) & {in_status[status] for status in ENDS}
    rows.run("UPDATE attempts SET hold_until = now() - interval '1 second'")
    assert in_status[Status.UNKNOWN] not in holders(rows)
    assert in_status[Status.WITHDRAWN] in holders(rows), "until it has been given back"


def force_status(database: Database, statuses: dict[UUID, Status]) -> None:
    """Any status at all, past the triggers: what is asked is a query."""
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for id, status in statuses.items():
            connection.execute("UPDATE attempts SET status = %s WHERE id = %s", (status.value, id))


def test_a_call_that_could_not_be_placed_three_times_has_failed(rows: Rows) -> None:
    campaign, attempt = rows.campaign(1), UUID(int=0)
    for time in (1, 2, 3):
        rows.run("UPDATE calls SET due_at = now()")
        (attempt,) = rows.grant(campaign)
        rows.claim([attempt])
        assert rows.record(saw(attempt, Sight.NOT_PLACED)) == [attempt]
        assert rows.call_of(attempt).not_placed == time
        assert rows.call_of(attempt).status == ("scheduled" if time < 3 else "failed")
        assert rows.attempt(attempt).status == "withdrawn"
    call = rows.call_of(attempt)
    assert (call.disposition, call.attempts, call.ended_at is not None) == ("not-placed", 3, True)
    assert call.explanation


def test_a_call_that_could_not_be_placed_waits_before_it_is_tried_again(rows: Rows) -> None:
    campaign = rows.campaign(1)
    (attempt,) = rows.grant(campaign)
    rows.claim([attempt])
    rows.record(saw(attempt, Sight.NOT_PLACED))
    assert rows.grant(campaign) == []


def test_the_same_failed_placing_is_counted_once(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    refused = saw(attempt, Sight.NOT_PLACED)
    agent = Sighting(attempt_id=attempt, at=datetime.now(UTC), sight=Sight.AGENT_LEG, text="CHANUNAVAIL")
    for batch in ([refused], [refused], [agent, refused], [saw(attempt, Sight.CALLEE_HUNG_UP)]):
        rows.record(*batch)
        assert rows.attempt(attempt).status == "withdrawn"
        assert (rows.call_of(attempt).status, rows.call_of(attempt).not_placed) == ("scheduled", 1)


# --- what is seen ---------------------------------------------------------------------------------


def test_a_call_follows_its_attempt_and_every_move_of_both_is_written_down(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    for sighting in (
        saw(attempt, Sight.CHANNEL),
        saw(attempt, Sight.RINGING),
        saw(attempt, Sight.RINGING),
        saw(attempt, Sight.ANSWERED),
    ):
        assert rows.record(sighting) == []
    assert rows.record(ended(attempt, 16)) == [attempt]
    assert rows.record(ended(attempt, 16)) == [], "its slot is freed once"
    assert sorted(rows.moves(attempt)) == sorted(
        [
            ("call", "scheduled", "queued"),
            *[
                (subject, old, new)
                for subject in ("attempt", "call")
                for old, new in [
                    ("queued", "initiated"),
                    ("initiated", "ringing"),
                    ("ringing", "in-progress"),
                    ("in-progress", "completed"),
                ]
            ],
        ]
    )
    call = rows.call_of(attempt)
    assert (call.status, call.disposition, call.q850_cause, call.ended_at) == (
        "completed",
        "answered",
        16,
        rows.attempt(attempt).ended_at,
    )


def test_sightings_of_ids_that_are_no_attempts_are_passed_over(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    assert rows.record(ended(UUID(int=7), 16), ended(attempt, 17, 486)) == [attempt]


def revived(rows: Rows) -> tuple[UUID, UUID, UUID]:
    """A withdrawn attempt whose call was granted again: campaign, the old attempt, the newer one."""
    campaign = rows.campaign(1)
    (old,) = rows.grant(campaign)
    rows.claim([old])
    withdraw(rows, [old], Status.INITIATED)
    (newer,) = rows.grant(campaign)
    return campaign, old, newer


def test_late_evidence_cancels_a_newer_attempt_that_has_not_left_and_takes_its_call_back(rows: Rows) -> None:
    _, old, newer = revived(rows)
    assert rows.record(saw(old, Sight.CHANNEL), saw(old, Sight.RINGING)) == [newer], "the newer one's slot is freed"
    assert (rows.attempt(old).status, rows.attempt(newer).status) == ("ringing", "withdrawn")
    call = rows.call_of(old)
    assert (call.status, call.current_attempt_id) == ("ringing", old)
    assert rows.claim([newer]) == []
    assert rows.record(ended(old, 17, 486)) == [old]
    assert rows.call_of(old).status == "busy"


def test_late_evidence_of_an_end_takes_the_call_back_too(rows: Rows) -> None:
    _, old, newer = revived(rows)
    assert set(rows.record(ended(old, 17, 486))) == {old, newer}
    assert (rows.call_of(old).status, rows.attempt(newer).status) == ("busy", "withdrawn")
    assert rows.attempt(newer).ended_at, "the audit frees what ended, should its slot not have been freed"


def test_late_evidence_leaves_a_newer_attempt_that_has_left_and_its_call_alone(rows: Rows) -> None:
    _, old, newer = revived(rows)
    rows.claim([newer])
    assert rows.record(saw(old, Sight.ANSWERED)) == []
    assert (rows.attempt(old).status, rows.attempt(newer).status) == ("in-progress", "initiated")
    call = rows.call_of(old)
    assert (call.status, call.current_attempt_id) == ("initiated", newer)
    assert rows.record(ended(old, 16)) == [old]
    assert rows.call_of(old).status == "initiated"
    assert rows.record(ended(newer, 17, 486)) == [newer]
    assert rows.call_of(old).status == "busy"


def test_late_evidence_takes_a_call_back_from_a_newer_attempt_that_was_withdrawn(rows: Rows) -> None:
    _, old, newer = revived(rows)
    withdraw(rows, [newer], Status.QUEUED)
    assert rows.record(saw(old, Sight.ANSWERED)) == []
    call = rows.call_of(old)
    assert (call.status, call.current_attempt_id) == ("in-progress", old)


def test_a_lost_attempt_takes_a_late_end_and_its_call_with_it(rows: Rows) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    with rows.engine.begin() as connection:
        (row,) = ledger.lock_attempts(connection, [attempt]).values()
        lost = replace(row, status=Status.UNKNOWN, disposition="lost", ended_at=datetime.now(UTC))
        ledger.write(connection, [ledger.Change(attempt=lost)])
    assert rows.call_of(attempt).status == "unknown"
    assert rows.record(saw(attempt, Sight.RINGING)) == []
    assert rows.call_of(attempt).status == "unknown"
    assert rows.record(ended(attempt, 16), saw(attempt, Sight.ANSWERED)) == [attempt]
    assert (rows.call_of(attempt).status, rows.call_of(attempt).disposition) == ("completed", "answered")


def test_a_batch_of_gateways_that_live_and_that_failed_locks_them_in_the_order_of_their_ids(rows: Rows) -> None:
    failed, lives = rows.grant(rows.campaign(2))
    rows.claim([failed, lives])
    first, last = UUID(int=1), UUID(int=2**128 - 1)
    for gateway, attempt in ((first, failed), (last, lives)):
        rows.run(
            "INSERT INTO trunk_gateways (id, trunk_id, gateway_address, port, priority)"
            " VALUES (%(id)s, %(trunk)s, %(id)s, 5060, 9)",
            id=gateway,
            trunk=rows.trunk,
        )
        rows.run("INSERT INTO gateway_health (gateway_id, failures) VALUES (%(id)s, 1)", id=gateway)
        rows.run("UPDATE attempts SET gateway_id = %(g)s WHERE id = %(id)s", g=gateway, id=attempt)
    lock = "SELECT FROM gateway_health WHERE gateway_id = %(id)s FOR UPDATE"
    with ThreadPoolExecutor() as pool:
        with holding(rows.engine, lock, id=first) as other:
            written = pool.submit(rows.record, ended(failed, 34, 503), saw(lives, Sight.RINGING))
            until(lambda: waiting_for_a_lock(rows), what="the batch waits for the first gateway")
            other.exec_driver_sql(lock + " NOWAIT", {"id": last})
        written.result(30)
    health = {row.gateway_id: row.failures for row in rows.all("SELECT gateway_id, failures FROM gateway_health")}
    assert health == {first: 2, last: 0}


# --- everything at once ---------------------------------------------------------------------------


def test_what_was_not_claimed_is_published_again_without_waiting_for_a_claim_in_hand(rows: Rows) -> None:
    attempts = sorted(rows.grant(rows.campaign(4)))
    rows.run("UPDATE attempts SET published_at = published_at - interval '6 seconds'")
    with holding(rows.engine, "SELECT FROM attempts WHERE id = %(id)s FOR UPDATE", id=attempts[2]):
        again = rows.all(statement("sweep_lost"), unclaimed_for=timedelta(seconds=5), void_after=ledger.VOID_AFTER)
    assert sorted(row.id for row in again) == [attempts[0], attempts[1], attempts[3]]


def test_grants_claims_events_sweeps_and_withdrawals_at_once_neither_deadlock_nor_lose_a_call(rows: Rows) -> None:
    """Each thread takes the attempts it finds, several at a time and in any order, until every call is over."""
    campaigns = [rows.campaign(60), rows.campaign(60)]
    over = threading.Event()

    def ids(seed: random.Random, *statuses: str) -> list[UUID]:
        found = [r[0] for r in rows.all("SELECT id FROM attempts WHERE status = ANY (%(s)s)", s=list(statuses))]
        return seed.sample(found, min(len(found), 16))

    def granting(seed: random.Random) -> None:
        rows.run(
            "UPDATE calls SET due_at = now() WHERE id IN"
            " (SELECT id FROM calls WHERE status = 'scheduled' AND due_at > now() ORDER BY id FOR UPDATE)"
        )
        rows.grant(seed.choice(campaigns), 8)

    def claiming(seed: random.Random) -> None:
        rows.claim(ids(seed, "queued"))

    def sweeping(seed: random.Random) -> None:
        rows.all(statement("sweep_lost"), unclaimed_for=timedelta(0), void_after=ledger.VOID_AFTER)
        with rows.engine.begin() as connection:
            connection.exec_driver_sql(statement("fold_counts"))

    def withdrawing(seed: random.Random) -> None:
        withdraw(rows, ids(seed, "queued", "initiated")[:2], Status.QUEUED, Status.INITIATED)

    def hearing(seed: random.Random) -> None:
        batch = []
        for id in ids(seed, "initiated", "ringing", "in-progress", "withdrawn"):
            end = ended(id, *seed.choice([(17, 486), (16, None), (34, 503)]))
            batch.append(
                seed.choice([saw(id, Sight.CHANNEL), saw(id, Sight.RINGING), saw(id, Sight.ANSWERED), end, end])
            )
        with rows.engine.begin() as connection:
            ledger.record(connection, batch, timer_b=TIMER_B)
        open_calls = rows.value(
            "SELECT scheduled + queued + initiated + ringing + in_progress FROM"
            " (SELECT sum(scheduled) scheduled, sum(queued) queued, sum(initiated) initiated, sum(ringing) ringing,"
            " sum(in_progress) in_progress FROM campaign_status) s"
        )
        if not open_calls:
            over.set()

    def work(number: int) -> int:
        seed, done = random.Random(number), 0
        task = (granting, claiming, claiming, hearing, hearing, hearing, sweeping, withdrawing)[number]
        while not over.is_set() and done < 2000:
            task(seed)
            done += 1
        return done

    at_once(work, 8)
    assert over.is_set()
    assert (
        rows.all("SELECT c.id FROM calls c JOIN attempts a ON a.id = c.current_attempt_id WHERE a.status <> c.status")
        == []
    )
    assert rows.value("SELECT count(*) FROM calls WHERE status = ANY (%(ends)s)", ends=sorted(ENDS)) == 120


def test_a_deadlock_would_be_seen_by_this_file(rows: Rows) -> None:
    """The check above rests on Postgres's own detection reaching the test as an error."""
    first, second = sorted(rows.grant(rows.campaign(2)))
    lock = "SELECT FROM attempts WHERE id = %(id)s FOR UPDATE"

    def take(connection: Connection, id: UUID) -> bool:
        try:
            connection.exec_driver_sql(lock, {"id": id})
        except OperationalError as error:
            return not isinstance(error.orig, psycopg.errors.DeadlockDetected)
        return True

    with ThreadPoolExecutor(2) as pool, rows.engine.connect() as one, rows.engine.connect() as two:
        one.exec_driver_sql(lock, {"id": first})
        two.exec_driver_sql(lock, {"id": second})
        crossing = [pool.submit(take, one, second), pool.submit(take, two, first)]
        assert sorted(done.result(30) for done in crossing) == [False, True]


# --- explanations ---------------------------------------------------------------------------------


def claimed(rows: Rows, calls: int = 1) -> list[UUID]:
    return rows.claim(rows.grant(rows.campaign(calls)))


@contextmanager
def context_queries(engine: Engine) -> Iterator[list[str]]:
    """The queries for what is around attempts, as they are sent."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if text == statement("contexts_of_attempts"):
            sent.append(text)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_batch_asks_once_for_what_is_around_its_ends_and_not_at_all_for_plain_ones(rows: Rows) -> None:
    plain, failed = claimed(rows, 3), claimed(rows, 40)
    with context_queries(rows.engine) as sent:
        rows.record(
            ended(plain[0], 17, 486), ended(plain[1], 19, 480), saw(plain[2], Sight.ANSWERED), ended(plain[2], 16)
        )
        assert sent == []
        rows.record(*(ended(id, 21, 403) for id in failed))
        assert len(sent) == 1
    assert all("is not on its allow-list" in rows.attempt(id).explanation for id in failed)


def test_our_address_is_what_this_gateway_saw_else_what_another_did_else_what_the_node_tells(rows: Rows) -> None:
    def forbidden() -> str:
        [attempt] = claimed(rows)
        rows.record(ended(attempt, 21, 403))
        return str(rows.attempt(attempt).explanation)

    def probe(gateway: UUID, seen_as: str) -> None:
        rows.run(
            "INSERT INTO gateway_probes (gateway_id, probed_at, finding, seen_as) VALUES (%(g)s, now(), 'answered', %(s)s)",
            g=gateway,
            s=seen_as,
        )

    rows.run("UPDATE trunk_gateways SET gateway_address = 'a.example'")
    assert "our public address is not" in forbidden()
    rows.run("UPDATE nodes SET sip_address = '8.8.4.1'")
    assert "our address 8.8.4.1 is not" in forbidden()
    other = rows.value(
        "INSERT INTO trunk_gateways (trunk_id, gateway_address) VALUES (%(t)s, 'b.example') RETURNING id", t=rows.trunk
    )
    probe(other, "8.8.4.2")
    assert "our address 8.8.4.2 is not" in forbidden()
    third = rows.value(
        "INSERT INTO trunk_gateways (trunk_id, gateway_address) VALUES (%(t)s, 'c.example') RETURNING id", t=rows.trunk
    )
    probe(third, "192.168.1.5")
    assert "our address 8.8.4.2 is not" in forbidden(), "the newest one is that on our side of a NAT"
    rows.run("UPDATE trunk_gateways SET gateway_address = '192.168.1.9' WHERE id = %(g)s", g=rows.gateway)
    assert "our address 192.168.1.5 is not" in forbidden(), "and so is the gateway"
    rows.run("UPDATE trunk_gateways SET gateway_address = 'a.example' WHERE id = %(g)s", g=rows.gateway)
    rows.run("UPDATE gateway_probes SET probed_at = now() - interval '1 hour'")
    assert "our address 8.8.4.1 is not" in forbidden(), "an old probe says nothing"
    probe(rows.gateway, "8.8.4.3")
    rows.run(
        "UPDATE gateway_probes SET probed_at = now() - interval '1 minute' WHERE gateway_id = %(g)s", g=rows.gateway
    )
    assert "our address 8.8.4.3 is not" in forbidden()


@pytest.mark.parametrize(
    ("switch", "says"),
    [
        ("UPDATE trunks SET is_active = false", "is switched off. Switch it on: `trunkline trunk enable"),
        ("DELETE FROM trunk_gateways", "its gateway was taken off"),
        ("UPDATE trunks SET name = name", "did not find trunk"),
    ],
)
def test_what_asterisk_refused_is_explained_from_our_own_rows(rows: Rows, switch: str, says: str) -> None:
    [attempt] = claimed(rows)
    rows.run(switch)
    rows.run("UPDATE calls SET not_placed = 2")
    rows.record(saw(attempt, Sight.NOT_PLACED))
    assert says in rows.attempt(attempt).explanation
    assert (rows.call_of(attempt).status, rows.call_of(attempt).explanation) == (
        "failed",
        rows.attempt(attempt).explanation,
    )


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ("rx_packets = 0, tx_packets = 300", "no audio was received"),
        ("rx_packets = 300, tx_packets = 0", "no audio was sent"),
        ("rx_packets = 0, tx_packets = 0", "not one packet of audio"),
        (
            "rx_packets = 300, tx_packets = 300, rx_lost = 60, tx_lost = 3",
            "17% of what the far side sent, 1% of what we sent",
        ),
        ("rx_packets = 300, tx_packets = 300, rx_lost = 0, tx_lost = 0", "Answered."),
        ("rx_packets = NULL", "Answered."),
    ],
)
def test_an_answered_call_without_audio_stays_completed_and_says_so(rows: Rows, figures: str, says: str) -> None:
    [attempt] = claimed(rows)
    rows.run("UPDATE trunks SET rtp_symmetric = false")
    rows.run("UPDATE nodes SET sip_address = '10.1.2.3'")
    rows.run("UPDATE trunk_gateways SET gateway_address = 'a.example'")
    answered = saw(attempt, Sight.ANSWERED)
    rows.record(answered)
    rows.run(f"UPDATE attempts SET {figures}")
    rows.record(replace(ended(attempt, 16), at=answered.at + timedelta(seconds=6)))
    row = rows.attempt(attempt)
    assert (row.status, row.disposition) == ("completed", "answered")
    assert says in row.explanation
    if "audio" in says:
        assert "--rtp-symmetric" in row.explanation
        assert "10.1.2.3, so set TRUNKLINE_EXTERNAL_ADDRESS" in row.explanation
    assert rows.call_of(attempt).explanation == row.explanation


def test_our_ring_timeout_leaves_no_status_that_the_carrier_did_not_give(rows: Rows) -> None:
    [rang, silent, refused] = claimed(rows, 3)
    rows.record(saw(rang, Sight.RINGING))
    rows.run("UPDATE attempts SET initiated_at = initiated_at - interval '30 s' WHERE id <> %(id)s", id=refused)
    last_replies = {rang: 180, silent: 100, refused: 480}
    for _ in range(2):
        rows.record(
            *(
                replace(saw(id, Sight.ENDING), at_the_end=AtTheEnd(last_reply=last))
                for id, last in last_replies.items()
            ),
            *(ended(id, 19, 480) for id in (rang, silent, refused)),
        )
    assert [rows.attempt(id).sip_code for id in (rang, silent, refused)] == [None, None, 480]
    assert [rows.call_of(id).sip_code for id in (rang, silent, refused)] == [None, None, 480]
    assert "It rang, and nobody answered within our 30 seconds" in rows.attempt(rang).explanation
    assert "within our 30 seconds" in rows.attempt(silent).explanation
    assert "(SIP 480 " in rows.attempt(refused).explanation


def test_what_is_known_already_is_not_said_again(rows: Rows) -> None:
    [attempt] = claimed(rows)
    rows.record(ended(attempt, 21, 403))
    version = rows.value("SELECT xmin::text FROM attempts WHERE id = %(id)s", id=attempt)
    with context_queries(rows.engine) as sent:
        rows.record(ended(attempt, 21, 403), ended(attempt, 21, 403))
    assert rows.value("SELECT xmin::text FROM attempts WHERE id = %(id)s", id=attempt) == version
    assert sent == []


def test_what_is_learned_late_of_an_end_keeps_the_trunk_in_its_sentence(rows: Rows) -> None:
    [attempt] = claimed(rows)
    rows.record(ended(attempt, 21, 403))
    rows.record(saw(attempt, Sight.RINGING))
    assert "is not on its allow-list" in rows.attempt(attempt).explanation
    assert rows.attempt(attempt).ringing_at


def test_as_many_calls_as_are_moved_at_once_are_moved_in_the_time_that_a_role_has(rows: Rows) -> None:
    """Each with each they would be 900 million comparisons, for which Postgres takes most of a minute."""
    many, one_by_one = rows.campaign(30_000), rows.campaign(20)
    cancel = "UPDATE calls SET status = 'canceled' WHERE {} = %(id)s"
    with rows.engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = '5s'")
        ids = connection.exec_driver_sql("SELECT id FROM calls WHERE campaign_id = %(c)s", {"c": one_by_one}).scalars()
        for id in ids.all():  # the trigger's plans are made for few
            connection.exec_driver_sql(cancel.format("id"), {"id": id})
        connection.exec_driver_sql(cancel.format("campaign_id"), {"id": many})
        connection.commit()
    moved = "SELECT count(*) FROM call_events WHERE to_status = 'canceled' AND from_status = 'scheduled'"
    assert rows.value(moved) == 30_020
