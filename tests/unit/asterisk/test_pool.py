from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asterisk.ami import Unwritable
from asterisk.connection import LoginRefused, MaybeSent, NeverSent, Refused, Timings
from asterisk.pool import Accepted, AmiPool, Originate
from models.settings import Login, Node
from tests.unit.asterisk.scripted_ami import (
    BOUND,
    Peer,
    Received,
    ScriptedAmi,
    accept,
    cut,
    refuse,
    rows,
    silent,
)

LONG = timedelta(seconds=BOUND)
QUICK = Timings(connect=LONG, back_off_min=timedelta(milliseconds=1), action=LONG)
SENDER = Login(username="dialer", secret="xyzzy-secret")
LISTENER = Login(username="listener", secret="plugh-secret")


def attempt(n: int) -> UUID:
    return UUID(int=0x01890000_0000_7000_8000_000000000000 + n)


def an_order(n: int = 1, **changes: Any) -> Originate:
    order = Originate(
        attempt_id=attempt(n),
        endpoint="gw-7.a_b",
        context="trunkline-agent",
        exten="s",
        ring_timeout=timedelta(seconds=30),
        caller_id="+4930123456",
        longest_call=timedelta(hours=1),
        variables={"__AGENT_ID": "42"},
        mark_family="att20260101",
    )
    return replace(order, **changes)


