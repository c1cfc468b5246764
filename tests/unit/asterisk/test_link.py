"""The listener's link, where what it does not answer could cost the listener more than an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asterisk.connection import MaybeSent
from asterisk.link import Link, Up
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


def test_an_asterisk_that_answers_nothing_is_given_up_before_the_role_is_lost_by_it(server: ScriptedAmi) -> None:
    server.replies["coreshowchannels"] = silent
    with Link(Node(name="a", host="127.0.0.1", port=server.port, listener=LISTENER, sender=LISTENER)) as link:
        assert link.take(at_most=1, wait=timedelta(seconds=BOUND)) == [Up()]
        began = time.monotonic()
        with pytest.raises(MaybeSent):
            link.channels()
        assert time.monotonic() - began < LOST_AFTER_MS / 1000 - 1
