"""The figures as a table for a terminal, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

from benchmarks import process
from benchmarks.figures import Figure, Findings

RESULTS = process.ROOT / "benchmarks" / "results"
SAID = {True: "yes", False: "no", None: ""}


def machine() -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?: ?")
    return {
        "at": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cores": os.cpu_count(),
        "cpu": model.split(":", 1)[1].strip(),
        "python": platform.python_version(),
        "confluent_kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
    }


def show(console: Console, figures: Sequence[Figure]) -> None:
    table = Table("", "measured (lowest - highest)", "target", "holds")
    for case, group in groupby(figures, key=lambda figure: figure.case):
        table.add_section()
        table.add_row(f"[bold]{case}", "", "", "")
        for figure in group:
            color = {True: "green", False: "red", None: ""}[figure.holds]
            holds = f"[{color}]{SAID[figure.holds]}" if color else ""
            table.add_row(f"  {figure.what}", figure.measured, figure.target, holds)
    console.print(table)


def keep(found: Findings, about: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    figures = [asdict(figure) | {"holds": figure.holds} for figure in found.figures]
    path.write_text(json.dumps({**about, "loads": found.loads, "figures": figures, "raw": found.raw}, indent=1) + "\n")
    return path
