"""The demo: 50,000 orders through an embedded Kafka, and a check of what the ledger and the dead-letter topic then hold."""

from __future__ import annotations

import inspect
import json
import logging
import os
import runpy
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer, TopicPartition

from worker.connectors import kafka_embedded
from worker.interface import Partition, Record
from worker.letters import Letter

if TYPE_CHECKING:
    from worker.loop import Counters
    from worker.run import Worker

PARTITIONS = 4
TOPIC, DEAD = "orders", "orders.dead"
PATIENCE = 120.0
"""Seconds without any progress after which the demo gives up and reports what is missing."""
SESSION = {"enable.auto.commit": False, "enable.auto.offset.store": False, "session.timeout.ms": 6000}


@dataclass
class Reconciliation:
    """What was produced beside what became of it, each counted where it lies and not by the worker."""

    produced: int
    handled: int = 0
    dead_lettered: int = 0
    lost: int = 0
    unexpected: int = 0
    """Dead letters that should have been handled, or the other way round."""
    duplicates: int = 0
    order_violations: int = 0
    committed: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        wrong = self.lost or self.unexpected or self.duplicates or self.order_violations
        return not wrong and self.committed == self.ends and self.produced == self.handled + self.dead_lettered


def order(number: int) -> tuple[bytes, bool]:
    """The value of an order, and whether it must end as a dead letter."""
    if number % 997 == 500:
        return b'{"id": %d, "customer"' % number, True
    body = {"id": number, "customer": f"c{number % 700}", "total": round(1 + number % 97 * 1.1, 2)}
    if number % 1999 == 77:
        body["total"] = -1.0
    elif number % 251 == 9:
        body["bank"] = "busy"
    return json.dumps(body).encode(), number % 1999 == 77


def produce(bootstrap: str, records: int) -> set[int]:
    """Writes the orders; returns the numbers of those that must end as dead letters."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    failures: list[str] = []
    doomed = set()

    def delivered(error: object, message: object) -> None:
        if error is not None:
            failures.append(str(error))

    for number in range(records):
        value, dead = order(number)
        if dead:
            doomed.add(number)
        customer = number % 700
        headers: list[tuple[str, str | bytes | None]] = [("number", str(number).encode())]
        producer.produce(TOPIC, value, b"c%d" % customer, partition=customer % PARTITIONS, headers=headers, on_delivery=delivered)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    if failures:
        raise RuntimeError(f"{len(failures)} orders could not be produced: {failures[0]}")
    return doomed


def read_all(bootstrap: str, topic: str) -> Iterator[Any]:
    """Every record of a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reconciliation", **SESSION})
    try:
        ends = watermarks(consumer, topic)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        missing = sum(ends.values())
        deadline = time.monotonic() + 30
        while missing and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    missing -= 1
                    yield message
    finally:
        consumer.close()


def watermarks(consumer: Consumer, topic: str) -> dict[int, int]:
    partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    return {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions}


def reconcile(bootstrap: str, ledger: Path, group: str, records: int, doomed: set[int]) -> Reconciliation:
    found = Reconciliation(records)
    handled: Counter[int] = Counter()
    last: dict[int, int] = {}
    with sqlite3.connect(ledger) as database:
        for number, partition, offset in database.execute("SELECT id, partition, record FROM charges ORDER BY number"):
            handled[number] += 1
            if offset < last.get(partition, -1) and not _retried(number):
                found.order_violations += 1
            last[partition] = max(offset, last.get(partition, -1))
    database.close()
    dead = Counter(int(dict(message.headers() or [])["number"]) for message in read_all(bootstrap, DEAD))
    found.handled, found.dead_lettered = handled.total(), dead.total()
    found.lost = sum(number not in handled and number not in dead for number in range(records))
    found.unexpected = len(dead.keys() ^ doomed) + len(handled.keys() & doomed)
    found.duplicates = handled.total() - len(handled) + dead.total() - len(dead)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **SESSION})
    partitions = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    found.committed = {p.partition: p.offset for p in consumer.committed(partitions, timeout=10)}
    found.ends = watermarks(consumer, TOPIC)
    consumer.close()
    return found


def _retried(number: int) -> bool:
    """The handler named it as failed and took those behind it: `{index: error}` asks for just that."""
    return number % 251 == 9


