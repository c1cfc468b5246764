"""Asterisk's own call files: written aside, moved into the spool, and removed by pbx_spool when the call is over.

A call file cannot name its channel, so CEL and the hangup handler know these calls by names of Asterisk's choice; the
address is looked up by the attempt all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from asterisk.pool import Originate
from tests.bench.peers.ground import Ground

_LOOK_EVERY = 0.005
_WITHIN = 300.0
_AS_WRITTEN = ("Channel", "CallerID", "Context", "Priority")


def run(ground: Ground, orders: Sequence[Originate], slots: int) -> float:
    """Returns when all calls are over; how many seconds of CPU writing and looking took."""
    aside = ground.spool.parent / "bench"
    aside.mkdir(exist_ok=True)
    left = [(str(order.attempt_id), _text(order)) for order in reversed(orders)]
    began, deadline = time.process_time(), time.monotonic() + _WITHIN
    while (up := len(os.listdir(ground.spool))) or left:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} call files were not written, and {up} are in the spool")
        for _ in range(min(slots - up, len(left))):
            name, text = left.pop()
            file = aside / name
            file.write_text(text)
            file.rename(ground.spool / name)
        time.sleep(_LOOK_EVERY)
    return time.process_time() - began


def _text(order: Originate) -> str:
    lines = ["MaxRetries: 0"]
    for header, value in order.headers():
        if header in _AS_WRITTEN:
            lines.append(f"{header}: {value}")
        elif header == "Exten":
            lines.append(f"Extension: {value}")
        elif header == "Timeout":
            lines.append(f"WaitTime: {int(value) // 1000}")
        elif header == "Variable":
            # only AMI takes a Variable apart at its commas
            lines.append("Setvar: " + value.replace("\\,", ","))
    return "\n".join(lines) + "\n"
