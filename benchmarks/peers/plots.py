"""Draws tables of rates: reads them as JSON, writes a file for each. Runs in an environment that has matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib import pyplot

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "the same picture of the same figures"


def draw(table: dict[str, Any], path: Path) -> None:
    rows = [(row["name"], [run["records_per_second"] for run in row["runs"]]) for row in table["rows"]]
    rows.sort(key=lambda row: median(row[1]))
    names, rates = [name for name, _ in rows], [median(values) for _, values in rows]
    low = [rate - min(values) for rate, (_, values) in zip(rates, rows, strict=True)]
    high = [max(values) - rate for rate, (_, values) in zip(rates, rows, strict=True)]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.36 * len(rows)))
    colors = ["#c2410c" if name.startswith("ours") else "#94a3b8" for name in names]
    axes.barh(names, rates, color=colors, xerr=(low, high), error_kw={"elinewidth": 1, "ecolor": "#334155"})
    for at, rate in enumerate(rates):
        axes.text(rate, at, f"  {rate:,.0f}", va="bottom", fontsize=7)
    axes.set_xlabel("records/s: median, lowest and highest")
    axes.set_title(table["title"], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    for number, table in json.load(sys.stdin).items():
        draw(table, Path(sys.argv[1]) / f"{number}.svg")


if __name__ == "__main__":
    main()
