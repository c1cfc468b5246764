"""Figures for a person (a table), for a program (JSON) and for a page (SVG)."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pygal
from rich import box
from rich.table import Table

from tests.bench.figures import Figure


def table(figures: Sequence[Figure]) -> Table:
    """A row a figure; the spread is from the lowest to the highest round."""
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("figure")
    shown.add_column("of")
    for column in ("median", "unit", "spread", "to reach"):
        shown.add_column(column, justify="left" if column == "unit" else "right")
    for figure in figures:
        low, high = min(figure.rounds), max(figure.rounds)
        spread = f"{_short(low)} – {_short(high)}" if len(figure.rounds) > 1 else ""
        shown.add_row(figure.name, figure.of, _short(figure.median), figure.unit, spread, _verdict(figure))
    return shown


def save(bench: str, figures: Sequence[Figure], directory: Path) -> None:
    """Writes BENCH.json, and for each unit BENCH.UNIT.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    found = {"bench": bench, "machine": machine, "figures": [{**asdict(f), "median": f.median} for f in figures]}
    (directory / f"{bench}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for stale in directory.glob(f"{bench}.*.svg"):
        stale.unlink()
    for unit in dict.fromkeys(figure.unit for figure in figures):
        word = re.sub(r"\W+", "-", unit.replace("×", "ratio").replace("%", "percent"))
        plot = _plot(f"{bench} ({unit})", [figure for figure in figures if figure.unit == unit])
        (directory / f"{bench}.{word}.svg").write_bytes(plot)


def _plot(title: str, figures: Sequence[Figure]) -> bytes:
    """A box a figure, from its lowest round to its highest, with the median; logarithmic where they lie far apart."""
    values = [value for figure in figures for value in figure.rounds]
    plot = pygal.Box(
        title=title,
        box_mode="extremes",
        logarithmic=min(values) > 0 and max(values) > 30 * min(values),
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        truncate_legend=-1,
        js=(),
    )
    for figure in figures:
        plot.add(f"{figure.name}: {figure.of}", list(figure.rounds))
    rendered: bytes = plot.render()
    return rendered


def _verdict(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"{figure.aim} {'✓' if figure.aim.is_reached(figure.median) else '✗'}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
