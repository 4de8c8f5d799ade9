"""The command."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from benchmarks import broker, report
from benchmarks.peers import guard, kafka_cases, page, queue_cases
from benchmarks.peers.kafka_cases import QUICK, Plan
from benchmarks.peers.rounds import Table

GROUPS = ("works", "promises", "latencies", "lives", "shapes", "processes", "queues")


@click.command()
@click.option("--only", help=f"Groups of cases, with commas: {', '.join(GROUPS)}.")
@click.option("--peers", help="Only peers with one of these words in their name, with commas: ours,bare.")
@click.option("--rounds", type=click.IntRange(1), help="Runs of each, in turns: 5.")
@click.option("--quick", is_flag=True, help="One short round, to see that it works: not for figures.")
@click.option("--bootstrap", metavar="HOST:PORT", help="A Kafka to use instead of a container of its own.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Where the raw figures go, instead of benchmarks/results.")
@click.option(
    "--write", is_flag=True, help="Write docs/benchmarks.md, its plots, and the ratios that `make bench` compares with."
)
def main(
    only: str | None, peers: str | None, rounds: int | None, quick: bool, bootstrap: str | None, to: Path | None, write: bool
) -> None:
    """Measure this worker beside what a user would pick instead: the same work on the same broker, in turns.

    Example: python -m benchmarks.peers --only works,queues --rounds 3
    """
    groups = only.split(",") if only else list(GROUPS)
    if unknown := set(groups) - set(GROUPS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(GROUPS)}", param_hint="--only")
    words = tuple(peers.split(",")) if peers else ()
    plan = replace(QUICK if quick else Plan(), peers=words)
    plan = replace(plan, rounds=rounds or plan.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the containers would stay
    console, began = Console(), time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {line}", highlight=False, soft_wrap=True)

    tables: list[Table] = []
    about = report.machine() | {"command": " ".join(["python -m benchmarks.peers", *sys.argv[1:]]), "load": os.getloadavg()[0]}
    code = 0
    try:
        for table in _play(groups, plan, bootstrap, say):
            if table.rows:
                tables.append(table)
                page.show(console, table)
    except (KeyboardInterrupt, SystemExit) as stopped:
        say("stopped: what was measured until now is kept")
        code = 130 if isinstance(stopped, KeyboardInterrupt) else 143
    about["seconds"] = round(time.monotonic() - began)
    path = to or report.RESULTS / time.strftime("peers-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"about": about, "tables": [asdict(table) for table in tables]}, indent=1) + "\n")
    say(f"raw figures: {path}")
    if not quick:
        guard.compare(guard.ratios(tables), say)
    if write:
        page.write(about, tables, say)
        guard.accept(guard.ratios(tables))
    sys.exit(code)


def _play(groups: list[str], plan: Plan, bootstrap: str | None, say: kafka_cases.Say) -> Iterator[Table]:
    if groups != ["queues"]:
        with broker.running(bootstrap, say) as kafka:
            rates: dict[str, float] = {}
            if "works" in groups:
                for table in kafka_cases.works(kafka, plan, say):
                    if not rates:
                        rates = {row.name: row.median("records_per_second") or 0.0 for row in table.rows}
                    yield table
            if "promises" in groups:
                yield from kafka_cases.promises(kafka, plan, say)
            if "latencies" in groups:
                yield from kafka_cases.latencies(kafka, plan, say, rates)
            if "lives" in groups:
                yield from kafka_cases.lives(kafka, plan, say)
            if "shapes" in groups:
                yield from kafka_cases.shapes(kafka, plan, say)
            if "processes" in groups:
                yield from kafka_cases.processes(kafka, plan, say)
    if "queues" in groups:
        yield from queue_cases.run(plan.rounds, plan.messages, plan.peers, say)


if __name__ == "__main__":
    main()