@pytest.fixture
def loop() -> Iterator[BlockingPortal]:
    """Where the servers run: a thread of their own, as Asterisk would."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def server(loop: BlockingPortal) -> Iterator[ScriptedAmi]:
    async def made() -> ScriptedAmi:
        return ScriptedAmi()

    running = loop.call(made)
    running.users["listener"] = "plugh-secret"
    with loop.wrap_async_context_manager(running):
        yield running


def node(server: ScriptedAmi, name: str = "a", *, sender: Login = SENDER) -> Node:
    return Node(name=name, host="127.0.0.1", port=server.port, listener=LISTENER, sender=sender)


@pytest.fixture
def pool(server: ScriptedAmi) -> Iterator[AmiPool]:
    with AmiPool([node(server)], timings=QUICK) as made:
        yield made


# what an Originate looks like


def test_an_originate_is_exactly_these_lines_and_no_number_dialled(pool: AmiPool, server: ScriptedAmi) -> None:
    assert pool.originate_many([("a", an_order())]) == [Accepted(attempt_id=attempt(1))]
    (action,) = server.actions("Originate")
    assert sorted(action.lines) == sorted(
        [
            "Action: Originate",
            f"ActionID: {attempt(1)}",
            f"ChannelId: {attempt(1)}",
            f"Channel: PJSIP/gw-7.a_b/{attempt(1)}",
            "Context: trunkline-agent",
            "Exten: s",
            "Priority: 1",
            "Timeout: 30000",
            "CallerID: +4930123456",
            "Variable: TIMEOUT(absolute)=3630",
            f"Variable: DB(att20260101/{attempt(1)})=1",
            r"Variable: CHANNEL(hangup_handler_push)=trunkline-end\,s\,1",
            "Variable: __AGENT_ID=42",
            "Async: true",
        ]
    )


def test_times_are_exact_milliseconds_and_whole_seconds_rounded_up() -> None:
    order = an_order(ring_timeout=timedelta(milliseconds=7001), longest_call=timedelta(seconds=1))
    assert ("Timeout", "7001") in order.headers()
    assert ("Variable", "TIMEOUT(absolute)=9") in order.headers()


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt_id": "01890000-0000-7000-8000-00000000000"},
        {"attempt_id": "01890000-0000-7000-8000-0000000000010"},
        {"attempt_id": "01890000-0000-7000-8000-000000000001\n"},
        {"attempt_id": "/.*/"},
        {"endpoint": ""},
        {"endpoint": "gw/+4930123456"},
        {"endpoint": "gw@elsewhere"},
        {"endpoint": "gw&PJSIP/other"},
        {"endpoint": "x" * 101},
        {"context": "a b"},
        {"context": ""},
        {"exten": "s,1"},
        {"exten": "s\r\nAction: Originate"},
        {"mark_family": "a/b"},
        {"mark_family": "a)=1,X(b"},
        {"caller_id": "4930123456"},
        {"caller_id": "+0930123456"},
        {"caller_id": "+493012"},
        {"caller_id": "+4930123456789012"},
        {"caller_id": "+4930123456\n"},
        {"caller_id": "+4٩٣٠١٢٣٤٥٦"},
        {"caller_id": '"Bank" <+4930123456>'},
        {"ring_timeout": timedelta(0)},
        {"ring_timeout": timedelta(microseconds=900)},
        {"longest_call": timedelta(0)},
        {"variables": {"SHELL(ls)": "1"}},
        {"variables": {"": "1"}},
        {"variables": {"A": "b,OTHER=c"}},
        {"variables": {"A": 'b"'}},
        {"variables": {"A": "b'"}},
        {"variables": {"A": "b;c"}},
        {"variables": {"A": "b\\"}},
        {"variables": {"A": "${SHELL(ls)}"}},
        {"variables": {"A": "$[1+1]"}},
        {"variables": {"A": "x^y|z"}},
        {"variables": {"A": "b c"}},
        {"context": "trunkline-maintenance"},
        {"context": "mine"},
        {"variables": {"A": "b\r\nAction: Hangup"}},
        {"variables": {"A": "b\x00"}},
        {"variables": {"A": "x" * 1100}},
        {"variables": {f"A{n}": "1" for n in range(63)}},
    ],
    ids=repr,
)
def test_what_is_not_safe_on_the_line_is_never_sent(
    changes: dict[str, Any], pool: AmiPool, server: ScriptedAmi
) -> None:
    bad, good = pool.originate_many([("a", an_order(1, **changes)), ("a", an_order(2))])
    assert isinstance(bad, Unwritable), "not the node's fault"
    assert good == Accepted(attempt_id=attempt(2))
    assert "30123456" not in str(bad)
    assert [action.get("ActionID") for action in server.actions("Originate")] == [str(attempt(2))]


# sending


def test_orders_are_sent_at_the_same_time_and_answered_in_their_order(pool: AmiPool, server: ScriptedAmi) -> None:
    held: list[tuple[Peer, Received]] = []

    def answer_all_when_all_are_there(peer: Peer, action: Received) -> None:
        held.append((peer, action))
        if len(held) == 20:
            for each in reversed(held):
                odd = int(each[1].get("ActionID")[-2:], 16) % 2
                (refuse("Extension does not exist.") if odd else accept)(*each)

    server.replies["originate"] = answer_all_when_all_are_there
    results = pool.originate_many([("a", an_order(n)) for n in range(20)])
    assert [type(result) for result in results] == [Accepted, Refused] * 10
    assert results[::2] == [Accepted(attempt_id=attempt(n)) for n in range(0, 20, 2)]


@pytest.mark.parametrize(
    ("message", "nodes"),
    [("Extension does not exist.", True), ("Permission denied", True), ("Channel not specified", False)],
)
def test_what_would_be_refused_of_any_call_is_told_from_what_is_the_calls_own(
    pool: AmiPool, server: ScriptedAmi, message: str, nodes: bool
) -> None:
    server.replies["originate"] = refuse(message)
    (result,) = pool.originate_many([("a", an_order())])
    assert isinstance(result, Refused)
    assert result.is_nodes is nodes


def test_each_order_goes_to_its_node_and_a_node_that_is_not_up_hurts_no_other(server: ScriptedAmi) -> None:
    gone = node(server, "gone", sender=Login(username="dialer", secret="wrong"))
    with AmiPool([node(server), gone], timings=QUICK) as pool:
        results = pool.originate_many([("gone", an_order(1)), ("a", an_order(2)), ("nowhere", an_order(3))])
    assert [type(result) for result in results] == [NeverSent, Accepted, NeverSent]
    assert [action.get("ActionID") for action in server.actions("Originate")] == [str(attempt(2))]


def test_an_originate_whose_link_was_cut_is_maybe_sent_and_not_sent_again(
    pool: AmiPool, server: ScriptedAmi, loop: BlockingPortal
) -> None:
    server.replies["originate"] = cut
    (result,) = pool.originate_many([("a", an_order())])
    assert isinstance(result, MaybeSent)
    loop.call(server.got, "Login", 2)
    pool.wait_up("a", LONG)
    pool.hang_up("a", attempt(9))  # whatever would be sent again has been sent before this
    assert len(server.actions("Originate")) == 1


def test_an_originate_without_an_answer_is_maybe_sent_at_its_deadline(server: ScriptedAmi) -> None:
    server.replies["originate"] = silent
    with AmiPool([node(server)], timings=replace(QUICK, action=timedelta(milliseconds=30))) as pool:
        pool.wait_up("a", LONG)
        (result,) = pool.originate_many([("a", an_order())])
    assert isinstance(result, MaybeSent)


@pytest.fixture
def hanging(pool: AmiPool, server: ScriptedAmi, loop: BlockingPortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A link that has answered nothing for too long; called, it answers. What became of one that was to go out then comes first."""
    monkeypatch.setattr("asterisk.pool._HANGS_AFTER", 0.05)
    server.replies["originate"] = silent
    pool.wait_up("a", LONG)
    line = {"line": "trunk", "spacing": timedelta(milliseconds=300)}
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(pool.originate_many, [("a", an_order(1, **line))])
        loop.call(server.got, "Originate")
        second = pool.originate_many([("a", an_order(2, send_at=time.monotonic() + 0.1))])

        def answer() -> None:
            del server.replies["originate"]
            loop.call(accept, server.peer, server.actions("Originate")[0])
            assert first.result() == [Accepted(attempt_id=attempt(1))]

        yield second, answer


