"""`make bench`, `make bench NAME=refill`: figures on real parts, on this machine; NAME may be several words.

They are to be compared within one run: see README.md here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.bench import cost, memory, pick, rate, refill, single, slots, status, throughput, upload
from tests.bench.figures import Figure
from tests.bench.lab import Lab
from tests.bench.report import save, table
from tests.integration.system import System

BENCHES: dict[str, Callable[[Lab, int], list[Figure]]] = {
    "throughput": throughput.run,
    "slots": slots.run,
    "cost": cost.run,
    "refill": refill.run,
    "rate": rate.run,
    "single": single.run,
    "upload": upload.run,
    "pick": pick.run,
    "status": status.run,
    "memory": memory.run,
}

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description="figures on real parts, on this machine")
    parser.add_argument("bench", nargs="*", help=f"one or more of: {', '.join(BENCHES)} (all of them)")
    parser.add_argument("--rounds", type=int, default=3, help="how often what is compared takes its turn (3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write JSON and plots")
    given = parser.parse_args()
    if unknown := [name for name in given.bench if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]!r}; there are: {', '.join(BENCHES)}")
    console = Console()
    for name in given.bench or BENCHES:
        # each on a system of its own: none inherits what another has left in the ledger
        with tempfile.TemporaryDirectory() as directory, System(Path(directory) / "home") as system:
            figures = BENCHES[name](Lab(system=system, directory=Path(directory)), given.rounds)
        save(name, figures, given.results)
        console.rule(name)
        console.print(table(figures))


if __name__ == "__main__":
    main()
