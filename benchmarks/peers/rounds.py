"""Rounds: everybody once, in turns, so that what disturbs the machine disturbs all; and which rounds count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Measure = Callable[[], dict[str, Any] | None]
"""One run; None: not installed here."""
APART = 1.5
"""A round whose first peer is so many times faster at one end of the round than at the other does not count: the machine was
disturbed. Half as many again are played, at most."""


@dataclass
class Row:
    """One peer's raw figures, one of each round that counts."""

    name: str
    runs: list[dict[str, Any]] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        return [run[figure] for run in self.runs if figure in run]

    def median(self, figure: str) -> float | None:
        return median(values) if (values := self.values(figure)) else None


@dataclass
class Table:
    """A case: who was measured, and what was thrown away."""

    title: str
    rows: list[Row]
    figures: Sequence[str] = ("records_per_second", "cpu_us_per_record", "peak_mib", "start_s")
    noisy: int = 0
    """Rounds that were thrown away."""
    kept_noisy: int = 0
    """Those that were kept because the machine was never quiet."""

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def ratios(self, name: str, other: str, figure: str = "records_per_second") -> list[float]:
        """Of each round, `name`'s figure by `other`'s."""
        pairs = zip(self.row(name).values(figure), self.row(other).values(figure), strict=False)
        return [mine / theirs for mine, theirs in pairs if theirs]


def play(
    title: str,
    runs: dict[str, Measure],
    rounds: int,
    say: Callable[[str], object],
    figure: str = "records_per_second",
    **table: Any,
) -> Table:
    """`runs` in turns, `rounds` times; the first of them once more at the end of each, as the measure of the machine: without it
    there are no rows."""
    made = Table(title, [Row(name) for name in runs], **table)
    spare = max(1, rounds // 2)
    failed: set[str] = set()

    def attempt(name: str) -> dict[str, Any] | None:
        """Somebody who fails is left out, and the rest goes on."""
        if name in failed:
            return None
        try:
            return runs[name]()
        except RuntimeError as error:
            failed.add(name)
            say(f"{title}: left out: {error}")
            return None

    while len(made.rows[0].runs) < rounds:
        found = {name: attempt(name) for name in runs}
        first = next(iter(runs))
        begin, end = found[first], attempt(first) if len(runs) > 1 else found[first]
        if begin is None or end is None:
            say(f"{title}: left out: there is no measure without {first}")
            made.rows.clear()
            return made
        apart = max(begin[figure], end[figure]) / max(1e-9, min(begin[figure], end[figure]))
        told = ", ".join(f"{name} {one[figure]:,.6g}" for name, one in found.items() if one is not None)
        if figure == "records_per_second" and apart > APART and spare:
            spare -= 1
            made.noisy += 1
            say(f"{title}: thrown away, {first} was {apart:.1f} times faster at one end of the round: {told}")
            continue
        made.kept_noisy += figure == "records_per_second" and apart > APART
        say(f"{title}: {told}")
        for row in made.rows:
            if (one := found[row.name]) is not None:
                row.runs.append({name: value for name, value in one.items() if name != "progress"})
    made.rows = [row for row in made.rows if row.runs and row.name not in failed]
    return made
