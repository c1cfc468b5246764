"""What was in hand when a process died is neither lost nor doubled (invariants 1, 2 and 5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from anyio.from_thread import start_blocking_portal

from asterisk.connection import AmiConnection
from asterisk.link import Link, Up
from asterisk.marks import mark_family
from models.settings import Node
from tests.integration.system import System, until
from tests.integration.test_gate import claimed_attempt


@contextmanager
def listener_dead(system: System) -> Iterator[None]:
    system.kill("listener-local")
    try:
        yield
    finally:
        system.start("listener-local")
        until(lambda: system.value("SELECT heard_at > now() - interval '3 s' FROM nodes"), what="the node is heard")


def test_asterisk_forgets_the_marks_of_hours_that_nobody_looks_up_any_more(system: System) -> None:
    week_ago = (datetime.now(UTC) - timedelta(days=7)).replace(minute=0, second=0, microsecond=0)
    hour = timedelta(hours=1)
    old, kept = made_at(week_ago - hour), made_at(week_ago + hour)
    (node,) = system.settings.nodes
    with Link(node) as link, start_blocking_portal() as portal:
        assert link.take(at_most=1, wait=timedelta(seconds=10)) == [Up()]
        for attempt in (old, kept):
            portal.call(mark, node, attempt)
            until(lambda attempt=attempt: link.marked({attempt: mark_family(attempt)}))  # type: ignore[misc]
        system.run("UPDATE nodes SET marks_forgotten_to = %(at)s", at=week_ago - 2 * hour)
        with listener_dead(system):
            pass
        until(lambda: not link.marked({old: mark_family(old)}))
        assert link.marked({old: mark_family(old), kept: mark_family(kept)}) == {kept}
    until(lambda: system.value("SELECT marks_forgotten_to FROM nodes") >= week_ago - hour)


def made_at(at: datetime) -> UUID:
    """An id of that time."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


async def mark(node: Node, attempt: UUID) -> None:
    """As an Originate of a worker's does, without a call."""
    connection = AmiConnection(host=node.host, port=node.port, login=node.sender, on_event=lambda _: None)
    await connection.start()
    await connection.wait_up(timedelta(seconds=5))
    channel = "Local/att0000000000@trunkline-maintenance/n"
    await connection.action(
        "Originate",
        {"Channel": channel, "Application": "Hangup", "Variable": f"DB({mark_family(attempt)}/{attempt})=1"},
    )
    await connection.stop()


def test_a_claim_whose_worker_died_before_the_originate_is_given_back_after_a_second_look_and_dialled_once(
    system: System,
) -> None:
    from_number, agent = system.add_trunk("orphan"), system.add_agent("orphan", "playback://hello-world")
    attempt = claimed_attempt(system, from_number, "+13125550101", agent).attempt_id  # and nobody sends it
    call = system.value("SELECT call_id FROM attempts WHERE id = %(id)s", id=attempt)
    system.run("UPDATE calls SET from_number = %(n)s WHERE id = %(id)s", n=from_number, id=call)
    until(lambda: system.status(call) == "completed", within=60)
    assert system.value("SELECT status FROM attempts WHERE id = %(id)s", id=attempt) == "withdrawn"
    assert system.value("SELECT attempts FROM calls WHERE id = %(id)s", id=call) == 2
    assert len(system.carried("+13125550101")) == 1


def test_a_task_that_was_lost_on_its_way_is_published_again(system: System) -> None:
    from_number, agent = system.add_trunk("lost-task"), system.add_agent("lost-task", "playback://hello-world")
    attempt = claimed_attempt(system, from_number, "+13135550186", agent).attempt_id
    with system.engine.begin() as connection:  # back to where the leader had written it, and no message for it
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(
            "UPDATE attempts SET status = 'queued', initiated_at = NULL, queued_at = clock_timestamp(),"
            " published_at = clock_timestamp() - interval '1 minute' WHERE id = %(id)s",
            {"id": attempt},
        )
        connection.exec_driver_sql(
            "UPDATE calls SET status = 'queued' WHERE current_attempt_id = %(id)s", {"id": attempt}
        )
    until(lambda: system.value("SELECT status FROM attempts WHERE id = %(id)s", id=attempt) == "busy")
    assert len(system.carried("+13135550186")) == 1


def test_what_ended_while_nobody_listened_is_read_from_asterisks_own_ledger(system: System) -> None:
    from_number, agent = system.add_trunk("deaf"), system.add_agent("deaf", "playback://demo-congrats")
    ended = {
        "+13145550101": "completed",  # answered, hung up by the carrier
        "+13145550102": "completed",
        "+13145550105": "completed",  # still ringing when the listener died, answered meanwhile
        "+13145550190": "no-answer",
    }
    calls = {system.call(agent, from_number, number): status for number, status in ended.items()}
    still_up = system.call(agent, from_number, "+13145550100")
    until(lambda: all(system.carried(number) for number in [*ended, "+13145550100"]))
    until(lambda: system.status(still_up) == "in-progress")
    with listener_dead(system):
        until(lambda: all(system.carried(n)[0].ended_at for n in ended if not n.endswith("05")), what="they have ended")
    for call, status in calls.items():
        until(lambda call=call, status=status: system.status(call) == status, what=status)  # type: ignore[misc]
    assert system.status(still_up) in {"in-progress", "completed"}
    until(lambda: system.status(still_up) == "completed", within=60)
    assert all(len(system.carried(number)) == 1 for number in ended)


def test_a_killed_scheduler_comes_back_with_a_higher_epoch_and_goes_on(system: System) -> None:
    from_number, agent = system.add_trunk("leaderless"), system.add_agent("leaderless", "playback://hello-world")
    before = system.value("SELECT epoch FROM roles WHERE name = 'trunkline-scheduler'")
    system.kill("scheduler")
    call = system.call(agent, from_number, "+13155550186")
    system.start("scheduler")
    until(lambda: system.status(call) == "busy")
    assert system.value("SELECT epoch FROM roles WHERE name = 'trunkline-scheduler'") > before


def test_a_call_that_was_up_when_its_asterisk_died_is_unknown_and_not_dialled_again(system: System) -> None:
    from_number, agent = system.add_trunk("crash"), system.add_agent("crash", "playback://demo-congrats")
    call = system.call(agent, from_number, "+13165550100")
    until(lambda: system.status(call) == "in-progress")
    system.kill("asterisk")
    until(lambda: system.value("SELECT heard_at IS NULL FROM nodes"), what="the node is deaf")
    other = system.call(agent, from_number, "+13175550186")
    system.start("asterisk")
    until(lambda: system.status(call) == "unknown", within=60)
    until(lambda: system.status(other) == "busy", what="calls go on afterwards")
    assert len(system.carried("+13165550100")) == 1
    trunk_id = system.value("SELECT id FROM trunks WHERE name = 'crash'")
    assert system.slots.in_use("trunk", trunk_id) == 1, "it may still be up at the carrier: its slot is held"
    system.run("UPDATE attempts SET hold_until = now() WHERE call_id = %(id)s", id=call)  # the operator releases it
    until(lambda: system.slots.in_use("trunk", trunk_id) == 0, within=60)
