"""The tables on a terminal, and as the page docs/benchmarks.md with its plots."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich import table as rich_table
from rich.console import Console

from benchmarks.peers import environments
from benchmarks.peers.rounds import APART, Table
from benchmarks.process import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
NOTES = "<!-- notes -->"
"""What stands below this line of the page is written by people, and kept."""
FIGURES = {
    "records_per_second": ("records/s", "{:,.0f}"),
    "cpu_us_per_record": ("CPU µs a record", "{:.3g}"),
    "peak_mib": ("peak MiB", "{:.0f}"),
    "start_s": ("start s", "{:.2f}"),
    "rate": ("records/s", "{:,.0f}"),
    "p50_ms": ("p50 ms", "{:.2f}"),
    "p99_ms": ("p99 ms", "{:.2f}"),
    "stop_s": ("s", "{:.2f}"),
    "gap_s": ("s", "{:.3f}"),
    "import_ms": ("ms", "{:.0f}"),
    "peak_over_idle_mib": ("MiB", "{:.1f}"),
}


def show(console: Console, table: Table) -> None:
    shown = rich_table.Table(*_heads(table), title=table.title)
    for cells in _cells(table):
        shown.add_row(*cells)
    console.print(shown)


def _heads(table: Table) -> list[str]:
    heads = [FIGURES[name][0] for name in _shown(table)]
    return ["", *heads, *(["ours is"] if _compared(table) else [])]


def _shown(table: Table) -> list[str]:
    """Figures that anybody has."""
    return [name for name in table.figures if any(row.values(name) for row in table.rows)]


def _compared(table: Table) -> bool:
    return len(table.rows) > 1 and "records_per_second" in table.figures


def _cells(table: Table) -> list[list[str]]:
    found = []
    for row in table.rows:
        cells = [row.name]
        for name in _shown(table):
            values = row.values(name)
            how = FIGURES[name][1]
            spread = f" ({how.format(min(values))} - {how.format(max(values))})" if len(values) > 1 else ""
            cells.append(how.format(median(values)) + spread if values else "")
        if _compared(table):
            cells.append("" if row is table.rows[0] else _ratio(table, row.name))
        found.append(cells)
    return found


def _ratio(table: Table, name: str) -> str:
    """Of the first row, which is ours."""
    first = table.rows[0].name
    told = f"{median(table.ratios(first, name)):.2f} x"
    cpu = table.ratios(first, name, "cpu_us_per_record")
    return told + (f", {median(cpu):.2f} of the CPU" if cpu else "")


def write(about: Mapping[str, Any], tables: Sequence[Table], say: Callable[[str], object]) -> None:
    kept = PAGE.read_text().partition(NOTES)[2] if PAGE.exists() else "\n"
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench-peers`: this worker beside what a user would pick instead, on one machine with its brokers,",
        "everybody in turns and in a process of its own, the same data and the same work, positions committed or messages",
        "acknowledged. The peers are [a short file each](../benchmarks/peers), in environments of their own, pinned in",
        "`environments.py`. A figure is the median of the rounds, with the lowest and the highest; *ours is* the median of the",
        "ratios of each round. A round counts unless its first peer, which is played again at the end of it, was",
        f"{APART:g} times faster at one end than at the other. All figures: [figures.json](benchmarks/figures.json).",
        "",
        f"{about['at']}: {about['cores']} cores ({about['cpu']}), Python {about['python']}, confluent-kafka "
        f"{about['confluent_kafka']}, load {about['load']:.1f} at the start, {about['seconds'] // 60} minutes. "
        f"Again: `make bench-peers`, or one part of it: `{about['command']}`.",
        "",
    ]
    for number, table in enumerate(tables):
        lines += [f"## {table.title}", ""]
        if _plotted(table):
            lines += [f"![{table.title}](benchmarks/{number}.svg)", ""]
        lines += ["| " + " | ".join(cells) + " |" for cells in [_heads(table), ["---"] * len(_heads(table)), *_cells(table)]]
        if table.noisy or table.kept_noisy:
            lines += ["", f"Rounds thrown away: {table.noisy}; kept though the machine was disturbed: {table.kept_noisy}."]
        lines.append("")
    PAGE.write_text("\n".join(lines) + NOTES + kept)
    _plot(tables)
    raw = json.dumps({"about": about, "tables": [asdict(table) for table in tables]})
    (PLOTS / "figures.json").write_text(raw + "\n")
    say(f"wrote {PAGE.relative_to(ROOT)}")


def _plotted(table: Table) -> bool:
    return len(table.rows) > 2 and "records_per_second" in table.figures


def _plot(tables: Sequence[Table]) -> None:
    PLOTS.mkdir(exist_ok=True)
    for old in PLOTS.glob("*.svg"):
        old.unlink()
    told = {number: asdict(table) for number, table in enumerate(tables) if _plotted(table)}
    command = [environments.python("plots"), "-m", "benchmarks.peers.plots", str(PLOTS)]
    subprocess.run(command, cwd=ROOT, input=json.dumps(told), text=True, check=True)
