"""The example agent in a real call: Asterisk brings the id, the ledger the name, the carrier echoes the greeting."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import uuid_utils.compat
from anyio.from_thread import BlockingPortal

from deploy.agent import AUDIO, HANGUP, ID, ExampleAgent, Person, frame
from deploy.greeting import FRAME_SECONDS
from deploy.part import free_port
from models.database import database_url
from models.schema import calls
from models.statuses import OPEN
from tests.integration.system import System, until

AWKWARD = ["Doe, John", 'Anna "Anni" O\'Brien', "Søren; Kierkegaard | `x` $(y) ^3B", "Ana 🎉 Díaz", "李小龍", ""]
VARIABLES = {"city": 'Köln; "Süd", 2|3', "note": "😀 你好 ${UNIQUEID} a&b=c%20", "empty": ""}

# 16 bits, little endian, and what G.711 makes of it (ITU-T G.711, table 2a: the value that 0xA0 stands for is 7932)
LOUD, LOUD_ULAW = (7932).to_bytes(2, "little") * 160, b"\xa0" * 160


@pytest.fixture(scope="module")
def agent(whole_system: System, portal: BlockingPortal) -> Iterator[ExampleAgent]:
    agent = ExampleAgent(database_url=database_url(whole_system.settings), listen=timedelta(seconds=0.5))
    portal.call(agent.start)
    try:
        yield agent
    finally:
        portal.call(agent.stop)


def call_somebody(system: System, agent_id: UUID, from_number: str, to: str, name: str) -> UUID:
    call_id = uuid_utils.compat.uuid7()
    with system.engine.begin() as connection:
        person = {"phone_number": to, "name": name, "variables": VARIABLES}
        connection.execute(calls.insert().values(id=call_id, agent_id=agent_id, from_number=from_number, **person))
    system.slots.wake()
    return call_id


def end_of(system: System, call_id: UUID) -> dict[str, Any]:
    """The call's last attempt, once it is over: on a busy machine one before it may have been taken back unsent."""
    until(lambda: system.status(call_id) not in {"scheduled", *OPEN}, what="the call is over")
    with system.engine.begin() as connection:
        query = "SELECT a.* FROM attempts a JOIN calls c ON c.current_attempt_id = a.id WHERE c.id = %(id)s"
        return dict(connection.exec_driver_sql(query, {"id": call_id}).one()._mapping)


def test_who_is_on_the_line_arrives_intact_and_the_greeting_comes_back(system: System, agent: ExampleAgent) -> None:
    from_number, agent_id = system.add_trunk("greeted"), system.add_agent("greeted", agent.connect)
    to = {f"+1{area}5550100": name for area, name in zip(range(212, 219), AWKWARD, strict=False)}
    made = {number: call_somebody(system, agent_id, from_number, number, name) for number, name in to.items()}
    ends = {number: end_of(system, call_id) for number, call_id in made.items()}
    met = {call.attempt_id: call for call in agent.conversations}
    assert met.keys() == {end["id"] for end in ends.values()}, "the id is the attempt's"
    for number, end in ends.items():
        assert (end["status"], end["disposition"], end["hangup_by"]) == ("completed", "answered", "agent")
        expected = Person(name=to[number], phone_number=number, variables=VARIABLES, campaign=None)
        assert met[end["id"]].person == expected
        assert met[end["id"]].heard_seconds > 0.5
        [carried] = system.carried(number)
        assert carried.end == "bye-received"


def test_a_call_that_the_ledger_does_not_know_is_greeted_all_the_same(
    system: System, agent: ExampleAgent, portal: BlockingPortal
) -> None:
    unknown = uuid4()
    host, _, port = agent.connect.removeprefix("audiosocket://").rpartition(":")
    kinds = portal.call(hear, host, int(port), unknown)
    assert AUDIO in kinds
    assert kinds[-1] == HANGUP
    until(lambda: unknown in {call.attempt_id for call in agent.conversations})
    assert [call.person for call in agent.conversations if call.attempt_id == unknown] == [None]


async def hear(host: str, port: int, attempt_id: UUID) -> list[int]:
    """The kinds of the frames, up to the hang-up."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(frame(ID, attempt_id.bytes))
        kinds = []
        while HANGUP not in kinds:
            header = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(header[1:], "big"))
            kinds.append(header[0])
        writer.close()
        await writer.wait_closed()
        return kinds


def test_a_dead_agent_is_told_from_everything_else(system: System) -> None:
    from_number = system.add_trunk("dead")
    agent_id = system.add_agent("dead", f"audiosocket://127.0.0.1:{free_port()}")
    end = end_of(system, system.call(agent_id, from_number, "+12255550100"))
    assert (end["status"], end["disposition"]) == ("failed", "agent-unreachable")
    assert system.carried("+12255550100")[0].end == "bye-received"


def test_asterisk_gives_ulaw_and_takes_signed_linear(system: System, portal: BlockingPortal) -> None:
    """What `deploy.agent` says of the two directions, by a value that survives the way to the carrier and back."""
    with portal.wrap_async_context_manager(listening_to_its_echo()) as (port, heard):
        from_number = system.add_trunk("echo")
        agent_id = system.add_agent("echo", f"audiosocket://127.0.0.1:{port}")
        end = end_of(system, system.call(agent_id, from_number, "+12265550100"))
    assert end["status"] == "completed"
    assert heard[0] == (ID, end["id"].bytes), "the first frame, and alone"
    assert {(kind, len(payload)) for kind, payload in heard[1:]} == {(AUDIO, 160)}
    assert heard[-1] == (AUDIO, LOUD_ULAW)


@asynccontextmanager
async def listening_to_its_echo() -> AsyncIterator[tuple[int, list[tuple[int, bytes]]]]:
    """An agent that says the same frame until it hears itself, half a second long at most."""
    heard: list[tuple[int, bytes]] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                while not heard or heard[-1][1] != LOUD_ULAW:
                    header = await reader.readexactly(3)
                    heard.append((header[0], await reader.readexactly(int.from_bytes(header[1:], "big"))))
                    for _ in range(25 if len(heard) == 1 else 0):
                        writer.write(frame(AUDIO, LOUD))
                        await asyncio.sleep(FRAME_SECONDS)  # the pace of the audio
        finally:
            writer.write(frame(HANGUP))
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


@contextmanager
def agents_process(system: System, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "deploy.agent", *words]
    environment = {**os.environ, "TRUNKLINE_HOME": str(system.stack.home)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_process_says_where_it_is_and_hangs_up_when_it_is_told_to_end(system: System) -> None:
    from_number = system.add_trunk("process")
    with agents_process(system, "--port", "0", "--listen-seconds", "50") as process:
        assert process.stdout is not None
        agent_id = system.add_agent("process", process.stdout.readline().strip())
        call_id = system.call(agent_id, from_number, "+12275550100", name="李, Ana")
        attempt = until(
            lambda: system.rows("SELECT id FROM attempts WHERE call_id = %(id)s AND status = 'in-progress'", id=call_id)
        )[0][0]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
    assert end_of(system, call_id)["status"] == "completed"
    [line] = [line for line in log.splitlines() if "conversation" in line]
    assert f"attempt={attempt}" in line
    assert "heard_seconds=" in line
    assert "by_name=" in line
    assert "5550100" not in log
    assert "Ana" not in log
    assert json.dumps("李")[1:-1] not in log
