"""A figure of the bench: what was measured of which system, once a round, and what it is to reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the median of a figure is to reach."""

    at_least: float | None = None
    at_most: float | None = None

    def is_reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`rounds`: a value each time it was measured, in that order; figures of one run are compared round by round."""

    name: str
    of: str  #: the system, or its configuration
    unit: str
    rounds: tuple[float, ...]
    aim: Aim | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def against(self, other: Figure, aim: Aim | None = None) -> Figure:
        """How many times the other it is, in each round: what two machines, or two hours, have in common."""
        ratios = tuple(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True))
        return replace(self, of=f"{self.of} / {other.of}", unit="×", rounds=ratios, aim=aim)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
