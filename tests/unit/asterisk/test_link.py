"""The listener's link: what waits to be read is bounded, and so is a question."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asterisk.connection import AmiMessage, MaybeSent, Refused
from asterisk.link import Down, Link, Up
from models.roles import LOST_AFTER_MS
from models.settings import Login, Node
from tests.unit.asterisk.scripted_ami import BOUND, Peer, Received, ScriptedAmi, refuse, rows, silent

NONE = "Database entry not found"
LISTENER = Login(username="listener", secret="plugh-secret")


@pytest.fixture
def server(loop: BlockingPortal) -> Iterator[ScriptedAmi]:
    async def made() -> ScriptedAmi:
        return ScriptedAmi()

    running = loop.call(made)
    running.users["listener"] = LISTENER.secret
    with loop.wrap_async_context_manager(running):
        yield running


@pytest.fixture
def loop() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def listening(server: ScriptedAmi) -> Link:
    return Link(Node(name="a", host="127.0.0.1", port=server.port, listener=LISTENER, sender=LISTENER))


def take(link: Link) -> AmiMessage | Up | Down:
    return link.take(at_most=1, wait=timedelta(seconds=BOUND))[0]


def test_when_nobody_reads_the_link_ends_before_memory_grows_and_what_was_heard_is_kept(
    server: ScriptedAmi, loop: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asterisk.link.MOST_WAITING", 3)
    with listening(server) as link:
        assert take(link) == Up()
        for n in range(9):
            loop.call(server.peer.message, "Event: Newchannel", f"Uniqueid: {n}")
        loop.call(server.got, "Login", 2)
        heard = [take(link) for _ in range(5)]
    assert [item.get("Uniqueid") for item in heard if isinstance(item, AmiMessage)] == ["0", "1", "2"]
    assert isinstance(heard[3], Down)
    assert heard[4] == Up(), "what comes now comes after a gap, which is looked up"


def test_an_asterisk_that_answers_nothing_is_given_up_before_the_role_is_lost_by_it(server: ScriptedAmi) -> None:
    server.replies["coreshowchannels"] = silent
    with listening(server) as link:
        assert take(link) == Up()
        began = time.monotonic()
        with pytest.raises(MaybeSent):
            link.channels()
        assert time.monotonic() - began < LOST_AFTER_MS / 1000 - 1


def test_many_marks_take_no_longer_than_one(server: ScriptedAmi) -> None:
    there, gone = [UUID(int=n) for n in range(20)], [UUID(int=n) for n in range(20, 40)]
    one = 0.5

    def late(peer: Peer, action: Received) -> None:
        found = UUID(action.get("Key")) in there
        answer = rows("DBGetResponse", [["Val: 1"]], complete="DBGetComplete") if found else refuse(NONE)
        asyncio.get_running_loop().call_later(one, answer, peer, action)

    server.replies["dbget"] = late
    with listening(server) as link:
        assert take(link) == Up()
        began = time.monotonic()
        assert link.marked(dict.fromkeys([*there, *gone], "att2026050412")) == set(there)
        assert time.monotonic() - began < 8 * one
        server.replies["dbget"] = refuse("Permission denied")
        with pytest.raises(Refused):
            link.marked({gone[0]: "att2026050412"})