class Watch(threading.Thread):
    """Shows progress, and stops the worker when everything has an end or nothing moves any more."""

    def __init__(self, worker: Worker, records: int, show: bool) -> None:
        super().__init__(name="demo-watch", daemon=True)
        self.worker = worker
        self.records = records
        self.show = show

    def run(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        began = moved = time.monotonic()
        ended, said = 0, 0.0
        with (
            Live(console=console, refresh_per_second=8, transient=True)
            if self.show and console.is_terminal
            else _Nothing() as live
        ):
            while True:
                counters = next(iter(self.worker.counters.values()))
                now = time.monotonic()
                if ended == 0:
                    began = now
                if counters.handled + counters.dead_lettered != ended:
                    ended, moved = counters.handled + counters.dead_lettered, now
                line = progress(self.records, counters, now - began)
                live.update(line)
                if self.show and not console.is_terminal and ended and now - said >= 1:
                    console.print(line, soft_wrap=True)
                    said = now
                if ended >= self.records or now - moved > PATIENCE:
                    break
                time.sleep(0.1)
        if self.show:
            console.print(line, soft_wrap=True)
        self.worker.stop()


def progress(records: int, counters: Counters, seconds: float) -> str:
    """Fits a terminal of 80 columns. How far the client is behind is no part of it: it does not know that all the time."""
    ended = counters.handled + counters.dead_lettered
    rate = ended / max(seconds, 0.1)
    return f"{ended:,} of {records:,}, {rate:,.0f}/s, {counters.retried:,} retries, {counters.dead_lettered:,} dead letters"


class _Nothing:
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, line: str) -> None: ...


def demo(records: int = 50_000, *, as_json: bool = False) -> int:
    """Produces, handles, and reconciles; returns 0 if it adds up and 1 if not."""
    from worker import settings
    from worker.run import Worker

    logging.getLogger("worker").setLevel(logging.CRITICAL)
    bootstrap = kafka_embedded.bootstrap()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder, "ledger.db")
        os.environ["LEDGER"] = str(ledger)
        app = runpy.run_path(str(_example()))["app"]
        loaded = settings.load(app, file=None, environ={"WORKER_CONNECTIONS__KAFKA": "kafka://embedded"}, flags=[])
        began = time.monotonic()
        doomed = produce(bootstrap, records)
        if not as_json:
            print(inspect.getsource(app.handlers["charge"].function))
            print(
                f"{records:,} orders produced to {PARTITIONS} partitions of an embedded Kafka in {time.monotonic() - began:.1f} s"
            )
        worker = Worker(app, loaded)
        Watch(worker, records, show=not as_json).start()
        code = worker.run()
        found = reconcile(bootstrap, ledger, f"{app.name}.charge", records, doomed)
    _report(found, code, as_json)
    if not as_json:
        _show_a_letter(bootstrap)
    return 0 if found.adds_up and code == 0 else 1


def _example() -> Path:
    """Installed beside this file; in a checkout in the folder of the examples."""
    here = Path(__file__).parent
    return next(path for path in (here / "examples" / "orders.py", here.parent / "examples" / "orders.py") if path.exists())


def _show_a_letter(bootstrap: str) -> None:
    from worker.shown import tell_letter

    for message in read_all(bootstrap, DEAD):
        place = Partition(DEAD, message.partition())
        record = Record(message.value(), message.key(), tuple(message.headers()), message.timestamp()[1], message.offset(), place)
        print("One of the dead letters, as worker dead-letters show prints it:")
        tell_letter(Letter(record), as_json=False)
        return


def _report(found: Reconciliation, code: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(found), "adds_up": found.adds_up, "exit_code": code}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What the ledger, the dead-letter topic and the group really hold")
    table.add_column("what")
    table.add_column("count", justify="right")
    for name in ("produced", "handled", "dead_lettered", "lost", "unexpected", "duplicates", "order_violations"):
        table.add_row(name.replace("_", " "), f"{getattr(found, name):,}")
    table.add_row("committed", " ".join(map(str, found.committed.values())))
    table.add_row("end of each partition", " ".join(map(str, found.ends.values())))
    console = Console()
    console.print(table)
    if found.adds_up:
        console.print(
            f"It adds up: {found.produced:,} = {found.handled:,} handled + {found.dead_lettered:,} dead letters, in order."
        )
    else:
        difference = found.produced - found.handled - found.dead_lettered
        console.print(f"It does NOT add up: {difference:+,} records unaccounted for, {found.lost:,} lost; see the table.")
