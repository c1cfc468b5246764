"""The example agent against peers that are not Asterisk, without a database."""

from __future__ import annotations

import asyncio
import io
import math
import stat
import wave
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from deploy import agent as agent_module
from deploy.agent import AUDIO, DTMF, HANGUP, ID, ExampleAgent, Person, frame
from deploy.greeting import FRAME_BYTES, FRAME_SECONDS, SILENCE, NoSpeech, at_8_khz, frames, speech, tone

pytestmark = pytest.mark.anyio

BOUND = 10.0
NOBODY = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"
ULAW = bytes([0x8F]) * 160


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Agent(ExampleAgent):
    """An agent that asks nobody who is on the line, and tells when it has done with a call."""

    def __init__(self, people: Mapping[UUID, Person], listen: float) -> None:
        super().__init__(database_url=NOBODY, listen=timedelta(seconds=listen))
        self.people = people
        self.done = asyncio.Semaphore(0)

    async def _look_up(self, attempt_id: UUID) -> Person | None:
        return self.people.get(attempt_id)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await super()._converse(reader, writer)
        finally:
            self.done.release()

    async def ended(self) -> None:
        async with asyncio.timeout(BOUND):
            await self.done.acquire()


@asynccontextmanager
async def answering(
    people: dict[UUID, Person] | None = None, *, listen: float = 0.1
) -> AsyncIterator[tuple[Agent, int]]:
    agent = Agent(people or {}, listen)
    await agent.start()
    try:
        yield agent, int(agent.connect.rpartition(":")[2])
    finally:
        await agent.stop()


class Peer:
    """The other end, which hears what Asterisk would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def dials(cls, port: int, attempt_id: UUID | None = None) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if attempt_id is not None:
                writer.write(frame(ID, attempt_id.bytes))
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def hears(self) -> tuple[int, bytes]:
        async with asyncio.timeout(BOUND):
            header = await self.reader.readexactly(3)
            return header[0], await self.reader.readexactly(int.from_bytes(header[1:], "big"))

    async def hears_all(self) -> list[tuple[int, bytes]]:
        """Until the agent hangs up; as Asterisk does, it then closes."""
        heard = [await self.hears()]
        while heard[-1][0] != HANGUP:
            heard.append(await self.hears())
        self.writer.close()
        return heard

    async def is_closed(self) -> bool:
        """Waits for it; what comes before does not matter."""
        async with asyncio.timeout(BOUND):
            with suppress(ConnectionResetError):
                while await self.reader.read(4096):
                    pass
        return True


async def test_an_unknown_call_is_greeted_without_a_name_in_whole_frames_and_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    attempt_id = uuid4()
    async with answering() as (agent, port), Peer.dials(port, attempt_id) as peer:
        heard = await peer.hears_all()
        await agent.ended()
    assert heard == [*((AUDIO, payload) for payload in (*tone(), *[SILENCE] * 5)), (HANGUP, b"")]
    [call] = agent.conversations
    assert (call.attempt_id, call.person, call.by_name, call.heard_seconds) == (attempt_id, None, False, 0)


async def test_frames_are_put_together_wherever_tcp_cuts_them() -> None:
    attempt_id = uuid4()
    stream = frame(ID, attempt_id.bytes) + frame(AUDIO, ULAW) + frame(DTMF, b"5") + frame(AUDIO, ULAW) + frame(HANGUP)
    async with answering(listen=5) as (agent, port), Peer.dials(port) as peer:
        for byte in stream:
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await agent.ended()
    [call] = agent.conversations
    assert call.attempt_id == attempt_id
    assert call.heard_seconds == pytest.approx(2 * FRAME_SECONDS)
    assert call.keys == "5"
    assert "keys" not in repr(call)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\xff" * 4096,
        frame(AUDIO, ULAW),  # audio before the id
        frame(ID, bytes(15)),
        frame(ID, uuid4().bytes) + frame(0x77, b"what is this"),
    ],
)
async def test_a_peer_that_speaks_something_else_is_closed(garbage: bytes) -> None:
    async with answering(listen=60) as (agent, port), Peer.dials(port) as peer:
        with capture_logs() as logs:
            peer.writer.write(garbage)
            assert await peer.is_closed()
        assert [line for line in logs if line["event"] == "not_audiosocket"]
        assert all(call.heard_seconds == 0 for call in agent.conversations)


async def test_a_port_probe_and_a_peer_that_goes_away_are_not_worth_a_warning() -> None:
    async with answering(listen=60) as (agent, port):
        with capture_logs() as logs:
            async with Peer.dials(port):
                pass
            await agent.ended()
            async with Peer.dials(port, uuid4()) as peer:
                await peer.hears()
            await agent.ended()
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == ["conversation"]


async def test_a_peer_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FIRST_FRAME_TIMEOUT", 0.05)
    async with answering() as (agent, port), Peer.dials(port) as peer:
        assert await peer.is_closed()
    assert not agent.conversations


async def test_stopping_hangs_up_what_is_up_and_listens_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(listen=60) as (agent, port), Peer.dials(port, uuid4()) as peer:
        await peer.hears()
        await agent.stop()
        assert len(agent.conversations) == 1, "nothing goes on behind a stop"
        assert (await peer.hears_all())[-1] == (HANGUP, b"")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await agent.stop()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_it_starts_twice_and_again_after_a_stop() -> None:
    async with answering() as (agent, port):
        await agent.start()
        await agent.stop()
        await agent.start()
        async with Peer.dials(port, uuid4()) as peer:
            assert (await peer.hears_all())[-1] == (HANGUP, b"")


async def test_a_database_that_does_not_answer_costs_the_name_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "LOOK_UP_TIMEOUT", 0.1)
    agent = ExampleAgent(database_url=NOBODY, listen=timedelta())
    await agent.start()
    try:
        with capture_logs() as logs:
            async with Peer.dials(int(agent.connect.rpartition(":")[2]), uuid4()) as peer:
                assert (await peer.hears())[0] == AUDIO
                assert (await peer.hears_all())[-1] == (HANGUP, b"")
    finally:
        await agent.stop()
    assert "no_look_up" in [line["event"] for line in logs]
    assert NOBODY not in str(logs)


def speaker(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A program called espeak-ng, the only one on PATH."""
    program = directory / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(directory))
    return program


