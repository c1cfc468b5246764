"""The HTTP server under the application: uvicorn, with an end to everything that a client can draw out.

    connected ──▶ head ──▶ request ──▶ answer ──▶ head of the next ...
               HEAD_SECONDS  (the gate)  READ_SECONDS without progress

TLS is the work of a reverse proxy in front of it.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import h11
import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from models.settings import Settings
from scheduler.api.app import make_app
from scheduler.api.parts import Parts
from scheduler.api.problems import problem

HEAD_SECONDS = 15.0  # from the connection, or the answer before, to the last byte of a request's head
READ_SECONDS = 30.0  # that a client may leave an answer unread
CONNECTIONS = 500  # half of the files that a process may usually have open
SLOWEST_READER = 4_000  # bytes a second

_BACKLOG = 512
_IDLE_SECONDS = 10
_LOADS_END_SECONDS = 8  # a load that is in hand when the process is asked to stop; what it has written is then removed
_ENDS_SECONDS = 15  # whatever is in hand then


def make_server(settings: Settings) -> uvicorn.Server:
    """The API on these settings, not started. Raises as `make_app`."""
    return _Server(
        uvicorn.Config(
            make_app(settings),
            http=Connection,
            ws="none",
            loop="asyncio",
            log_config=None,
            log_level="error",  # a warning for every bad request would be anybody's way to fill a disk
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.api_proxies.strip()),
            forwarded_allow_ips=settings.api_proxies,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_ENDS_SECONDS + 1,  # nobody is left to be answered by then
        )
    )


class _Server(uvicorn.Server):
    """Asked to stop, it answers what is in hand, and cuts off who has no answer in time: uvicorn would say 500 of what may be done."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        parts: Parts = self.config.app.state.parts  # type: ignore[union-attr]
        timers = [
            loop.call_later(_LOADS_END_SECONDS, parts.ending.set),
            loop.call_later(_ENDS_SECONDS, self._cut_off),
        ]
        await super().shutdown(sockets)
        parts.ending.set()
        for timer in timers:
            timer.cancel()

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class Connection(H11Protocol):
    """uvicorn waits without end for a head, for what is left of a body that was refused, and for a client to read."""

    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > CONNECTIONS:
            self._refuse(problem(503, "too many connections", headers={"Retry-After": "1"}))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._stop_expecting()

    def on_response_complete(self) -> None:
        self._expect_head()
        super().on_response_complete()  # which may begin the next request, if that is here already
        self._stop_expecting()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._reader):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def send_400_response(self, msg: str) -> None:
        """As a problem, with the status that h11 gives it: 431 for a head that is too large."""
        error = sys.exception()  # uvicorn calls this where it has caught one
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(problem(status, "this is not HTTP" if status == 400 else f"{error}"))

    def _refuse(self, answer: Response) -> None:
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=answer.status_code, headers=headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_head(self) -> None:
        """Data alone does not put this off: a byte every second would."""
        if self._head is not None:
            self._head.cancel()
        self._unread = self.transport.get_write_buffer_size()
        self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_expecting(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if self._head is not None and cycle is not None and not cycle.response_complete:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        """Unless the answer before is still on its way to a client who reads it, if slowly."""
        unread = self.transport.get_write_buffer_size()
        if 0 < unread <= self._unread - SLOWEST_READER * HEAD_SECONDS:
            self._expect_head()
        else:
            self.transport.abort()
