"""An agent to try things out with: it greets by name, listens for a moment and hangs up.

Also the shortest description of what an agent does. Asterisk connects to it for every answered call and
speaks AudioSocket over TCP: frames of a byte kind, two bytes length (big endian) and payload, the first
of which is the id of the attempt. Who is on the line is a row of the view `call_context`.

    UUID ─▶ look the call up ─▶ greet ─▶ silence, while it listens ─▶ hang up
              2 s at most        espeak-ng; without it, or in doubt, a tone

**The two directions differ.** Dialled with `c(ulaw)`, Asterisk 22 sends G.711 u-law, 160 bytes for 20 ms,
as kind 0x10; what it receives as that kind it takes for signed linear, 16 bits, 8 kHz, little endian, 320
bytes for 20 ms, whatever was dialled (ast_audiosocket_receive_frame_with_hangup in res/res_audiosocket.c),
and encodes it itself. u-law sent to it is heard as noise. A key that the person presses is a frame of kind 0x03 with one
character, whether the carrier sent it as RFC 4733 or as INFO.

Whatever goes wrong ends one call at most: without a database there is no name, a peer that disconnects is
normal, one that speaks something else is closed. `python -m deploy.agent --port 9092` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, repeat
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from deploy.greeting import FRAME_SECONDS, SILENCE, NoSpeech, speech, tone
from models.database import connect_arguments, database_url
from models.errors import TrunklineError
from models.logs import configure
from models.settings import read_settings

HANGUP, ID, DTMF, AUDIO, ERROR = 0x00, 0x01, 0x03, 0x10, 0xFF
ULAW_BYTES_A_SECOND = 8000

FIRST_FRAME_TIMEOUT, LOOK_UP_TIMEOUT, SPEECH_TIMEOUT, GOODBYE_TIMEOUT = 5.0, 2.0, 3.0, 1.0
LONGEST_CALL = 60.0
MOST_CALLS = 500
SPOKEN_LETTERS = 80

logger = structlog.get_logger(__name__)


class NotAudioSocket(Exception):
    """The peer sends what no Asterisk would."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who is on the line, as `call_context` has it."""

    name: str | None
    phone_number: str = field(repr=False)
    variables: Mapping[str, Any]
    campaign: str | None


@dataclass(kw_only=True)
class Conversation:
    """One call that reached the agent; it changes no more once it is in `ExampleAgent.conversations`."""

    attempt_id: UUID
    person: Person | None = None
    by_name: bool = False
    heard_seconds: float = 0.0
    keys: str = field(default="", repr=False)  #: that the person pressed; a PIN may be among them


def frame(kind: int, payload: bytes = b"") -> bytes:
    """To be written whole: Asterisk hangs up when a payload is 5 ms behind its header."""
    return bytes([kind]) + len(payload).to_bytes(2, "big") + payload


