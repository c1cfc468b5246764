"""Invariant 2: Asterisk asks the ledger again at the moment of dialling, and what is withdrawn is never dialled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import uuid_utils.compat

from asterisk.pool import AmiPool, Originate
from deploy.stack import NODE
from models import ledger
from models.statuses import Status
from tests.integration.system import System, until


def claimed_attempt(system: System, from_number: str, to: str, agent_id: UUID) -> Originate:
    """An attempt as a worker has claimed it, and the Originate that the worker would send."""
    call_id, attempt_id = uuid_utils.compat.uuid7(), uuid_utils.compat.uuid7()
    system.run(
        "INSERT INTO calls (id, agent_id, phone_number, status, current_attempt_id, attempts, due_at)"
        " VALUES (%(call)s, %(agent)s, %(to)s, 'initiated', %(attempt)s, 1, 'infinity')",
        call=call_id,
        agent=agent_id,
        to=to,
        attempt=attempt_id,
    )
    system.run(
        "INSERT INTO attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number, status, initiated_at)"
        " SELECT %(attempt)s, %(call)s, g.trunk_id, g.id, %(node)s, %(to)s, %(from_number)s, 'initiated', clock_timestamp()"
        " FROM phone_numbers n JOIN trunk_gateways g USING (trunk_id) WHERE n.phone_number = %(from_number)s",
        attempt=attempt_id,
        call=call_id,
        node=NODE,
        to=to,
        from_number=from_number,
    )
    gateway_id = system.value("SELECT gateway_id FROM attempts WHERE id = %(id)s", id=attempt_id)
    return Originate(
        attempt_id=attempt_id,
        endpoint=str(gateway_id),
        context="trunkline-agent",
        exten="playback",
        ring_timeout=timedelta(seconds=5),
        longest_call=timedelta(seconds=5),
        caller_id=from_number,
        variables={"TL_AGENT": "demo-congrats"},
        mark_family="att20000101",
    )


def withdraw(system: System, attempt_id: UUID) -> None:
    with system.engine.begin() as connection:
        assert ledger.withdraw(
            connection,
            [attempt_id],
            of={Status.INITIATED},
            explanation="a test",
            delay=timedelta(days=1),
        )


@contextmanager
def asterisks_database_frozen(system: System) -> Iterator[None]:
    """Every backend that serves Asterisk stops in the middle of whatever it does, and goes on afterwards."""
    backends = [
        row[0] for row in system.rows("SELECT pid FROM pg_stat_activity WHERE usename LIKE 'trunkline_asterisk_%%'")
    ]
    assert backends
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)


def asked_for(system: System, attempt_id: UUID) -> bool:
    """Asterisk has looked at this attempt's AOR, or has got as far as making a channel."""
    log = system.parts["asterisk"].log.read_text(errors="replace")
    return str(attempt_id) in log


def test_what_is_withdrawn_while_asterisks_database_is_frozen_is_not_dialled_after_the_thaw(system: System) -> None:
    from_number, agent = system.add_trunk("frozen"), system.add_agent("frozen")
    withdrawn = claimed_attempt(system, from_number, "+12125550101", agent)
    kept = claimed_attempt(system, from_number, "+12135550101", agent)
    with AmiPool(system.settings.nodes) as pool:
        pool.wait_up(NODE, timedelta(seconds=10))
        with asterisks_database_frozen(system):
            accepted = pool.originate_many([(NODE, withdrawn), (NODE, kept)])
            assert [getattr(answer, "attempt_id", answer) for answer in accepted] == [
                withdrawn.attempt_id,
                kept.attempt_id,
            ]
            assert pool.channels(NODE) == set(), "accepted, and yet there is nothing to be seen of it"
            withdraw(system, withdrawn.attempt_id)
        # the one that was not withdrawn is dialled after the thaw: that is what the gate is for
        until(lambda: system.carried("+12135550101"), what="the attempt that was kept is dialled")
        until(lambda: asked_for(system, withdrawn.attempt_id), what="Asterisk has refused the other one")
    assert system.carried("+12125550101") == []
    until(lambda: system.value("SELECT status FROM attempts WHERE id = %(id)s", id=kept.attempt_id) == "completed")


def test_a_second_originate_of_a_live_call_dials_nobody_and_does_not_end_it(system: System) -> None:
    """Asterisk refuses the id that it has in use, and its answer names the live channel."""
    from_number, agent = system.add_trunk("twice"), system.add_agent("twice")
    attempt = claimed_attempt(
        system, from_number, "+12185550192", agent
    )  # 100, and nothing more that would speak for it
    with AmiPool(system.settings.nodes) as pool:
        pool.wait_up(NODE, timedelta(seconds=10))
        pool.originate_many([(NODE, attempt)])
        until(lambda: system.carried("+12185550192"))
        pool.originate_many([(NODE, attempt)])
        until(lambda: "already in use" in system.parts["asterisk"].log.read_text(errors="replace"), what="the refusal")
        status = "SELECT status FROM attempts WHERE id = %(id)s"
        until(lambda: system.value(status, id=attempt.attempt_id) != "initiated")
        assert system.value(status, id=attempt.attempt_id) == "no-answer"
    assert len(system.carried("+12185550192")) == 1


def test_a_trunk_that_is_switched_off_is_off_for_the_very_next_call(system: System) -> None:
    from_number, agent = system.add_trunk("switch"), system.add_agent("switch")
    first = claimed_attempt(system, from_number, "+12145550186", agent)
    second = claimed_attempt(system, from_number, "+12155550186", agent)
    third = claimed_attempt(system, from_number, "+12165550186", agent)
    with AmiPool(system.settings.nodes) as pool:
        pool.originate_many([(NODE, first)])
        until(lambda: system.carried("+12145550186"))
        system.run("UPDATE trunks SET is_active = false WHERE name = 'switch'")
        pool.originate_many([(NODE, second)])
        until(
            lambda: system.value("SELECT status FROM attempts WHERE id = %(id)s", id=second.attempt_id) == "withdrawn"
        )
        system.run("UPDATE trunks SET is_active = true WHERE name = 'switch'")
        pool.originate_many([(NODE, third)])
        until(lambda: system.carried("+12165550186"))
    assert system.carried("+12155550186") == []


def test_the_gate_lets_through_what_is_dialable_and_nothing_else(system: System) -> None:
    from_number, agent = system.add_trunk("view"), system.add_agent("view")
    attempt = claimed_attempt(system, from_number, "+12175550101", agent).attempt_id
    for status in Status:
        if status is not Status.SCHEDULED:
            # the triggers would refuse most of these moves, and the view is what is asked here
            with system.engine.begin() as connection:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                connection.exec_driver_sql(
                    "UPDATE attempts SET status = %(s)s WHERE id = %(id)s", {"s": status.value, "id": attempt}
                )
            shown = system.rows("SELECT contact FROM ps_aors WHERE id = %(id)s", id=str(attempt))
            assert bool(shown) == (status in {Status.INITIATED, Status.RINGING, Status.IN_PROGRESS}), status
    plan = "\n".join(
        row[0] for row in system.rows("EXPLAIN SELECT * FROM ps_aors WHERE id = %(id)s LIMIT 1", id=str(attempt))
    )
    assert "attempts_gate" in plan or "Index" in plan, plan
    system.run("DELETE FROM attempts WHERE id = %(id)s", id=attempt)
