"""Whether calls a second are what a trunk allows: never more, and nearly as many."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.numbers import fictional_number
from deploy.carrier.people import area_codes
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, middle
from tests.integration.system import PASSWORD, USERNAME, until

LIMITS = (10, 50, 200)
_SECONDS = 12
_FROZEN_AT, _FROZEN_FOR = 50, 3.0


def run(lab: Lab, rounds: int) -> list[Figure]:
    """The spacing of INVITEs at a carrier where everybody is busy: nothing but the rate bounds them.

    "Most in a second" is over the whole campaign, wherever that second begins; the share of the limit over its middle
    half. Frozen: the one worker stands still for three seconds in the middle, and what has been granted waits for it.
    """
    of = [str(limit) for limit in LIMITS]
    peaks: dict[str, list[float]] = {name: [] for name in (*of, f"{_FROZEN_AT}, worker frozen")}
    shares: dict[str, list[float]] = {name: [] for name in of}
    carrier = Carrier(
        tree=lab.system.tree.root,
        directory=lab.directory / "busy",
        username=USERNAME,
        password=PASSWORD,
        always="86",
    )
    with carrier:
        for at in range(rounds):
            for limit in LIMITS:
                calls = _campaign(lab, f"rate {limit} {at}", limit, carrier)
                since, till = middle(calls)
                peaks[str(limit)].append(witness.peak_a_second(calls))
                begun = sum(since <= call.invited_at < till for call in calls)
                shares[str(limit)].append(begun / (till - since) / limit)
            calls = _campaign(lab, f"frozen {at}", _FROZEN_AT, carrier, lambda: _freeze(lab, carrier))
            peaks[f"{_FROZEN_AT}, worker frozen"].append(witness.peak_a_second(calls))
    limits = dict(zip(peaks, (*LIMITS, _FROZEN_AT), strict=True))
    return [
        *(
            Figure(
                name="most in a second",
                of=f"limit of {name}",
                unit="calls",
                rounds=tuple(found),
                aim=Aim(at_most=limits[name] + 1),
            )
            for name, found in peaks.items()
        ),
        *(
            Figure(name="limit used", of=f"limit of {name}", unit="of 1", rounds=tuple(found), aim=Aim(at_least=0.98))
            for name, found in shares.items()
        ),
    ]


def _campaign(
    lab: Lab, name: str, limit: int, carrier: Carrier, meanwhile: Callable[[], None] = lambda: None
) -> list[witness.CarrierCall]:
    everybody = (fictional_number(code, f"{last:02}") for last in range(100) for code in area_codes())
    people = list(islice(everybody, limit * _SECONDS))
    # as many slots as the node gives: none is waited for
    return lab.campaign(name, people, slots=200, calls_per_second=limit, carrier=carrier, meanwhile=meanwhile)


def _freeze(lab: Lab, carrier: Carrier) -> None:
    """The one worker, for a while, a third through the campaign."""
    begun = len(witness.read(carrier.log))
    reached = begun + _FROZEN_AT * _SECONDS // 3
    until(lambda: len(witness.read(carrier.log)) >= reached, within=60, what="a third is called")
    (worker,) = [name for name in lab.system.processes if name.startswith("worker")]
    lab.system.freeze(worker)
    try:
        threading.Event().wait(_FROZEN_FOR)
    finally:
        lab.system.thaw(worker)
