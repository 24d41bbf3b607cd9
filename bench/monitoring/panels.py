"""The chart's dashboard: its queries with their placeholders filled, and a page that looks much as Grafana's does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.monitoring.rules import ROOT
from bench.monitoring.stack import EVERY, JOB, Prometheus

DASHBOARD = ROOT / "helm" / "lightwell" / "files" / "dashboard.json"
FILLED = {"$__rate_interval": f"{8 * EVERY}s", "$job": JOB, "$instance": ".*"}
COLUMNS = 4
WIDTH = 75
"""Characters of a line of a legend."""
SCALES = {
    "percentunit": (100, "%"),
    "bytes": (2**-20, "MiB"),
    "s": (1, "s"),
    "reqps": (1, "requests/s"),
    "short": (1, ""),
}
"""By what figures are multiplied, and what is written beside the axis."""


@dataclass(frozen=True)
class Line:
    """A series: its legend, the seconds since the start of the time that is shown, and its figures."""

    legend: str
    seconds: np.ndarray
    figures: np.ndarray

    @property
    def known(self) -> bool:
        """Whether there is a figure at all."""
        return bool(np.isfinite(self.figures).any())


@dataclass(frozen=True)
class Panel:
    """A panel, and what it shows. `silent` are its queries that have no figure."""

    title: str
    field: dict[str, Any]
    lines: list[Line]
    silent: list[str]


def panels(prometheus: Prometheus, start: float, end: float) -> list[Panel]:
    """All panels with their series over a time."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            by_query = {target["expr"]: _lines(prometheus, target, start, end) for target in panel["targets"]}
            silent = [asked for asked, lines in by_query.items() if not any(line.known for line in lines)]
            field = panel["fieldConfig"]["defaults"]
            found.append(Panel(panel["title"], field, [each for lines in by_query.values() for each in lines], silent))
    return found


def filled(expression: str) -> str:
    """An expression with values in the places of Grafana's variables."""
    for name, value in FILLED.items():
        expression = expression.replace(name, value)
    return expression


def _lines(prometheus: Prometheus, target: dict[str, Any], start: float, end: float) -> list[Line]:
    series = prometheus.between(filled(target["expr"]), start, end)
    grid = np.arange(start, end + EVERY / 2, EVERY)
    lines = []
    for each in series:
        known = {round((float(when) - start) / EVERY): float(value) for when, value in each["values"]}
        legend = re.sub(r"{{(\w+)}}", lambda found, each=each: each["metric"].get(found[1], ""), target["legendFormat"])
        lines.append(Line(legend.strip(), grid - start, np.array([known.get(i, np.nan) for i in range(len(grid))])))
    return lines


def draw(shown: list[Panel], marks: dict[str, float], path: Path) -> None:
    """All panels as one page. `marks` are seconds at which something happened."""
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3.4 * rows), layout="constrained")
    for axes, panel in zip(figure.subplots(rows, COLUMNS).flat, shown, strict=True):
        _draw(axes, panel)
        for name, second in marks.items():
            axes.axvline(second, color="grey", linewidth=0.8, linestyle=":")
            axes.text(second, 1.0, f" {name}", transform=axes.get_xaxis_transform(), va="top", color="grey")
    figure.suptitle("Lightwell: the chart's dashboard over a load, seconds from its start", fontsize=12)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontweight="bold")
    if not panel.lines:
        return
    factor, unit = SCALES[panel.field["unit"]]
    custom = panel.field["custom"]
    if custom["stacking"]["mode"] == "normal":
        unknown = np.all([np.isnan(line.figures) for line in panel.lines], axis=0)
        heights = [np.where(unknown, np.nan, np.nan_to_num(factor * line.figures)) for line in panel.lines]
        axes.stackplot(panel.lines[0].seconds, heights, labels=[line.legend for line in panel.lines], alpha=0.7)
    elif custom["drawStyle"] == "bars":
        for line in panel.lines:
            axes.bar(line.seconds, factor * line.figures, width=EVERY, label=line.legend, alpha=0.7)
    else:
        for line in panel.lines:
            axes.plot(line.seconds, factor * line.figures, label=line.legend, linewidth=1.2)
    axes.set_ylim(0, factor * panel.field["max"] if "max" in panel.field else None)
    _limit(axes, panel, factor)
    axes.set_ylabel(unit)
    columns = max(1, WIDTH // (max(len(line.legend) for line in panel.lines) + 8))
    axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.1), ncols=columns, frameon=False, fontsize=7)


def _limit(axes: Axes, panel: Panel, factor: float) -> None:
    """The line from which on there is an alert, if the figures come near it."""
    for step in panel.field.get("thresholds", {}).get("steps", [])[1:]:
        if factor * step["value"] < axes.get_ylim()[1]:
            axes.axhline(factor * step["value"], color="red", linewidth=0.8, linestyle="--")
