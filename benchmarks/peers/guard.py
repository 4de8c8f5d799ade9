"""The ratios that were reached once, in a file of the repository: what falls behind them is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.peers.rounds import Table

FILE = Path(__file__).parent.parent / "ratios.json"
SLACK = 0.10
"""A ratio may be so much worse, as a share of it: machines differ, and this one is noisy."""


def ratios(tables: Sequence[Table]) -> dict[str, float]:
    """The first of each table, which is ours, by each of the others; higher is better."""
    found: dict[str, float] = {}
    for table in tables:
        first, *others = (row.name for row in table.rows)
        for name in others:
            if pairs := table.ratios(first, name) if "records_per_second" in table.figures else []:
                found[f"{table.title}: {first} / {name}"] = round(median(pairs), 3)
    return found


def compare(found: Mapping[str, float], say: Callable[[str], object]) -> list[str]:
    """Says what fell, and what was never measured before."""
    kept = _kept()
    fallen = _fallen(found, kept)
    for name in fallen:
        say(f"[red]fell[/]: {name}: {found[name]:.3g}, was {kept[name]:.3g}")
    known = sum(name in kept for name in found)
    say(f"{known - len(fallen)} of {known} ratios are within {SLACK:.0%} of {FILE.name}; {len(found) - known} are new")
    return fallen


def accept(found: Mapping[str, float]) -> None:
    """Keeps these; but not those that fell, else nobody would hear of it again: who accepts that edits the file."""
    kept = _kept()
    held = {name: kept[name] for name in _fallen(found, kept)}
    FILE.write_text(json.dumps(dict(sorted({**kept, **found, **held}.items())), indent=1) + "\n")


def _kept() -> dict[str, float]:
    kept: dict[str, float] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return kept


def _fallen(found: Mapping[str, float], kept: Mapping[str, float]) -> list[str]:
    return [name for name, value in found.items() if name in kept and value < kept[name] * (1 - SLACK)]
