"""A carrier whose audio is ours, packet by packet: SIPp signals, and a thread speaks, echoes, loses packets and presses keys.

SIPp plays keys of RFC 4733 from raw sockets only, which need root, and its echo loses nothing. One call at a time: audio goes
to the address in the SDP of the newest INVITE.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread

from deploy.carrier.carrier import Carrier
from deploy.debian import provide
from tests.integration.outside_carrier import TracingCarrier
from tests.integration.sip_messages import invites

FRAME_SECONDS, FRAME_SAMPLES = 0.02, 160
ULAW, TELEPHONE_EVENT = 0, 101  # as the carrier's SDP has them
SILENCE = b"\xff" * FRAME_SAMPLES
SSRC = 0x5EEDED
EVENTS = "0123456789*#"  # RFC 4733, table 3
PRESSED, BETWEEN = 8, 8  # frames


class _Audio(Thread):
    def __init__(
        self, messages: Path, rtp: socket.socket, rtcp: socket.socket, *, speaks: bool, loses_every: int, presses: str
    ) -> None:
        super().__init__(name="carrier's audio")
        self._messages, self._rtp, self._rtcp = messages, rtp, rtcp
        self._speaks, self._loses_every, self._presses = speaks, loses_every, presses
        self._number = count(1)
        self.over = Event()

    def run(self) -> None:
        """A frame each 20 ms, once an INVITE has come; the keys, once the agent is heard."""
        self._rtp.setblocking(False)
        heard, sent = 0, count()
        keys: Iterator[list[bytes]] = iter(())
        while not self.over.wait(FRAME_SECONDS):
            called = invites(self._messages) if self._messages.exists() else []
            if not called:
                continue
            to = called[-1].audio
            for packet in self._arrived():
                heard += 1
                if heard == 1:
                    keys = self._keys()
                if self._loses_every:
                    self._lossy_echo(packet, heard, to)
            if self._speaks:
                time = next(sent) * FRAME_SAMPLES
                pressed = next(keys, None)
                for packet in [self._packet(ULAW, time, SILENCE)] if pressed is None else pressed:
                    self._rtp.sendto(packet, to)

    def _arrived(self) -> Iterator[bytes]:
        with suppress(BlockingIOError):
            while True:
                yield self._rtp.recv(2048)

    def _packet(self, kind: int, time: int, payload: bytes) -> bytes:
        return struct.pack("!BBHII", 0x80, kind, next(self._number) & 0xFFFF, time, SSRC) + payload

    def _keys(self) -> Iterator[list[bytes]]:
        """Frame by frame, as RFC 4733, 2.5.1: an event is told again while it lasts, its end three times."""
        for position, key in enumerate(self._presses):
            began = (1 << 20) + position * (PRESSED + BETWEEN) * FRAME_SAMPLES
            for frame in range(1, PRESSED + 1):
                last = frame == PRESSED
                payload = struct.pack("!BBH", EVENTS.index(key), 0x80 * last + 10, frame * FRAME_SAMPLES)
                marker = 0x80 * (frame == 1)
                yield [self._packet(TELEPHONE_EVENT | marker, began, payload) for _ in range(3 if last else 1)]
            yield from [[]] * BETWEEN

    def _lossy_echo(self, packet: bytes, heard: int, to: tuple[str, int]) -> None:
        """All but every so-manyth comes back; and as many of ours are reported as lost on their way here (RFC 3550, 6.4.2)."""
        if heard % self._loses_every:
            self._rtp.sendto(packet, to)
        if heard % 25 == 0:
            number, _, ssrc = struct.unpack_from("!HII", packet, 2)
            lost = heard // self._loses_every
            block = struct.pack("!IIIIII", ssrc, lost, number, 0, 0, 0)
            self._rtcp.sendto(struct.pack("!BBHI", 0x81, 201, 7, SSRC) + block, (to[0], to[1] + 1))


@contextmanager
def speaking_carrier(
    directory: Path, *, speaks: bool = False, loses_every: int = 0, presses: str = ""
) -> Iterator[Carrier]:
    """Without more it answers and no audio of it ever comes. `presses` only while it speaks."""
    carrier = TracingCarrier(tree=provide().root, directory=directory, username="u", password="p")
    with carrier, socket.socket(type=socket.SOCK_DGRAM) as rtp, socket.socket(type=socket.SOCK_DGRAM) as rtcp:
        rtp.bind((carrier.host, carrier.audio_port))
        rtcp.bind((carrier.host, carrier.audio_port + 1))
        audio = _Audio(directory / "messages.log", rtp, rtcp, speaks=speaks, loses_every=loses_every, presses=presses)
        audio.start()
        try:
            yield carrier
        finally:
            audio.over.set()
            audio.join()
