"""How long it takes to import, to help and to handle the first batch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import process
from benchmarks.broker import Broker
from benchmarks.figures import Findings, Plan, Say

CASE = "start"
IMPORT = "import time; began = time.perf_counter(); import worker; print(time.perf_counter() - began)"


def run(broker: Broker, plan: Plan, found: Findings, say: Say) -> None:
    topic = broker.filled(plan.records)
    imports, helps, ours, bare = [], [], [], []
    for number in range(plan.starts):
        imports.append(float(_wall([sys.executable, "-c", IMPORT])[1]) * 1e3)
        helps.append(_wall([str(Path(sys.executable).with_name("worker")), "--help"])[0] * 1e3)
        run = [sys.executable, "-m", "worker", "run", "benchmarks.started:app"]
        ours.append(_said([*run, "--set", f"connections.kafka=kafka://{broker.bootstrap}"], BENCH_TOPIC=topic))
        bare.append(_said([sys.executable, "-m", "benchmarks.bare_start", broker.bootstrap, topic]))
        say(
            f"start {number + 1}/{plan.starts}: import {imports[-1]:.0f} ms, --help {helps[-1]:.0f} ms, "
            f"first batch {ours[-1]:.2f} s, bare {bare[-1]:.2f} s"
        )
    found.keep("start", {"import_ms": imports, "help_ms": helps, "first_batch_s": ours, "bare_s": bare})
    found.add(CASE, "import worker", imports, "ms", at_most=150)
    found.add(CASE, "worker --help, the whole command", helps, "ms", at_most=250)
    found.add(CASE, "worker run to its first batch", ours, "s")
    found.add(CASE, "bare client to its first record", bare, "s")
    found.add(CASE, "first batch, beyond the bare client", [a - b for a, b in zip(ours, bare, strict=True)], "s", at_most=2)


def _wall(command: list[str], **environment: str) -> tuple[float, str]:
    """Seconds, and what it wrote."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=process.ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - began, done.stdout


def _said(command: list[str], **environment: str) -> float:
    """Seconds until the time it prints."""
    began = time.monotonic()
    return float(_wall(command, **environment)[1].splitlines()[-1]) - began
