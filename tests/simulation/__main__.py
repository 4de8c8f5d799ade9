"""The command line of the simulation."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

import click

from tests.bugs import BUGS, plant
from tests.simulation.shrink import Failure, failure_of, replay, shrink

CHUNK = 1_000
KINDS = 5
"""Kinds of failures that are shrunk."""


@click.command(epilog="Example: python -m tests.simulation --runs 100000 --seed 0")
@click.option("--runs", type=click.IntRange(1), default=10_000, show_default=True, help="Seeds, one after the other.")
@click.option("--seed", default=0, show_default=True, help="The first.")
@click.option("--processes", type=click.IntRange(1), default=min(2, os.cpu_count() or 1), show_default=True)
@click.option("--steps", help="Plays only these steps of the seed, as printed: 3,17-20")
@click.option("--bug", type=click.Choice([*BUGS, "all"]), help="Plants a bug, which must be found.")
def main(runs: int, seed: int, processes: int, steps: str | None, bug: str | None) -> None:
    """Play random histories of the real turn, and hold each against what is promised.

    What fails is made short and printed, with the command that plays it again. Exit codes: 0 nothing fails (or every planted bug
    is found), 1 not.
    """
    _quiet()
    if steps is not None:
        plant(bug)
        found = replay(seed, _numbers(steps))
        _print(found)
        sys.exit(1 if found else 0)
    if bug == "all":
        sys.exit(0 if all([_hunt(one, runs, seed) for one in BUGS]) else 1)
    if bug:
        sys.exit(0 if _hunt(bug, runs, seed) else 1)
    sys.exit(0 if _play(runs, seed, processes) else 1)


def _play(runs: int, first: int, processes: int) -> bool:
    started = time.monotonic()
    kinds: dict[str, list[int]] = defaultdict(list)
    starts = range(first, first + runs, CHUNK)
    with ProcessPoolExecutor(processes) as pool:
        ends = [min(start + CHUNK, first + runs) for start in starts]
        for number, failures in enumerate(pool.map(_failures, starts, ends, repeat(None))):
            for seed, kind in failures:
                kinds[kind].append(seed)
            if sys.stderr.isatty():
                click.echo(f"\r{min((number + 1) * CHUNK, runs):,} runs", err=True, nl=False)
    click.echo(f"{runs:,} runs, {sum(map(len, kinds.values()))} violations, {time.monotonic() - started:.0f} s")
    for kind, seeds in list(kinds.items())[:KINDS]:
        click.echo(f"\n{len(seeds)} times {kind}: seeds {seeds[:5]}")
        _explain(seeds[0], None)
    return not kinds


def _hunt(bug: str, runs: int, first: int) -> bool:
    """Whether it is found, in a process of its own, as a planted bug stays."""
    with ProcessPoolExecutor(1) as pool:
        found = pool.submit(_first_failure, bug, runs, first).result()
    click.echo(f"{bug}: {found or f'not found in {runs:,} runs'}")
    return found is not None


def _first_failure(bug: str, runs: int, first: int) -> str | None:
    _quiet()
    plant(bug)
    for seed in range(first, first + runs):
        if failure_of(seed):
            best, steps = shrink(seed, 10.0)
            again = f"python -m tests.simulation --bug {bug} --seed {seed} --steps {_ranges(steps)}"
            return f"seed {seed}, {len(steps)} steps: {best.error}\n  {again}"
    return None


def _failures(start: int, end: int, bug: str | None) -> list[tuple[int, str]]:
    _quiet()
    return [(seed, found.kind) for seed in range(start, end) if (found := failure_of(seed))]


def _explain(seed: int, bug: str | None) -> None:
    best, steps = shrink(seed)
    _print(best)
    click.echo(f"python -m tests.simulation --seed {seed} --steps {_ranges(steps)}  # plays these {len(steps)} steps again")


def _print(found: Failure | None) -> None:
    if found is None:
        click.echo("nothing fails")
        return
    for line in found.history:
        click.echo("  " + " ".join(map(str, line)))
    click.echo(f"{type(found.error).__name__}: {found.error}")


def _ranges(steps: list[int]) -> str:
    """3,17-20"""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][-1] == step - 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _numbers(steps: str) -> list[int]:
    found: list[int] = []
    for part in steps.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _quiet() -> None:
    logging.getLogger("worker").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
