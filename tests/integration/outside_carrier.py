"""The carrier in its namespace: `python -m tests.integration.outside_carrier DIRECTORY HOST PORT`, until its input ends.

SIPp signals, as in every test, and keeps every message. Audio is ours: what comes is sent back to the address in the SDP of
the newest INVITE, as a carrier does that knows nothing of NAT. SIPp's own echo would send it to where it came from, and a
wrong SDP would never be noticed. `DIRECTORY/audio.log` has a line a packet: FROM-HOST FROM-PORT TO-HOST TO-PORT.
"""

from __future__ import annotations

import selectors
import socket
import sys
from contextlib import suppress
from pathlib import Path

from deploy.carrier.carrier import Carrier
from deploy.debian import provide
from tests.integration.sip_messages import invites


class TracingCarrier(Carrier):
    """A carrier whose messages are in `messages.log`, and whose port for audio is left to somebody else."""

    def command(self) -> list[str]:
        words = [word for word in super().command() if word != "-rtp_echo"]
        return [*words, "-trace_msg", "-message_file", "messages.log", "-message_overwrite", "false"]

    @property
    def audio_port(self) -> int:
        words = self.command()
        return int(words[words.index("-min_rtp_port") + 1])


def main(directory: Path, host: str, port: int) -> None:
    carrier = TracingCarrier(tree=provide().root, directory=directory, username="u", password="p", host=host, port=port)
    with carrier, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as audio, selectors.DefaultSelector() as events:
        audio.bind((host, carrier.audio_port))
        events.register(audio, selectors.EVENT_READ)
        events.register(sys.stdin, selectors.EVENT_READ)
        sys.stdout.write("here\n")
        sys.stdout.flush()
        with (directory / "audio.log").open("a", buffering=1) as log:
            while not any(key.fileobj is sys.stdin for key, _ in events.select()):
                packet, source = audio.recvfrom(2048)
                target = invites(directory / "messages.log")[-1].audio
                log.write(f"{source[0]} {source[1]} {target[0]} {target[1]}\n")
                with suppress(OSError):  # an address that this machine has no way to
                    audio.sendto(packet, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
