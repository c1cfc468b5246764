"""The listener's link: what waits to be read is bounded, and so is a question."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asterisk.connection import AmiMessage, MaybeSent
from asterisk.link import Down, Link, Up
from models.roles import LOST_AFTER_MS
from models.settings import Login, Node
from tests.unit.asterisk.scripted_ami import BOUND, ScriptedAmi, silent

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
