"""Answered calls a second, as the carrier saw them: the whole system against its peers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from asterisk.pool import Originate
from deploy.carrier import witness
from deploy.carrier.people import numbers
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, middle
from tests.bench.peers import blaster, call_files, textbook
from tests.bench.peers.ground import Ground, dialable, have_ours_up, prepare

SLOTS = 300
CALLS = 3000
_OURS = "trunkline"
_IN_COMMON = ("asterisk", "postgres", "carrier")

Peer = Callable[[Ground, Sequence[Originate], int], float]
PEERS: Mapping[str, Peer] = {"blaster": blaster.run, "call files": call_files.run, "textbook": textbook.run}
_NONE = Aim(at_most=0)
_AIMS = {"blaster": 0.85, "call files": 1.0, "textbook": 1.0}


@dataclass(frozen=True, kw_only=True)
class _Turn:
    calls: Sequence[witness.CarrierCall]
    spent: Mapping[str, float]  #: CPU seconds of every part, and of a peer


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Calls of a second each, over the middle half of them; who is first goes on by one each round.

    Beside it the CPU that a call takes, of everything together and of the parts that all use: where other programs keep
    the processors busy it says more than the rate, which is bounded by it, and by the slots.
    """
    ground = prepare(lab, SLOTS)
    people = numbers({f"{at:02}": CALLS // 10 for at in range(10, 20)})
    names = [_OURS, *PEERS]
    turns = defaultdict[str, list[_Turn]](list)
    for at in range(rounds):
        first = at % len(names)
        for name in names[first:] + names[:first]:
            have_ours_up(lab.system, name == _OURS)
            turn = _ours(lab, at, people) if name == _OURS else _peers(lab, ground, PEERS[name], people)
            turns[name].append(turn)
    have_ours_up(lab.system, True)
    rates = {name: _figure("throughput", name, "calls/s", turns[name], _rate) for name in names}
    return [
        *rates.values(),
        *(rates[_OURS].against(rates[name], Aim(at_least=least)) for name, least in _AIMS.items()),
        *(_figure("never answered", name, "calls", turns[name], _unanswered, _NONE) for name in names),
        *(_figure("over the limit", name, "calls", turns[name], _over, _NONE) for name in names),
        *(_figure("CPU of everything", name, "ms a call", turns[name], _cost) for name in names),
        *(
            _figure(f"CPU of {part}", name, "ms a call", turns[name], partial(_cost, part=part))
            for part in _IN_COMMON
            for name in names
        ),
    ]


def _ours(lab: Lab, at: int, people: Sequence[str]) -> _Turn:
    before = lab.spent()
    calls = lab.campaign(f"throughput {at}", people, slots=SLOTS)
    return _Turn(calls=calls, spent=lab.spent_since(before))


def _peers(lab: Lab, ground: Ground, peer: Peer, people: Sequence[str]) -> _Turn:
    with dialable(ground, people) as orders:
        lab.system.begin_test()
        before = lab.spent()
        its_own = peer(ground, orders, SLOTS)
        spent = {**lab.spent_since(before), "peer": its_own}
        return _Turn(calls=lab.system.carrier_calls(), spent=spent)


def _figure(
    name: str, of: str, unit: str, turns: Sequence[_Turn], value: Callable[[_Turn], float], aim: Aim | None = None
) -> Figure:
    return Figure(name=name, of=of, unit=unit, rounds=tuple(value(turn) for turn in turns), aim=aim)


def _rate(turn: _Turn) -> float:
    since, until = middle(turn.calls)
    return sum(since <= (call.answered_at or 0) < until for call in turn.calls) / (until - since)


def _unanswered(turn: _Turn) -> float:
    return float(CALLS - len({call.number for call in turn.calls if call.answered_at}))


def _over(turn: _Turn) -> float:
    return float(max(0, witness.peak_at_once(turn.calls) - SLOTS))


def _cost(turn: _Turn, part: str | None = None) -> float:
    return (turn.spent[part] if part else sum(turn.spent.values())) * 1000 / CALLS
