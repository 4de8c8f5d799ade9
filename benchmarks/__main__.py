"""The command."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import click
from rich.console import Console

from benchmarks import broker, latency, process, report, slow, starting, throughput
from benchmarks.figures import QUICK, Findings, Plan, Say
from benchmarks.peers import guard
from benchmarks.throughput import BARE

CASES: dict[str, Callable[[broker.Broker, Plan, Findings, Say], None]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "slow": slow.run,
    "start": starting.run,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)), metavar="[NAME]...")
@click.option("--pairs", type=click.IntRange(1), help="Pairs of runs, ours and bare (throughput): 7.")
@click.option(
    "--records", type=click.IntRange(10_000), help="Records that each throughput run reads: 10,000,000 (orders: a fifth)."
)
@click.option("--quick", is_flag=True, help="Two minutes, to see that it works: not for figures.")
@click.option("--accept", is_flag=True, help="Keep the ratios of throughput in benchmarks/ratios.json.")
@click.option("--bootstrap", metavar="HOST:PORT", help="A broker to use instead of a container of its own.")
def main(
    names: tuple[str, ...], pairs: int | None, records: int | None, quick: bool, accept: bool, bootstrap: str | None
) -> None:
    """Measures the worker beside a bare client: throughput, latency, slow (and idle), start; without a name all of them.

    Example: python -m benchmarks throughput --pairs 3 --records 2000000
    """
    plan = QUICK if quick else Plan()
    plan = replace(plan, pairs=pairs or plan.pairs)
    if records is not None:
        plan = replace(plan, records=records, orders=max(10_000, records // 5))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the container would stay
    console, began, found = Console(), time.monotonic(), Findings()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {line}", highlight=False, soft_wrap=True)

    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    say(f"{os.cpu_count()} cores, load average {load}: what else runs here disturbs the figures")
    with broker.running(bootstrap, say) as kafka:
        for name in names or CASES:
            CASES[name](kafka, plan, found, say)
    about = {
        **report.machine(),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "seconds": time.monotonic() - began,
    }
    report.show(console, found.figures)
    ratios = {f"{one.case}: {one.what}": one.value for one in found.figures if one.what == BARE}
    if accept:
        guard.accept(ratios)
    elif not quick and ratios:
        guard.compare(ratios, say)
    say(f"raw figures: {report.keep(found, about).relative_to(process.ROOT)}")


if __name__ == "__main__":
    main()
