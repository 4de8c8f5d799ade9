"""What one seed decides before it runs."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from worker.lane import Shape
from worker.retry import Backoff, Policy


@dataclass
class Plan:
    workers: int
    partitions: int
    records: int
    steps: int
    shape: Shape
    threads: int
    policy: Policy
    dead_letter: bool
    discard: bool
    fuse: float
    pauses: bool
    """A flood does not stop it."""
    hold: float
    rejects: bool
    counts: bool
    flush: float
    """The chance that a poll leaves commits undurable."""
    manner: str
    """How the handler fails: whole, mapping, failed, mixed."""

    @classmethod
    def of(cls, rng: random.Random) -> Plan:
        positioned = rng.random() < 0.7
        ordered = rng.random() < (0.8 if positioned else 0.3)
        dead_letter = rng.random() < 0.6
        retries = rng.choice([None, 0, 1, 3])
        limit = rng.choice([None, None, 8, 30]) if not positioned else None
        made = Shape(
            batch_size=rng.choice([1, 2, 5, 20]),
            window=rng.choice([0.0, 0.5, 3.0]),
            max_bytes=rng.choice([4, 40, 10_000]),
            parallel=rng.choice([1, 1, 1, 3]),
            ordered=ordered,
            positioned=positioned,
            limit=limit,
        )
        policy = Policy.of(
            retries, "x:y" if dead_letter else None, Backoff(rng.choice([0.0, 0.1, 2.0])), rng.random() < 0.7, ordered
        )
        queue = not positioned
        impatient = queue and policy.tries <= 4 and policy.backoff.first <= 0.1 and rng.random() < 0.8
        rejects = queue and dead_letter and rng.random() < 0.4
        return cls(
            workers=rng.choice([1, 1, 1, 1, 2, 3]),
            partitions=rng.randint(1, 4),
            records=rng.randint(1, 60),
            steps=rng.choice([50, 100, 200, 600]),
            shape=replace(made, rejects=rejects),
            threads=rng.choice([1, 1, 3]) * made.parallel,
            policy=policy,
            dead_letter=dead_letter,
            discard=retries is not None,
            fuse=rng.choice([1.0, 1.0, 1.0, 0.005]),  # five of the last thousand records
            pauses=rng.random() < 0.5,
            hold=20.0 if impatient else math.inf,
            rejects=rejects,
            counts=queue and rng.random() < 0.5,
            flush=rng.choice([0.0, 0.7]),
            manner=rng.choice(["whole", "mapping", "failed", "mixed"]),
        )
