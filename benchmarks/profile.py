"""Where our worker's time goes, stage by stage: `python -m benchmarks.profile`. A handler's thread is watched by timers around
the few methods that run once a batch, so that what is measured is hardly slowed down."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import defaultdict
from time import perf_counter_ns
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import broker
from benchmarks.peers import client
from benchmarks.process import ROOT

STAGES = {
    "client": "librdkafka hands over messages: poll, consume",
    "grouping": "which partitions, any errors: one batch for each",
    "source": "the rest of the connector's poll",
    "lanes": "joining, choosing, counting bytes, settling",
    "turn": "the rest of the loop's turn",
    "dispatch": "the way to the handler and back: context, outcome, verdict",
    "decode": "from records to what the handler takes",
    "handler": "the user's function",
    "commit": "positions",
}


class Stages:
    """Nanoseconds of one thread, each counted where it was spent and not in who called."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since = 0
        self._thread: int | None = None

    def around(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                if self._thread is not None or stage != "turn":
                    return function(*arguments, **named)
                self._thread = threading.get_ident()
            self._switch()
            self._running.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._running.pop()

        setattr(owner, name, timed)

    def _switch(self) -> None:
        now = perf_counter_ns()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now

    def forget(self) -> None:
        self.spent.clear()


def watch() -> Stages:
    """Puts the timers in; the handler's own is the caller's business."""
    from confluent_kafka import Consumer

    from worker.call import Call
    from worker.connectors import kafka_source
    from worker.connectors.kafka_commit import Positions
    from worker.dispatch import Dispatch
    from worker.lane import Lane
    from worker.loop import Loop

    class Timed(Consumer):
        """The client's own class takes no attributes."""

        def poll(self, *arguments: Any, **named: Any) -> Any:
            return super().poll(*arguments, **named)

        def consume(self, *arguments: Any, **named: Any) -> Any:
            return super().consume(*arguments, **named)

    stages = Stages()
    vars(kafka_source)["Consumer"] = Timed
    for owner, names, stage in (
        (Timed, ("poll", "consume"), "client"),
        (kafka_source, ("split",), "grouping"),
        (kafka_source.KafkaSource, ("poll",), "source"),
        (Loop, ("_receive", "_start"), "lanes"),
        (Lane, ("settle",), "lanes"),
        (Loop, ("turn",), "turn"),
        (Dispatch, ("__call__",), "dispatch"),
        (Call, ("__init__",), "decode"),
        (Positions, ("finish", "send"), "commit"),
    ):
        for name in names:
            stages.around(owner, name, stage)
    return stages


def measured(spec: client.Spec) -> dict[str, Any]:
    """In a process of its own."""
    from benchmarks.peers.kafka import ours

    stages = watch()
    work = client.WORKS[spec.work](spec)
    made = ours.handler(spec, work)

    class Holder:
        handler = staticmethod(made)

    stages.around(Holder, "handler", "handler")
    timed = Holder.handler
    timed.__annotations__ = made.__annotations__
    timed.__wrapped__ = made  # type: ignore[attr-defined]  # its annotation is what counts
    ours.handler = lambda spec, work: timed
    ours.run(spec, work)
    return work.result() | {"spent": stages.spent}


@click.command()
@click.option("--bootstrap", metavar="HOST:PORT", help="A broker to use instead of a container of its own.")
@click.option("--records", default=4_000_000, show_default=True)
@click.option("--repeat", default=3, show_default=True, help="Runs; the fastest is shown.")
@click.option("--work", "works", multiple=True, default=("count", "touch", "validate", "each"), show_default=True)
@click.option("--run", hidden=True)
def main(bootstrap: str | None, records: int, repeat: int, works: tuple[str, ...], run: str | None) -> None:
    """Show what each stage of the worker costs a record, for some kinds of handlers, and a bare `consume(500)` beside it.

    Example: python -m benchmarks.profile --work count
    """
    if run is not None:
        print(json.dumps(measured(client.Spec(**json.loads(run)))), flush=True)
        return
    console = Console()
    with broker.running(bootstrap, console.print) as kafka:
        topic = kafka.filled(records)
        table = Table("ns a record", *works)
        found = {work: _best(kafka.bootstrap, topic, work, records, repeat) for work in works}
        for stage, told in STAGES.items():
            table.add_row(f"{stage}: {told}", *(f"{one['spent'].get(stage, 0) / one['records']:.0f}" for one in found.values()))
        table.add_section()
        table.add_row("all of it", *(f"{1e9 / one['records_per_second']:.0f}" for one in found.values()))
        table.add_row(
            "CPU of the process, the client's own threads included",
            *(f"{1e3 * one['cpu_us_per_record']:.0f}" for one in found.values()),
        )
        console.print(table)


def _best(bootstrap: str, topic: str, work: str, records: int, repeat: int) -> dict[str, Any]:
    runs = []
    for _ in range(repeat):
        spec = {"server": bootstrap, "topic": topic, "work": work, "group": client.unique(), "records": records}
        command = [sys.executable, "-m", "benchmarks.profile", "--run", json.dumps(spec)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return max(runs, key=lambda one: one["records_per_second"])


if __name__ == "__main__":
    main()
