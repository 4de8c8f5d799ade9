"""A figure, what the issue asks of it, and how it is made of runs that a noisy machine disturbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How much of everything one benchmark does."""

    pairs: int = 7
    records: int = 10_000_000
    orders: int = 2_000_000
    latency_pairs: int = 3
    latency_seconds: float = 30.0
    slow_seconds: float = 60.0
    idle_seconds: float = 20.0
    starts: int = 7


QUICK = Plan(
    pairs=2, records=1_000_000, orders=200_000, latency_pairs=1, latency_seconds=5, slow_seconds=16, idle_seconds=8, starts=2
)


@dataclass
class Figure:
    case: str
    what: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool | None:
        """None: the issue asks nothing of it."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {_text(self.at_most)} {self.unit}".rstrip()
        return "" if self.at_least is None else f"≥ {_text(self.at_least)} {self.unit}".rstrip()

    @property
    def measured(self) -> str:
        spread = "" if self.low is None or self.high is None else f" ({_text(self.low)} - {_text(self.high)})"
        return f"{_text(self.value)} {self.unit}".rstrip() + spread


def _text(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}".removesuffix(".0")


@dataclass
class Findings:
    """What the cases found: figures for people, every raw result for whoever wants to look again."""

    figures: list[Figure] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    def add(self, case: str, what: str, values: float | Sequence[float], unit: str = "", **target: float) -> None:
        """Of several values the median, with the smallest and the largest."""
        if isinstance(values, int | float):
            self.figures.append(Figure(case, what, values, unit, **target))
        else:
            self.figures.append(Figure(case, what, median(values), unit, min(values), max(values), **target))

    def keep(self, name: str, result: Any) -> None:
        self.raw.setdefault(name, []).append(result)
        self.loads.append(os.getloadavg()[0])


Say = Callable[[str], None]
Pair = tuple[dict[str, Any], dict[str, Any]]


def ratios(pairs: Sequence[Pair], name: str) -> list[float]:
    """Of each pair, ours by the bare client's: what disturbs the machine disturbs both."""
    return [ours[name] / bare[name] for ours, bare in pairs]