def test_nothing_more_is_written_to_a_link_that_answers_nothing(hanging: Any, server: ScriptedAmi) -> None:
    [second], answer = hanging
    answer()
    assert type(second) is NeverSent
    assert "answered nothing" in str(second)
    assert len(server.actions("Originate")) == 1


def test_what_was_answered_late_pushes_back_those_behind_it_in_its_line(hanging: Any, pool: AmiPool) -> None:
    """It may have reached Asterisk only with its answer: the calls a second are counted from then on."""
    _, answer = hanging
    answer()
    answered = time.monotonic()
    behind = an_order(3, line="trunk", spacing=timedelta(milliseconds=300))
    assert pool.originate_many([("a", behind)]) == [Accepted(attempt_id=attempt(3))]
    assert time.monotonic() - answered > 0.25


def test_timers_that_are_late_each_time_make_nobody_miss_a_turn(pool: AmiPool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.wait_up("a", LONG)
    clock = SimpleNamespace(now=1000.0)

    async def sleep(seconds: float) -> None:
        clock.now += seconds + 0.001

    monkeypatch.setattr("asterisk.pool.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("asterisk.pool.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    spacing = timedelta(milliseconds=2)
    turns = [1000.0 + at * spacing.total_seconds() for at in range(200)]
    orders = [
        an_order(at, line="trunk", spacing=spacing, send_at=turn, too_late_at=turn + 0.05)
        for at, turn in enumerate(turns)
    ]
    assert pool.originate_many([("a", order) for order in orders]) == [
        Accepted(attempt_id=order.attempt_id) for order in orders
    ]


def test_a_fault_in_one_order_does_not_hide_what_became_of_the_others(pool: AmiPool) -> None:
    broken = an_order(1, ring_timeout=None)
    results = pool.originate_many([("a", broken), ("a", an_order(2))])
    assert [type(result) for result in results] == [MaybeSent, Accepted]


def test_many_threads_share_one_connection(pool: AmiPool, server: ScriptedAmi) -> None:
    with ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(lambda n: pool.originate_many([("a", an_order(n))]), range(40)))
    assert sent == [[Accepted(attempt_id=attempt(n))] for n in range(40)]
    assert sorted(action.get("ActionID") for action in server.actions("Originate")) == [
        str(attempt(n)) for n in range(40)
    ]
    assert len(server.actions("Login")) == 1


def test_the_sender_asks_for_no_events_of_calls(pool: AmiPool, server: ScriptedAmi) -> None:
    pool.wait_up("a", LONG)
    assert [(login.get("Username"), login.get("Events")) for login in server.actions("Login")] == [("dialer", "system")]


# the node's state


def test_a_wrong_password_is_said_and_nothing_is_sent(server: ScriptedAmi) -> None:
    with AmiPool([node(server, sender=Login(username="dialer", secret="wrong"))], timings=QUICK) as pool:
        with pytest.raises(LoginRefused):
            pool.wait_up("a", LONG)
        (result,) = pool.originate_many([("a", an_order())])
    assert isinstance(result, NeverSent)
    assert not server.actions("Originate")


def test_a_booting_node_gets_nothing(server: ScriptedAmi) -> None:
    server.booted = False
    with AmiPool([node(server)], timings=replace(QUICK, connect=timedelta(milliseconds=200))) as pool:
        (result,) = pool.originate_many([("a", an_order())])
        with pytest.raises(NeverSent):
            pool.wait_up("a", timedelta(milliseconds=10))
    assert isinstance(result, NeverSent)
    assert not server.actions("Originate")


# the other actions


def test_hanging_up_names_the_attempt_and_says_whether_there_was_a_channel(pool: AmiPool, server: ScriptedAmi) -> None:
    assert pool.hang_up("a", attempt(1))
    (action,) = server.actions("Hangup")
    assert (action.get("Channel"), action.get("Cause")) == (str(attempt(1)), "16")
    server.replies["hangup"] = refuse("No such channel")
    assert not pool.hang_up("a", attempt(1))
    server.replies["hangup"] = refuse("Permission denied")
    with pytest.raises(Refused, match="Permission denied"):
        pool.hang_up("a", attempt(1))


@pytest.mark.parametrize("bad", ["/.*/", "PJSIP/gw-00000001", ""])
def test_only_an_attempt_can_be_hung_up(bad: Any, pool: AmiPool, server: ScriptedAmi) -> None:
    with pytest.raises(NeverSent):
        pool.hang_up("a", bad)
    assert not server.actions("Hangup")


def test_channels_are_the_attempts_that_are_up_asked_as_the_user_that_may(pool: AmiPool, server: ScriptedAmi) -> None:
    ids = [str(attempt(1)), "1700000000.7", str(attempt(2))]
    answer = rows("CoreShowChannel", [[f"Uniqueid: {each}"] for each in ids], complete="CoreShowChannelsComplete")
    server.replies["coreshowchannels"] = answer
    pool.wait_up("a", LONG)
    assert pool.channels("a") == {str(attempt(1)), str(attempt(2))}
    assert [login.get("Username") for login in server.actions("Login")] == ["dialer", "listener"]


def test_channels_that_cannot_be_known_are_an_error_and_not_an_empty_set(pool: AmiPool, server: ScriptedAmi) -> None:
    server.replies["coreshowchannels"] = cut
    with pytest.raises(MaybeSent):
        pool.channels("a")
    server.replies["coreshowchannels"] = refuse("Permission denied")
    with pytest.raises(Refused):
        pool.channels("a")


def test_close_may_be_called_twice_and_ends_what_waits(
    pool: AmiPool, server: ScriptedAmi, loop: BlockingPortal
) -> None:
    server.replies["originate"] = silent
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pool.originate_many, [("a", an_order())])
        loop.call(server.got, "Originate")
        pool.close()
        (result,) = waiting.result(BOUND)
    assert isinstance(result, MaybeSent)
    pool.close()
    with pytest.raises(NeverSent, match="closed"):
        pool.originate_many([("a", an_order(2))])


def test_a_pool_that_was_never_used_starts_no_thread_and_closes(server: ScriptedAmi) -> None:
    AmiPool([node(server)]).close()
    assert not server.peers
