"""Calls in a row that did not reach their agent are counted where ends are written, and pause its campaigns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from models.database import open_engine
from models.sightings import AtTheEnd, Sight, Sighting
from scheduler import campaigns
from scheduler.agent_watch import UNREACHED_LIMIT, pause_for_dead_agents
from scheduler.lines import load_lines
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows, ended, saw


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test")
    yield Rows(engine=engine)
    engine.dispose()


def answered(attempt_id: UUID, agent_status: str, *, at: float = 0) -> list[Sighting]:
    when = datetime.now(UTC) + timedelta(seconds=at)
    said = AtTheEnd(agent_status=agent_status)
    return [
        Sighting(attempt_id=attempt_id, at=when, sight=Sight.ANSWERED),
        Sighting(attempt_id=attempt_id, at=when, sight=Sight.ENDING, at_the_end=said),
        ended(attempt_id, 16),
    ]


def health(rows: Rows) -> int | None:
    found = rows.all("SELECT failures FROM agent_health WHERE agent_id = %(id)s", id=rows.agent)
    return int(found[0].failures) if found else None


def claimed(rows: Rows, campaign: UUID, most: int) -> list[UUID]:
    attempts = rows.grant(campaign, most)
    rows.claim(attempts)
    return attempts


def test_failures_count_in_a_row_and_an_agent_that_is_well_has_no_row(rows: Rows) -> None:
    first, second, third, *others = claimed(rows, rows.campaign(8), 8)
    rows.record(*answered(first, "ANSWER"))
    assert health(rows) is None
    rows.record(*answered(second, "CHANUNAVAIL"), *answered(third, "NOSOUND"))
    assert health(rows) == 2
    rows.record(*answered(others[0], "CANCEL"), ended(others[1], 17, 486))
    assert health(rows) == 2, "a person who did not wait, or did not answer, says nothing of the agent"
    rows.record(*answered(others[2], "CHANUNAVAIL", at=1), *answered(others[3], "ANSWER", at=2))
    assert health(rows) == 0
    rows.record(*answered(others[4], "CHANUNAVAIL"))
    assert health(rows) == 1


def test_in_one_batch_only_those_after_the_last_that_reached_it_count(rows: Rows) -> None:
    a, b, c, d = claimed(rows, rows.campaign(4), 4)
    rows.record(*answered(a, "CHANUNAVAIL"))
    seen = [*answered(b, "CHANUNAVAIL", at=1), *answered(c, "ANSWER", at=2), *answered(d, "CHANUNAVAIL", at=3)]
    rows.record(*reversed(seen))
    assert health(rows) == 1
    rows.record(*seen)
    assert health(rows) == 1, "nothing counts twice"


def test_it_is_counted_as_soon_as_it_is_known_and_once(rows: Rows) -> None:
    [attempt] = claimed(rows, rows.campaign(1), 1)
    leg = Sighting(attempt_id=attempt, at=datetime.now(UTC), sight=Sight.AGENT_LEG, text="CHANUNAVAIL")
    rows.record(saw(attempt, Sight.ANSWERED), leg)
    assert (health(rows), rows.attempt(attempt).status) == (1, "in-progress")
    rows.record(*answered(attempt, "CHANUNAVAIL"))
    assert (health(rows), rows.attempt(attempt).disposition) == (1, "agent-unreachable")


def test_the_limit_pauses_what_runs_with_that_agent_and_sends_its_queued_calls_back(rows: Rows) -> None:
    campaign, paused, ready = rows.campaign(10), rows.campaign(1, "paused"), rows.campaign(1, "ready")
    other_agent = uuid4()
    rows.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, 'well', 'playback://a')", id=other_agent)
    elsewhere = rows.campaign(1)
    rows.run("UPDATE campaigns SET agent_id = %(agent)s WHERE id = %(id)s", agent=other_agent, id=elsewhere)
    burnt = claimed(rows, campaign, UNREACHED_LIMIT)
    up = claimed(rows, campaign, 1)
    queued = rows.grant(campaign, 2)
    for attempt in burnt[:-1]:
        rows.record(*answered(attempt, "CHANUNAVAIL"))
    with rows.engine.connect() as connection:
        assert pause_for_dead_agents(connection) == []
        with connection.begin():
            assert {c.id for c in load_lines(connection).campaigns} == {campaign, elsewhere}
    rows.record(*answered(burnt[-1], "CHANUNAVAIL"))
    with rows.engine.connect() as connection:
        with connection.begin():
            assert {c.id for c in load_lines(connection).campaigns} == {elsewhere}, "granted no more, at once"
        assert sorted(pause_for_dead_agents(connection)) == sorted(queued)
        assert pause_for_dead_agents(connection) == []
    states = {row.id: row for row in rows.all("SELECT id, status, pause_reason FROM campaigns")}
    assert states[campaign].status == "paused"
    assert str(rows.agent) in states[campaign].pause_reason
    assert [(states[c].status, states[c].pause_reason) for c in (paused, ready, elsewhere)] == [
        ("paused", None),
        ("ready", None),
        ("running", None),
    ]
    assert {rows.attempt(attempt).status for attempt in queued} == {"withdrawn"}
    assert {rows.call_of(attempt).status for attempt in queued} == {"scheduled"}
    assert rows.attempt(up[0]).status == "initiated", "it is on its way"
    assert rows.claim(queued) == []

    with rows.engine.begin() as connection:
        campaigns.resume(connection, str(campaign))
        assert campaigns.counts(connection, str(campaign)).pause_reason is None
    assert health(rows) is None
    with rows.engine.connect() as connection:
        assert pause_for_dead_agents(connection) == []


def test_the_number_of_an_attempt_leaves_out_those_that_were_taken_back(rows: Rows) -> None:
    campaign = rows.campaign(1)
    [taken_back] = rows.grant(campaign)
    rows.run("UPDATE attempts SET status = 'withdrawn' WHERE id = %(id)s", id=taken_back)
    rows.run("UPDATE calls SET status = 'scheduled'")
    [first] = claimed(rows, campaign, 1)
    rows.record(ended(first, 17, 486))
    rows.run("UPDATE calls SET status = 'scheduled'")
    [second] = claimed(rows, campaign, 1)
    context = rows.one("SELECT attempt_id, attempt_number, trunk FROM call_context")
    assert tuple(context) == (str(second), 2, str(rows.trunk))
