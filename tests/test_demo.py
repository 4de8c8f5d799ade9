"""The demo shows what ran, and numbers that are true at each moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worker.demo import progress
from worker.loop import Counters


def test_its_line_fits_a_terminal() -> None:
    told = progress(50_000, Counters(handled=49_900, retried=50_000, dead_lettered=100), 0.5)
    assert told == "50,000 of 50,000, 100,000/s, 50,000 retries, 100 dead letters" and len(told) < 80


@pytest.mark.embedded
def test_it_shows_the_code_one_letter_and_that_it_adds_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", "demo", "--records", "600"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "def charge(orders: list[Record[Order]])" in done.stdout and "It adds up: 600 = " in done.stdout
    assert "One of the dead letters" in done.stdout and "given up" in done.stdout
    assert "lag" not in done.stderr and "600 of 600" in done.stderr
