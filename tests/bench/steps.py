"""Where the time goes from the end of one call to the INVITE of the next, step by step (`tests.bench.timed`).

The carrier's log and our clocks are of one machine, so that their times can be put in one row.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from deploy.carrier.people import numbers
from deploy.carrier.witness import CarrierCall
from tests.bench.lab import Lab
from tests.bench.timed import FLUSH_EVERY
from tests.integration.system import until

_ROOT = Path(__file__).parents[2]
_ROLES = ("scheduler", "listener", "worker")

# of the attempt that has ended: what comes before a name is over then
_OF_THE_END = {
    "hangup-heard": "Asterisk says Hangup",
    "listener-heard": "listener is done with its last batch",
    "recorded": "listener writes",
    "listener-wrote": "listener commits",
    "freed": "listener frees the slot",
}
_OF_THE_NEXT = {
    "leader-turns": "leader wakes, or is done with its last round",
    "leader-looked": "leader looks for room",
    "leader-picked": "leader picks a call",
    "leader-took": "leader takes the slot",
    "leader-wrote": "leader writes",
    "leader-granted": "leader commits",
    "leader-published": "leader publishes",
    "worker-took": "worker gets the task",
    "worker-wrote": "worker claims",
    "worker-claimed": "worker commits",
    "sent": "worker sends the Originate",
}
STEPS = (*_OF_THE_END.values(), *_OF_THE_NEXT.values(), "Asterisk sends the INVITE")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the clocks of one run have said: by step and attempt, when it was over."""

    times: dict[str, dict[str, float]]
    attempts: dict[str, str]  #: by SIP Call-ID

    def between(self, ended: CarrierCall, begun: CarrierCall) -> list[float] | None:
        """Seconds of each of `STEPS`; None where a clock was not running.

        Negative where a step was over before the one ahead of it: who serves many at once may have begun for another.
        """
        row = [ended.ended_at]
        for call, steps in ((ended, _OF_THE_END), (begun, _OF_THE_NEXT)):
            row += [self.times[step].get(self.attempts.get(call.sip_call_id, "")) for step in steps]
        known = [at for at in (*row, begun.invited_at) if at is not None]
        if len(known) <= len(row):
            return None
        return [later - sooner for sooner, later in pairwise(known)]

    def around(self, call: CarrierCall) -> float:
        """Seconds that Asterisk alone takes: from an Originate to its INVITE, and from the call's end to its Hangup event."""
        attempt = self.attempts[call.sip_call_id]
        heard = self.times["hangup-heard"][attempt] - (call.ended_at or call.invited_at)
        return heard + call.invited_at - self.times["sent"][attempt]


@contextmanager
def clocks(lab: Lab) -> Iterator[Path]:
    """Within it our processes are watched; `read` what they say from the directory."""
    directory = lab.directory / f"steps-{time.monotonic_ns()}"
    directory.mkdir()
    plain = [part for name, part in lab.system.parts.items() if name.startswith(_ROLES)]
    environment = {"PYTHONPATH": str(_ROOT)}
    timed = []
    for part in plain:
        python, dash_m, *words = part.argv
        argv = [python, dash_m, "tests.bench.timed", str(directory / part.name), *words]
        timed.append(replace(part, argv=argv, env={**part.env, **environment}))
    lab.start_again(timed)
    try:
        yield directory
    finally:
        lab.start_again(plain)


def read(lab: Lab, directory: Path) -> Steps:
    """What the clocks have said until now."""
    time.sleep(2 * FLUSH_EVERY)
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for file in directory.iterdir():
        for line in file.read_text().splitlines():
            at, step, *ids = line.split()
            for id in ids:
                times[step].setdefault(id, float(at))
    rows = lab.system.rows("SELECT sip_call_id, id::text FROM attempts WHERE sip_call_id IS NOT NULL")
    return Steps(times=times, attempts={row.sip_call_id: row.id for row in rows})


def floor(lab: Lab, name: str, *, skip: int) -> float:
    """Seconds that no dialer can do without: what the same Asterisk takes for itself around a call when nothing else goes on."""
    system = lab.system
    from_number, agent = system.add_trunk(name), system.add_agent(name, "playback://hello-world")
    system.begin_test()
    with clocks(lab) as directory:
        for number in numbers({"01": 20}, skip=skip):
            call = system.call(agent, from_number, number)
            until(lambda call=call: system.status(call) == "completed")  # type: ignore[misc]
        steps = read(lab, directory)
    return statistics.median(steps.around(call) for call in system.carrier_calls()[1:])
