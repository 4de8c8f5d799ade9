"""Runs a measured process and takes its line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def start(run: str, **options: Any) -> subprocess.Popen[str]:
    """`run` is a function of `benchmarks.measured`; one without an end ends when its standard input does."""
    spec = json.dumps({"run": run, **options})
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.measured", spec], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str], timeout: float = 300) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"measured process ended with {process.returncode}: {process.args!r}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def measure(run: str, **options: Any) -> dict[str, Any]:
    return result(start(run, **options))
