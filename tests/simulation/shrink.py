"""From a seed that fails to a short history that fails in the same way."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.simulation.choices import Recording, Replaying
from tests.simulation.world import Simulation

PATIENCE = 30.0
"""Seconds."""


class Failure(NamedTuple):
    error: Exception
    history: list[tuple[object, ...]]

    @property
    def kind(self) -> str:
        """Without the names and numbers of what it happened to."""
        words = re.sub(r"Partition\([^)]*\)|[^A-Za-z ]+", " ", str(self.error)).split()
        return " ".join([type(self.error).__name__, *words[:6]])


def failure_of(seed: int, rng: random.Random | None = None) -> Failure | None:
    """Plays one seed; an exception of the core's own is a failure, too."""
    random.seed(seed)  # the jitter of Backoff
    simulation = Simulation(seed, rng or random.Random(seed))
    try:
        simulation.run()
    except Exception as error:
        return Failure(error, simulation.ledger.history)
    return None


def replay(seed: int, steps: Sequence[int]) -> Failure | None:
    """Plays only those steps of a seed."""
    return failure_of(seed, Replaying(_recorded(seed), steps))


def _recorded(seed: int) -> dict[int, list[Any]]:
    recording = Recording(seed)
    failure_of(seed, recording)
    return recording.taken


def shrink(seed: int, patience: float = PATIENCE) -> tuple[Failure, list[int]]:
    """The shortest history found, and which steps it takes: leaves out ever smaller pieces, as long as it fails the same way."""
    taken = _recorded(seed)
    steps = [step for step in taken if step >= 0]
    best = failure_of(seed, Replaying(taken, steps))
    assert best is not None, f"seed {seed} does not fail"
    deadline = time.monotonic() + patience
    size = max(1, len(steps) // 2)
    while time.monotonic() < deadline:
        start, before = 0, len(steps)
        while start < len(steps) and time.monotonic() < deadline:
            shorter = steps[:start] + steps[start + size :]
            found = failure_of(seed, Replaying(taken, shorter))
            if found is not None and found.kind == best.kind:
                steps, best = shorter, found
            else:
                start += size
        if size == 1 and len(steps) == before:
            break
        size = max(1, size // 2)
    return best, steps