class ExampleAgent:
    """Answers AudioSocket connections on `host`:`port` (0: a free one) from `start` to `stop`, in one event loop.

    `listen` is for how long it listens after the greeting. Starting or stopping twice does no harm.
    """

    def __init__(
        self, *, database_url: str, host: str = "127.0.0.1", port: int = 0, listen: timedelta = timedelta(seconds=1)
    ) -> None:
        self._database_url, self._host, self._port = database_url, host, port
        self._silence = round(listen.total_seconds() / FRAME_SECONDS)
        self._espeak = shutil.which("espeak-ng")
        self._speakers = asyncio.Semaphore(2)  # the processors are for the calls that are up
        self._server: asyncio.Server | None = None
        self._pool: AsyncConnectionPool | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.conversations: deque[Conversation] = deque(maxlen=10_000)

    @property
    def connect(self) -> str:
        """Where it is reached, as `agent create --connect` takes it; the port is known after `start`."""
        return f"audiosocket://{self._host}:{self._port}"

    async def start(self) -> None:
        """Raises OSError when it cannot listen there. Postgres may come later."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._accept, self._host, self._port, start_serving=False)
        self._port = self._server.sockets[0].getsockname()[1]
        bounds = connect_arguments("trunkline-agent", statement_timeout_ms=int(LOOK_UP_TIMEOUT * 1000))
        bounds["autocommit"] = True
        self._pool = AsyncConnectionPool(self._database_url, kwargs=bounds, min_size=1, max_size=4, open=False)
        await self._pool.open()
        await self._server.start_serving()

    async def stop(self) -> None:
        """Hangs up every call and returns within seconds."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=2 * GOODBYE_TIMEOUT)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=GOODBYE_TIMEOUT)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._calls) >= MOST_CALLS:
            writer.transport.abort()
            return
        call = asyncio.create_task(self._serve(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda _: writer.transport.abort())  # a peer that does not read

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(LONGEST_CALL):
                await self._converse(reader, writer)
        except NotAudioSocket as error:
            logger.warning("not_audiosocket", peer=writer.get_extra_info("peername"), reason=str(error))
        except (OSError, asyncio.IncompleteReadError):  # gone, or silent for too long: TimeoutError is an OSError
            logger.debug("peer_gone", peer=writer.get_extra_info("peername"))
        finally:
            with contextlib.suppress(OSError):
                writer.write(frame(HANGUP))
                writer.close()
                async with asyncio.timeout(GOODBYE_TIMEOUT):
                    await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(FIRST_FRAME_TIMEOUT):
            if await reader.readexactly(3) != frame(ID, bytes(16))[:3]:
                raise NotAudioSocket("the first frame is no UUID")
            call = Conversation(attempt_id=UUID(bytes=await reader.readexactly(16)))
        # from now on somebody has to read: Asterisk hangs up when its socket is full
        listening = asyncio.create_task(self._listen(reader, call))
        try:
            call.person = await self._look_up(call.attempt_id)
            greeting, call.by_name = await self._greeting(call.person)
            await self._play(writer, listening, greeting)
            writer.write(frame(HANGUP))
            await asyncio.wait({listening}, timeout=GOODBYE_TIMEOUT)  # closed with data unread, it would be reset
            if listening.done():
                listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            self.conversations.append(call)
            heard = round(call.heard_seconds, 2)
            logger.info("conversation", attempt=str(call.attempt_id), heard_seconds=heard, by_name=call.by_name)

    async def _listen(self, reader: asyncio.StreamReader, call: Conversation) -> None:
        """Counts the audio until the peer hangs up or disconnects."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                kind, *length = await reader.readexactly(3)
                payload = await reader.readexactly(int.from_bytes(length, "big"))
                if kind in {HANGUP, ERROR}:
                    return
                if kind not in {AUDIO, DTMF}:
                    raise NotAudioSocket(f"a frame of kind {kind:#04x}")
                if kind == DTMF:
                    call.keys += payload.decode("ascii", errors="replace")
                else:
                    call.heard_seconds += len(payload) / ULAW_BYTES_A_SECOND

    async def _look_up(self, attempt_id: UUID) -> Person | None:
        query = "SELECT name, phone_number, variables, campaign FROM call_context WHERE attempt_id = %s"
        if self._pool is None:
            return None
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT), self._pool.connection(LOOK_UP_TIMEOUT) as connection:
                cursor = connection.cursor(row_factory=class_row(Person))
                return await (await cursor.execute(query, [str(attempt_id)])).fetchone()
        except (psycopg.Error, TimeoutError) as error:
            logger.warning("no_look_up", attempt=str(attempt_id), reason=type(error).__name__)
            return None

    async def _greeting(self, person: Person | None) -> tuple[tuple[bytes, ...], bool]:
        """What to play, and whether the name is in it."""
        name = (person.name or "").strip()[:SPOKEN_LETTERS] if person else ""
        if self._espeak is None:
            return tone(), False
        try:
            async with asyncio.timeout(SPEECH_TIMEOUT), self._speakers:
                return await speech(self._espeak, f"Hello, {name}." if name else "Hello."), bool(name)
        except (NoSpeech, TimeoutError) as error:
            logger.warning("no_speech", reason=str(error) or type(error).__name__)
            return tone(), False

    async def _play(self, to: asyncio.StreamWriter, listening: asyncio.Task[None], frames: tuple[bytes, ...]) -> None:
        """The frames, then silence: a line without packets looks dead to a carrier. Ends when the peer has gone."""
        clock = asyncio.get_running_loop().time
        start = clock()
        for number, samples in enumerate(chain(frames, repeat(SILENCE, self._silence)), start=1):
            if listening.done():
                return
            to.write(frame(AUDIO, samples))
            await to.drain()
            await asyncio.sleep(start + number * FRAME_SECONDS - clock())  # from the start: lateness does not add up


async def run(agent: ExampleAgent) -> None:
    """Until SIGTERM or SIGINT; prints where it is reached."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await agent.start()
        print(agent.connect, flush=True)
        await stop.wait()
    finally:
        await agent.stop()


def main() -> int:
    """The process's entry point; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.agent", description="An AudioSocket agent to try out.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9092, help="0: a free one")
    parser.add_argument("--listen-seconds", type=float, default=1.0, help="after the greeting")
    given = parser.parse_args()
    try:
        settings = read_settings()
        configure(settings.log_level)
        listen = timedelta(seconds=given.listen_seconds)
        agent = ExampleAgent(database_url=database_url(settings), host=given.host, port=given.port, listen=listen)
        asyncio.run(run(agent))
    except (TrunklineError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
