"""What the example agent says, as Asterisk's AudioSocket wants it: signed linear, 16 bits, 8 kHz, in frames of 20 ms.

Speech comes from espeak-ng, a program of Debian's, if there is one; a tone needs nothing. The samples lie
as they do in this machine's memory, which has to be little endian, as every machine Asterisk is packaged for here is.
"""

from __future__ import annotations

import asyncio
import io
import math
import wave
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

RATE = 8000
FRAME_SECONDS = 0.02
FRAME_BYTES = 2 * int(RATE * FRAME_SECONDS)
SILENCE = bytes(FRAME_BYTES)


class NoSpeech(Exception):
    """espeak-ng could not be run, or what it said cannot be used."""


@cache
def tone() -> tuple[bytes, ...]:
    """Two friendly notes, which swell and fade so that they do not click."""
    samples = array("h")
    for hertz, count in ((523.25, RATE // 5), (659.25, RATE // 3)):
        for at in range(count):
            samples.append(int(8000 * math.sin(math.pi * at / count) * math.sin(2 * math.pi * hertz * at / RATE)))
    return frames(samples)


async def speech(espeak: str, text: str) -> tuple[bytes, ...]:
    """The text, spoken; it goes through stdin, so that no name is taken for an option.

    Raises `NoSpeech`. It has no bound of its own: cancelled, it kills the program.
    """
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    words = (espeak, "--stdin", "--stdout")
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=none)
        try:
            output, _ = await process.communicate(text.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        with wave.open(
            io.BytesIO(output)
        ) as wav:  # in a pipe's header the lengths are too large: it reads what there is
            if (wav.getnchannels(), wav.getsampwidth()) != (1, 2) or wav.getframerate() < RATE:
                raise NoSpeech("not 16 bits, one channel, 8 kHz or more")
            return frames(at_8_khz(array("h", wav.readframes(wav.getnframes())), wav.getframerate()))
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise NoSpeech(f"{type(error).__name__}: {error}") from error


def at_8_khz(samples: Sequence[int], rate: int) -> array[int]:
    """Each new sample is the mean of the old ones in its place: the plainest low-pass there is. `rate` >= 8000."""
    sums = [0, *accumulate(samples)]
    cuts = [at * rate // RATE for at in range(len(samples) * RATE // rate + 1)]
    return array("h", [(sums[to] - sums[since]) // (to - since) for since, to in pairwise(cuts)])


def frames(samples: array[int]) -> tuple[bytes, ...]:
    """Pieces of 20 ms, the last one filled up with silence."""
    data = samples.tobytes()
    return tuple(data[at : at + FRAME_BYTES].ljust(FRAME_BYTES, b"\0") for at in range(0, len(data), FRAME_BYTES))
