"""Inside a measured process: what it has used, from the first record to the last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def memory(field: str = "VmRSS") -> float:
    """MiB; VmHWM is the peak. (`ru_maxrss` would begin with the parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


class Meter:
    """Counts records; everything but memory is measured from the first batch on, which itself is not counted."""

    def __init__(self, total: int, on_total: Callable[[], None] = lambda: None) -> None:
        self.records = 0
        self.batches = 0
        self.done = False
        self._total = total
        self._on_total = on_total
        self._first = 0

    def add(self, count: int) -> None:
        if not self.records:
            self._first = count
            self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.records += count
        self.batches += 1
        if self.records >= self._total and not self.done:
            self._wall_used, self._cpu_used = time.perf_counter() - self._wall, time.process_time() - self._cpu
            self._counted, self._peak = self.records - self._first, memory("VmHWM")
            self.done = True
            self._on_total()

    def result(self) -> dict[str, Any]:
        """As it was at the total: a worker goes on until it has stopped."""
        return {
            "records": self._counted,
            "records_per_second": self._counted / self._wall_used,
            "cpu_us_per_record": self._cpu_used / self._counted * 1e6,
            "records_per_batch": self.records / self.batches,
            "peak_mib": self._peak,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100))]