def sound(seconds: float, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(array("h", [1000]) * int(seconds * rate))
    return buffer.getvalue()


NAMES = ['$(touch here); `id` | "O\'Brien"', "--help", "-w /tmp/here", "李小龍", "Ana 🎉\nDíaz", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_reaches_the_speaker_as_text_and_never_as_a_word_or_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hello.wav").write_bytes(sound(0.1, 22050))
    speaker(
        tmp_path,
        monkeypatch,
        f'echo "$@" > {tmp_path}/words; /bin/cat > {tmp_path}/text; exec /bin/cat {tmp_path}/hello.wav',
    )
    attempt_id = uuid4()
    person = Person(name=name, phone_number="+12125550100", variables={}, campaign=None)
    async with answering({attempt_id: person}) as (agent, port), Peer.dials(port, attempt_id) as peer:
        with capture_logs() as logs:
            heard = await peer.hears_all()
            await agent.ended()
    assert (tmp_path / "words").read_text() == "--stdin --stdout\n"
    assert (tmp_path / "text").read_bytes() == f"Hello, {name}.".encode()
    assert agent.conversations[0].by_name
    assert len([payload for _, payload in heard if any(payload)]) == 5
    assert "5550100" not in f"{logs} {agent.conversations[0]!r}"


@pytest.mark.parametrize("script", ["exit 1", "echo this is no sound", "exec /bin/sleep 60", "kill -9 $$"])
async def test_a_speaker_that_fails_or_hangs_is_replaced_by_the_tone(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "SPEECH_TIMEOUT", 0.2)
    speaker(tmp_path, monkeypatch, script)
    attempt_id = uuid4()
    person = Person(name="Ana", phone_number="+12125550100", variables={}, campaign=None)
    async with answering({attempt_id: person}) as (agent, port), Peer.dials(port, attempt_id) as peer:
        heard = await peer.hears_all()
        await agent.ended()
    assert tuple(payload for _, payload in heard)[: len(tone())] == tone()
    assert not agent.conversations[0].by_name


async def test_a_pipes_header_that_promises_too_much_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytearray(sound(0.5, 22050))
    whole[4:8], whole[40:44] = b"\x24\xf0\xff\x7f", b"\x00\xf0\xff\x7f"  # as espeak-ng writes it
    (tmp_path / "hello.wav").write_bytes(whole)
    program = speaker(tmp_path, monkeypatch, f"exec /bin/cat {tmp_path}/hello.wav")
    assert len(await speech(str(program), "Hello.")) == 25
    with pytest.raises(NoSpeech):
        await speech(str(tmp_path / "nothing"), "Hello.")


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 48000])
async def test_resampling_keeps_the_length_and_the_note(rate: int) -> None:
    samples = [int(10_000 * math.sin(2 * math.pi * 400 * at / rate)) for at in range(rate)]
    resampled = at_8_khz(samples, rate)
    assert len(resampled) == 8000
    crossings = sum(1 for one, other in pairwise(resampled) if one < 0 <= other)
    assert abs(crossings - 400) <= 1
    assert 9000 < max(resampled) <= 10_000


async def test_frames_are_little_endian_and_the_last_is_filled_up() -> None:
    first, last = frames(array("h", [0x0102] * 161))
    assert first == b"\x02\x01" * 160
    assert last == b"\x02\x01" + bytes(318)
    assert {len(payload) for payload in (*tone(), SILENCE)} == {FRAME_BYTES}
    assert frame(AUDIO, first)[:3] == b"\x10\x01\x40"


async def test_many_calls_at_once_keep_the_pace() -> None:
    """A second of frames takes a second, for each of fifty: neither a burst nor one after the other."""
    async with answering(listen=1.0) as (_, port):
        loop = asyncio.get_running_loop()

        async def call() -> tuple[int, float]:
            async with Peer.dials(port, uuid4()) as peer:
                since = loop.time()
                return len(await peer.hears_all()) - 1, loop.time() - since

        for count, seconds in await asyncio.gather(*(call() for _ in range(50))):
            assert count >= 50
            assert seconds >= (count - 1) * FRAME_SECONDS - 0.001
            assert seconds < count * FRAME_SECONDS + 5
