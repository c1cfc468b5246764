from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from asterisk.connection import (
    AmiConnection,
    AmiError,
    AmiMessage,
    LoginRefused,
    MaybeSent,
    NeverSent,
    Refused,
    Timings,
)
from models.settings import Login
from tests.unit.asterisk.scripted_ami import (
    BOUND,
    Peer,
    Received,
    ScriptedAmi,
    Signals,
    accept,
    cut,
    refuse,
    render,
    rows,
    silent,
)

pytestmark = pytest.mark.anyio

LONG = timedelta(seconds=BOUND)
SHORT = timedelta(milliseconds=30)
QUICK = Timings(
    connect=LONG, boot=LONG, ping_interval=LONG, ping_deadline=LONG, back_off_min=timedelta(milliseconds=1), action=LONG
)
ATTEMPT = "01890000-0000-7000-8000-000000000001"
ORIGINATE = [("ActionID", ATTEMPT), ("Channel", f"PJSIP/gateway/{ATTEMPT}"), ("CallerID", "+4930123456")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client(Signals):
    """A connection and what its callbacks saw, in one list."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.events: list[AmiMessage] = []
        self.on_event: Callable[[AmiMessage], bool | None] = lambda event: None
        defaults: dict[str, Any] = {"timings": QUICK, "login": Login(username="dialer", secret="xyzzy-secret")}
        self.ami = AmiConnection(
            host="127.0.0.1",
            port=port,
            on_event=self._event,
            on_up=lambda: self._saw("up"),
            on_down=lambda reason: self._saw("down: " + reason),
            **{**defaults, **options},
        )

    def _saw(self, what: str) -> None:
        self.seen.append(what)
        self.tell()

    def _event(self, event: AmiMessage) -> bool | None:
        self.events.append(event)
        self._saw(event.name)
        return self.on_event(event)

    async def saw(self, what: str, count: int = 1) -> None:
        await self.until(lambda: sum(seen.startswith(what) for seen in self.seen) >= count)


@asynccontextmanager
async def talking(server: ScriptedAmi | None = None, **options: Any) -> AsyncIterator[tuple[ScriptedAmi, Client]]:
    """A server and a client that is up."""
    async with server or ScriptedAmi() as running:
        client = Client(running.port, **options)
        await client.ami.start()
        try:
            await client.ami.wait_up(LONG)
            yield running, client
        finally:
            await client.ami.stop()


# what was sent, and how often


@pytest.mark.parametrize("end", ["cut", "half open"])
async def test_an_unanswered_originate_is_not_sent_again_after_a_reconnect(end: str) -> None:
    timings = replace(QUICK, ping_interval=SHORT, ping_deadline=SHORT * 20)
    async with talking(timings=timings) as (server, client):
        server.replies["originate"] = silent
        waiting = asyncio.create_task(client.ami.action("Originate", ORIGINATE))
        await server.got("Originate")
        if end == "cut":
            server.peer.cut()
        else:
            server.peer.frozen = True
        with pytest.raises(MaybeSent):
            await waiting
        await client.saw("up", 2)
        await client.ami.action("Marker")  # whatever would be sent again has been sent before this
        assert len(server.actions("Originate")) == 1


async def test_all_actions_in_flight_end_as_maybe_sent_when_the_link_is_lost() -> None:
    async with talking() as (server, client):
        server.replies["slow"] = silent
        waiting = [asyncio.create_task(client.ami.action("Slow")) for _ in range(5)]
        await server.got("Slow", 5)
        server.peer.cut()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [MaybeSent] * 5
        assert all("link lost" in str(error) for error in errors)  # and not: its deadline passed
        await client.saw("down: connection lost")


async def test_an_action_on_a_dead_link_was_never_sent() -> None:
    async with ScriptedAmi() as server:
        client = Client(server.port, pause=lambda seconds: asyncio.sleep(BOUND))
        with pytest.raises(NeverSent):
            await client.ami.action("Originate", ORIGINATE)
        await client.ami.start()
        await client.ami.wait_up(LONG)
        server.peer.cut()
        await client.saw("down")
        with pytest.raises(NeverSent, match="not up"):
            await client.ami.action("Originate", ORIGINATE)
        await client.ami.stop()
        assert not server.actions("Originate")


async def test_an_action_that_still_waits_for_its_turn_when_the_link_is_lost_was_never_sent() -> None:
    async with talking(max_in_flight=1) as (server, client):
        server.replies["slow"] = silent
        first = asyncio.create_task(client.ami.action("Slow"))
        await server.got("Slow")
        second = asyncio.create_task(client.ami.action("Originate", ORIGINATE))
        third = asyncio.create_task(client.ami.action("Late"))
        await asyncio.sleep(0)
        server.peer.cut()
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [type(error) for error in results] == [MaybeSent, NeverSent, NeverSent]
        await client.saw("up", 2)
        await client.ami.action("Marker")
        assert not server.actions("Originate")


async def test_no_more_than_the_limit_is_in_flight_and_a_turn_that_never_comes_is_never_sent() -> None:
    async with talking(max_in_flight=2) as (server, client):
        held: list[tuple[Peer, Received]] = []
        server.replies["slow"] = lambda peer, action: held.append((peer, action))
        waiting = [asyncio.create_task(client.ami.action("Slow")) for _ in range(2)]
        await server.got("Slow", 2)
        with pytest.raises(NeverSent):
            await client.ami.action("Slow", timeout=SHORT)
        assert len(server.actions("Slow")) == 2
        third = asyncio.create_task(client.ami.action("Slow"))
        accept(*held[0])
        await server.got("Slow", 3)
        accept(*held[1])
        accept(*held[2])
        assert all(response.success for response in await asyncio.gather(*waiting, third))


async def test_nothing_is_written_while_the_peer_does_not_read() -> None:
    async with talking() as (server, client):
        link = client.ami._link
        assert link is not None
        link.pause_writing()  # what asyncio calls when its buffer is full
        with pytest.raises(NeverSent):
            await client.ami.action("Originate", ORIGINATE, timeout=SHORT)
        waiting = asyncio.create_task(client.ami.action("Other"))
        await asyncio.sleep(0)
        link.resume_writing()
        await waiting
        assert not server.actions("Originate")


# answers


async def test_an_originate_ends_at_its_first_response_and_its_events_go_to_the_listener() -> None:
    async with talking() as (server, client):

        def reply(peer: Peer, action: Received) -> None:
            mine = f"ActionID: {action.get('ActionID')}"
            peer.message("Event: Newchannel", mine, f"Uniqueid: {ATTEMPT}")
            peer.message("Event: OriginateResponse", mine, "Response: Failure", "Reason: 0")
            peer.message("Response: Success", mine, "Message: Originate successfully queued")

        server.replies["originate"] = reply
        response = await client.ami.action("Originate", ORIGINATE)
        assert response.success
        assert response.message == "Originate successfully queued"
        assert client.seen == ["up", "Newchannel", "OriginateResponse"]


async def test_an_originate_always_carries_async_true() -> None:
    async with talking() as (server, client):
        await client.ami.action("Originate", ORIGINATE)
        await client.ami.action("originate", [*ORIGINATE, ("async", "true")])
        assert [action.all("Async") for action in await server.got("Originate", 2)] == [["true"], ["true"]]
        with pytest.raises(NeverSent):
            await client.ami.action("Originate", [*ORIGINATE, ("Async", "false")])
        assert len(server.actions("Originate")) == 2


async def test_an_error_is_refused_with_asterisks_own_words() -> None:
    async with talking() as (server, client):
        server.replies["originate"] = refuse("Extension does not exist.")
        with pytest.raises(Refused) as refused:
            await client.ami.action("Originate", ORIGINATE)
        assert refused.value.message == "Extension does not exist."
        assert client.ami.is_up


async def test_a_deadline_or_a_cancel_leaves_no_entry_behind_and_a_late_answer_is_nobodys() -> None:
    async with talking() as (server, client):
        server.replies["slow"] = silent
        with pytest.raises(MaybeSent):
            await client.ami.action("Slow", {"ActionID": "same"}, timeout=SHORT)
        task = asyncio.create_task(client.ami.action("Slow", {"ActionID": "same"}))
        await server.got("Slow", 2)
        task.cancel()
        link = client.ami._link
        assert link is not None
        link.data_received(render("Response: Success", "ActionID: same"))  # before the task has run
        with pytest.raises(asyncio.CancelledError):
            await task
        accept(server.peer, server.actions("Slow")[0])
        server.peer.message("Event: Read")
        await client.saw("Read")
        server.replies["slow"] = refuse("the second answer")
        with pytest.raises(Refused, match="the second answer"):
            await client.ami.action("Slow", {"ActionID": "same"})


async def test_an_action_id_that_is_in_flight_is_not_sent_a_second_time() -> None:
    async with talking() as (server, client):
        server.replies["originate"] = silent
        first = asyncio.create_task(client.ami.action("Originate", ORIGINATE))
        await server.got("Originate")
        with pytest.raises(NeverSent):
            await client.ami.action("Originate", ORIGINATE)
        accept(server.peer, server.actions("Originate")[0])
        assert (await first).success
        assert len(server.actions("Originate")) == 1


async def test_a_list_is_collected_whole_and_kept_from_on_event() -> None:
    async with talking() as (server, client):
        server.replies["coreshowchannels"] = rows(
            "CoreShowChannel", [["Uniqueid: a"], ["Uniqueid: b"]], complete="CoreShowChannelsComplete"
        )
        server.replies["dbgettree"] = rows(
            "DBGetTreeResponse", [["Key: /att/x", "Val: 1"]], complete="DBGetTreeComplete"
        )
        channels = await client.ami.collect("CoreShowChannels")
        marks = await client.ami.collect("DBGetTree", {"Family": "att"})
        assert [row.get("uniqueid") for row in channels] == ["a", "b"]
        assert [row.get("Key") for row in marks] == ["/att/x"]
        assert client.seen == ["up"]


async def test_a_list_that_is_refused_raises_and_one_that_is_cut_short_is_no_list() -> None:
    async with talking() as (server, client):
        server.replies["dbgettree"] = refuse("Database entry not found")
        with pytest.raises(Refused) as refused:
            await client.ami.collect("DBGetTree", {"Family": "att"})
        assert refused.value.message == "Database entry not found"
        server.replies["coreshowchannels"] = rows("CoreShowChannel", [["Uniqueid: a"]], complete=None)
        with pytest.raises(MaybeSent):
            await client.ami.collect("CoreShowChannels", timeout=SHORT)
        mine = f"ActionID: {server.actions('CoreShowChannels')[0].get('ActionID')}"
        server.peer.message("Event: CoreShowChannel", mine)  # nobody waits for it any more
        server.peer.message("Event: Newchannel")
        await client.saw("Newchannel")
        assert client.seen == ["up", "Newchannel"]
        waiting = asyncio.create_task(client.ami.collect("CoreShowChannels"))
        await server.got("CoreShowChannels", 2)
        server.peer.cut()
        with pytest.raises(MaybeSent):
            await waiting


# the stream of events


async def test_events_arrive_one_by_one_in_the_order_of_the_wire() -> None:
    async with talking() as (server, client):
        data = b"".join(render("Event: Numbered", f"N: {n}") for n in range(500))
        for start in range(0, len(data), 37):
            server.peer.send(data[start : start + 37])
        await client.saw("Numbered", 500)
        assert [event.get("N") for event in client.events] == [str(n) for n in range(500)]


async def test_an_exception_in_on_event_does_not_close_the_link_nor_lose_an_event() -> None:
    async with talking() as (server, client):

        def explode(event: AmiMessage) -> None:
            raise ValueError(event.get("Number"))

        client.on_event = explode
        with capture_logs() as logs:
            server.peer.send(render("Event: One", "Number: +4930987654") + render("Event: Two"))
            await client.saw("Two")
            await client.ami.action("Marker")
        assert client.seen == ["up", "One", "Two"]
        assert any(line["event"] == "ami_callback_failed" for line in logs)
        assert "987654" not in repr(logs)


async def test_an_event_that_cannot_be_taken_ends_the_link_so_that_the_gap_shows() -> None:
    async with talking() as (server, client):
        client.on_event = lambda event: event.name != "Much"
        server.peer.send(render("Event: Much") + render("Event: After"))
        await client.saw("up", 2)
        assert [seen.partition(":")[0] for seen in client.seen] == ["up", "Much", "down", "up"]


async def test_a_character_cut_in_two_by_tcp_survives() -> None:
    async with talking() as (server, client):
        whole = render("Event: Named", "Name: Zoë 🎉")
        for cut_at in range(whole.index("ë".encode()) + 1, len(whole)):
            count = cut_at * 2
            client.seen.clear()
            server.peer.send(render(f"Event: Before{count}") + whole[:cut_at])
            await client.saw(f"Before{count}")  # the first part has been read
            server.peer.send(whole[cut_at:])
            await client.saw("Named")
            assert client.events[-1].get("Name") == "Zoë 🎉"


async def test_a_message_is_frozen_and_asks_for_headers_in_any_case_and_keeps_repeated_ones() -> None:
    async with talking() as (server, client):
        server.peer.message(
            "Event: Some", "ChanVariable: a=1", "Uniqueid: x: y", "ChanVariable: b=2", "ChanVariable: c=3"
        )
        await client.saw("Some")
        (event,) = client.events
        assert event.get("UNIQUEID") == event.get("uniqueid") == "x: y"
        assert event.get("uniqueidd") == ""
        assert event.get("Missing", "absent") == "absent"
        assert event.get("ChanVariable") == "a=1\nb=2\nc=3"
        with pytest.raises(FrozenInstanceError):
            event.name = "Other"  # type: ignore[misc]
        assert not hasattr(event, "uniqueidd")


async def test_a_message_without_an_end_ends_the_link() -> None:
    async with talking() as (server, client):
        server.peer.send(b"x" * (2 << 20))
        await client.saw("down: a message without an end")
        await client.saw("up", 2)


# up and down


async def test_a_login_that_is_answered_before_asterisk_has_booted_is_not_up() -> None:
    server = ScriptedAmi(booted=False)
    async with server:
        client = Client(server.port, timings=replace(QUICK, ping_interval=SHORT))
        await client.ami.start()
        await server.got("Ping")  # so the login's answer has been read
        assert not client.ami.is_up
        with pytest.raises(NeverSent, match="FullyBooted"):
            await client.ami.action("Originate", ORIGINATE)
        server.peer.message("Event: TooEarly")
        server.boot()
        server.peer.message("Event: First")
        await client.saw("First")
        assert client.seen == ["up", "First"]
        assert client.ami.last_error is None
        await client.ami.stop()


async def test_a_full_boot_that_is_never_told_leads_to_a_new_login() -> None:
    server = ScriptedAmi(booted=False)
    async with server:
        client = Client(server.port, timings=replace(QUICK, boot=timedelta(0)))
        await client.ami.start()
        await server.got("Login")
        server.booted = True  # told to new logins only
        await client.ami.wait_up(LONG)
        assert client.seen == ["up"]
        await client.ami.stop()


async def test_a_wrong_password_is_never_up_says_so_and_is_tried_again_slowly() -> None:
    delays: list[float] = []
    tried = Signals()

    async def pause(seconds: float) -> None:
        delays.append(seconds)
        tried.tell()
        await asyncio.sleep(0)

    async with ScriptedAmi() as server:
        server.users["dialer"] = "another"
        client = Client(server.port, pause=pause, jitter=lambda: 1.0)
        await client.ami.start()
        with pytest.raises(LoginRefused, match="Authentication failed"):
            await client.ami.wait_up(LONG)
        await tried.until(lambda: len(delays) >= 2)
        assert type(client.ami.last_error) is LoginRefused
        assert not client.ami.is_up
        assert client.seen == []
        with pytest.raises(NeverSent):
            await client.ami.action("Originate", ORIGINATE)
        assert set(delays) == {QUICK.back_off_max.total_seconds()}
        server.users["dialer"] = "xyzzy-secret"
        await client.saw("up")
        await client.ami.wait_up(LONG)  # the old refusal is forgotten
        await client.ami.stop()


async def test_a_login_without_an_answer_is_not_up_and_is_tried_again() -> None:
    async with ScriptedAmi() as server:
        server.replies["login"] = lambda peer, action: peer.message("Event: FullyBooted")
        client = Client(server.port, timings=replace(QUICK, connect=SHORT))
        await client.ami.start()
        await server.got("Login", 2)
        assert client.seen == []
        del server.replies["login"]
        await client.saw("up")
        await client.ami.stop()


async def test_a_half_open_peer_is_noticed_and_left() -> None:
    async with talking(timings=replace(QUICK, ping_interval=SHORT, ping_deadline=SHORT * 20)) as (server, client):
        server.peers[0].frozen = True
        await client.saw("down: no answer to Ping")
        await client.saw("up", 2)
        await client.ami.action("Marker")


async def test_back_off_grows_with_jitter_to_its_limit_and_starts_anew_after_a_long_time_up() -> None:
    delays: list[float] = []
    reached = asyncio.Event()
    go_on = asyncio.Event()
    now = 0.0

    async def pause(seconds: float) -> None:
        delays.append(seconds)
        if len(delays) in (8, 9):
            reached.set()
            await go_on.wait()
            go_on.clear()

    async with ScriptedAmi() as server:
        port = server.port
    jitter = iter([1.0, 0.0] * 10)
    client = Client(port, timings=Timings(), pause=pause, jitter=lambda: next(jitter), clock=lambda: now)
    await client.ami.start()
    await asyncio.wait_for(reached.wait(), BOUND)
    assert delays == pytest.approx([0.2, 0.2, 0.8, 0.8, 3.2, 3.2, 10.0, 5.0])
    assert isinstance(client.ami.last_error, NeverSent)
    reached.clear()
    server = ScriptedAmi()
    server.port = port
    async with server:
        go_on.set()
        await client.saw("up")
        now = 60.0
        server.peer.cut()
        await asyncio.wait_for(reached.wait(), BOUND)
        assert delays[-1] == pytest.approx(0.2)
        await client.ami.stop()


async def test_stop_cancels_the_planned_reconnect_and_may_be_called_twice() -> None:
    pausing, cancelled = asyncio.Event(), asyncio.Event()

    async def pause(seconds: float) -> None:
        pausing.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with ScriptedAmi() as server:
        client = Client(server.port, pause=pause)
        await client.ami.stop()
        await client.ami.start()
        await client.ami.start()
        await client.ami.wait_up(LONG)
        server.peer.cut()
        await asyncio.wait_for(pausing.wait(), BOUND)
        await client.ami.stop()
        await client.ami.stop()
        assert cancelled.is_set()
        assert len(server.peers) == 1
        await client.ami.start()
        await client.saw("up", 2)
        await client.ami.stop()
        assert client.seen[-1] == "down: stopped"


async def test_a_callback_that_fails_at_up_or_down_does_not_end_the_connection() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    async with ScriptedAmi() as server:
        ami = AmiConnection(
            host="127.0.0.1",
            port=server.port,
            login=Login(username="dialer", secret="xyzzy-secret"),
            on_event=lambda event: None,
            on_up=fail,
            on_down=fail,
            timings=QUICK,
        )
        await ami.start()
        await ami.wait_up(LONG)
        server.peer.cut()
        await server.got("Login", 2)
        await ami.wait_up(LONG)
        await ami.stop()


# what may be written, and what is shown


@pytest.mark.parametrize("bad", ["\r\n", "\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"])
@pytest.mark.parametrize("where", ["value", "name", "action", "variable", "id"])
async def test_nothing_that_could_inject_a_header_is_ever_written(bad: str, where: str) -> None:
    poison = f"a{bad}Action: Originate{bad}x"
    headers = {
        "value": [("Channel", poison)],
        "name": [(poison, "x")],
        "action": [],
        "variable": [("Variable", "A=1"), ("Variable", poison)],
        "id": [("ActionID", poison)],
    }[where]
    async with talking() as (server, client):
        with pytest.raises(NeverSent):
            await client.ami.action(poison if where == "action" else "Marker", headers)
        await client.ami.action("Last")
        assert [action.name for action in server.received] == ["login", "last"]


@pytest.mark.parametrize("header", ["", "A b", "A:", "Ä", "1"])
async def test_a_headers_name_is_a_word(header: str) -> None:
    async with talking() as (_, client):
        with pytest.raises(NeverSent):
            await client.ami.action("Marker", {header: "x"})


@pytest.mark.parametrize("header", ["Action", "action", "Channel"])
async def test_only_variable_may_be_there_twice(header: str) -> None:
    async with talking() as (server, client):
        with pytest.raises(NeverSent):
            await client.ami.action("Marker", [("channel", "x"), (header, "Originate")])
        await client.ami.action("Marker", [("Variable", "A=1"), ("Variable", "B=2")])
        assert server.actions("Marker")[0].all("Variable") == ["A=1", "B=2"]


@pytest.mark.parametrize("letter", ["x", "ü"])
async def test_a_line_longer_than_asterisks_buffer_is_never_written(letter: str) -> None:
    most = (1024 - len("Value: \r\n")) // len(letter.encode())
    async with talking() as (server, client):
        with pytest.raises(NeverSent):
            await client.ami.action("Marker", {"Value": letter * (most + 1)})
        await client.ami.action("Marker", {"Value": letter * most})
        assert [action.get("Value") for action in server.actions("Marker")] == [letter * most]


async def test_neither_logs_nor_errors_nor_reprs_show_a_secret_or_a_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    with capture_logs() as logs:
        async with talking() as (server, client):
            await client.ami.action("Originate", ORIGINATE)
            server.peer.message("Event: Newchannel", "CallerIDNum: +4930123456")
            await client.saw("Newchannel")
            server.replies["originate"] = cut
            for headers in (ORIGINATE, [*ORIGINATE, ("Exten", "\n+4930123456")]):
                with pytest.raises(AmiError) as error:
                    await client.ami.action("Originate", headers)
                shown.append(error.value)
            await client.saw("up", 2)
            shown += [client.events, client.ami.last_error, client.ami, Login(username="u", secret="xyzzy-secret")]
    assert logs
    text = repr(logs) + caplog.text + repr(shown) + str(shown)
    assert not re.search("xyzzy|30123456", text)


def test_nothing_else_in_the_project_knows_panoramisk() -> None:
    root = Path(__file__).resolve().parents[3]
    importing = re.compile(r"^\s*(from|import)\s+panoramisk", re.MULTILINE)
    found = {
        str(path.relative_to(root))
        for package in ("models", "asterisk", "workers", "scheduler", "deploy")
        for path in (root / package).rglob("*.py")
        if importing.search(path.read_text())
    }
    assert found == {"asterisk/connection.py"}
