"""How much of its slots a campaign uses, and whether it ever uses more."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from deploy.carrier import witness
from models.slots import CANCEL_LINGERS
from tests.bench import steps
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, middle

SLOTS = (20, 200)
RINGS_FOR = 2
PEOPLE = {"02": 12, "90": 6, "80": 1, "86": 1}
"""Of twenty: answered and hung up after two seconds; never answered, given up by us after two; not there; busy."""
_SECONDS = 24
_LINGERS = CANCEL_LINGERS.total_seconds()


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Over the middle half of a campaign whose calls end one by one.

    **In use** is the integral of the calls that are up at the carrier over slots × time. A call is up from its INVITE to the
    BYE or the final response, and for 50 ms after our own CANCEL, while its slot is kept (invariant 3).

    **Allowed** is what any dialer on this Asterisk could use: between the end of one call and the INVITE of the next lie at
    least Asterisk's own times, from the end at the carrier to its Hangup event and from the Originate to its INVITE. They are
    measured at the same Asterisk with nothing else going on (`steps.floor`), and allowed once a call: with a mean call of c
    seconds and a floor of f, c / (c + f) of a slot can be in use. The figure that is to reach 0.99 is in use / allowed.

    **Over the limit** is by how many the most calls at once exceed the slots, those 50 ms counted as up too.
    """
    worker = [part for name, part in lab.system.parts.items() if name.startswith("worker")]
    rings = {"TRUNKLINE_RING_TIMEOUT_SECONDS": str(RINGS_FOR)}
    lab.start_again([replace(part, env={**part.env, **rings}) for part in worker])
    floor = steps.floor(lab, "floor", skip=0)
    used: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    allowed: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    over: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    rates: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    for at in range(rounds):
        for slots in SLOTS:
            calls = lab.spread_campaign(f"slots {slots} {at}", _people(slots), slots=slots, over=2.0)
            held = [_held(call) for call in calls]
            since, till = middle(calls)
            within = [call for call in held if since <= call.invited_at < till]
            length = sum((call.ended_at or 0.0) - call.invited_at for call in within) / len(within)
            used[slots].append(in_use(held, since, till) / slots)
            allowed[slots].append(length / (length + floor))
            over[slots].append(max(0, witness.peak_at_once(held) - slots))
            rates[slots].append(len(within) / (till - since))
    found = [Figure(name="floor", of="Asterisk", unit="ms", rounds=(floor * 1000,))]
    for slots in SLOTS:
        of = f"{slots} slots"
        share = Figure(name="slots in use", of=of, unit="of 1", rounds=tuple(used[slots]))
        ideal = Figure(name="slots in use", of="allowed", unit="of 1", rounds=tuple(allowed[slots]))
        found += [
            share,
            share.against(ideal, Aim(at_least=0.99)),
            Figure(name="over the limit", of=of, unit="calls", rounds=tuple(over[slots]), aim=Aim(at_most=0)),
            Figure(name="while it calls", of=of, unit="calls/s", rounds=tuple(rates[slots])),
        ]
    return found


def in_use(calls: Sequence[witness.CarrierCall], since: float, till: float) -> float:
    """How many calls are up, on average."""
    up = (max(0.0, min(call.ended_at or till, till) - max(call.invited_at, since)) for call in calls)
    return sum(up) / (till - since)


def _held(call: witness.CarrierCall) -> witness.CarrierCall:
    """As its slot sees it."""
    return replace(call, ended_at=(call.ended_at or 0.0) + _LINGERS) if call.end == "cancel" else call


def _people(slots: int) -> list[str]:
    """Enough for `_SECONDS` of calls of two seconds, mixed evenly."""
    kinds = [digits for digits, of_twenty in PEOPLE.items() for _ in range(of_twenty)]
    random.Random(slots).shuffle(kinds)
    return [f"+12122{at:04}{kinds[at % len(kinds)]}" for at in range(slots * _SECONDS // RINGS_FOR)]
