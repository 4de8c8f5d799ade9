"""What isolation="process" costs: the same handler in a thread and in a process, on Kafka: `python -m benchmarks.isolation`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from statistics import median

import click
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import broker
from worker import App

app = App("isolation", connections={"kafka": f"kafka://{os.environ.get('BOOTSTRAP', 'localhost:9092')}"})


@app.handler("kafka:isolated-200", batch_size=500, window=0.0)
def count(values: list[bytes]) -> None:
    pass


@app.handler("kafka:isolated-200", batch_size=500, window=0.0)
def touch(values: list[bytes]) -> None:
    for value in values:
        value[0]


@app.handler("kafka:isolated-200", batch_size=500, window=0.0)
def parse(values: list[bytes]) -> None:
    for value in values:
        json.loads(value)


def measure(handler: str, isolation: str, records: int) -> float:
    """Records a second, in this process, from the tenth of them on."""
    from worker.loading import load_app
    from worker.run import Worker
    from worker.settings import load

    group = f"{handler}-{isolation}-{time.time_ns()}"
    flags = [f"handlers.{handler}.isolation={isolation}", f"handlers.{handler}.group={group}"]
    loaded = load_app("benchmarks.isolation:app")
    worker = Worker(loaded, load(loaded, environ={}, flags=flags, only=[handler]))
    rates: list[float] = []

    def watch() -> None:
        counters = worker.counters[handler]
        while counters.handled < records // 10:
            time.sleep(0.001)
        began, before = time.perf_counter(), counters.handled
        while counters.handled < records:
            time.sleep(0.001)
        rates.append((counters.handled - before) / (time.perf_counter() - began))
        worker.stop()

    threading.Thread(target=watch, daemon=True).start()
    if code := worker.run():
        raise SystemExit(code)
    return rates[0]


@click.command()
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--records", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@click.option("--bootstrap", metavar="HOST:PORT", help="A broker to use instead of a container of its own.")
@click.option("--run", nargs=2, hidden=True)
def main(pairs: int, records: int, bootstrap: str | None, run: tuple[str, str] | None) -> None:
    """Measures a handler in a thread and in a process of its own, in turns.

    Example: python -m benchmarks.isolation --pairs 3
    """
    if run is not None:
        click.echo(measure(*run, records))
        return
    with broker.running(bootstrap, click.echo) as kafka:
        _fill(kafka.bootstrap, records)
        for handler in ("count", "touch", "parse"):
            found = [[_apart(handler, how, records, kafka.bootstrap) for how in ("thread", "process")] for _ in range(pairs)]
            thread, process = (median(column) for column in zip(*found, strict=True))
            ratio = median(process / thread for thread, process in found)
            click.echo(f"{handler:6} thread {thread:>9,.0f}/s   process {process:>9,.0f}/s   {ratio:.2f}")


def _apart(handler: str, how: str, records: int, bootstrap: str) -> float:
    command = [sys.executable, "-m", "benchmarks.isolation", "--records", str(records), "--run", handler, how]
    told = subprocess.run(command, env=os.environ | {"BOOTSTRAP": bootstrap}, check=True, capture_output=True, text=True)
    return float(told.stdout)


def _fill(bootstrap: str, records: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic("isolated-200", 4, 1)]).values():
        if future.exception() is not None:
            return  # filled before
        time.sleep(1)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 2_000_000})
    value = json.dumps({"id": 1, "text": "x" * 178}).encode()  # 200 B
    for number in range(records + records // 10):
        producer.produce("isolated-200", value, partition=number % 4)
    producer.flush()


if __name__ == "__main__":
    main()
