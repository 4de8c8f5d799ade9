"""Real worker processes, what they handled, and the count of it: lost, out of order, repeated.

What a handler did is a line in a file that is appended to with one write a batch, so it outlives a SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from tests.waiting import PATIENCE, until
from worker.testing import ActiveMQContainer, KafkaContainer, RabbitMQContainer

KEYS = 97

APP = """
import os, time
from worker import App, Batch

if gate := os.environ.get("GATE"):  # a worker that shall join at once when the file is there: to start takes seconds
    open(gate + ".reached", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.005)

app = App("faults")
handled = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
begun = os.open(os.environ["HANDLED"] + ".begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.handler(os.environ["STREAM"], batch_size=int(os.environ["BATCH_SIZE"]), window=0.1)
def write(batch: Batch) -> None:
    os.write(begun, b"begun\\n")
    time.sleep(float(os.environ["PAUSE"]))
    # A queue has no offsets: there the numbers themselves are the order.
    where = (r.id if os.environ["STREAM"].startswith("kafka:") else r.value.decode() for r in batch)
    keys = ((r.key or b"-").decode() for r in batch)
    lines = (f"{r.partition.id} {at} {key} {r.value.decode()} {os.getpid()}\\n" for r, at, key in zip(batch, where, keys))
    os.write(handled, "".join(lines).encode())
"""


class Line(NamedTuple):
    partition: int
    offset: int
    key: str
    number: int
    pid: int


class Journal:
    """What all workers have handled so far, in the order they wrote it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[Line] = []
        self._read = 0

    def lines(self) -> list[Line]:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode().splitlines():
                partition, offset, key, number, pid = line.split()
                self._lines.append(Line(int(partition), int(offset), key, int(number), int(pid)))
        return self._lines

    def begun(self) -> int:
        """How many batches were begun."""
        path = Path(f"{self.path}.begun")
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def by(self, pid: int) -> int:
        return sum(line.pid == pid for line in self.lines())


@dataclass
class Count:
    """What the journal says about the records that the broker confirmed."""

    produced: int
    handled: int
    lost: list[int] = field(default_factory=list)
    duplicates: int = 0
    skips: int = 0
    """Records that were handled before one that lies in front of them in the partition."""
    key_violations: int = 0
    """Records that were handled before an earlier one of their key."""
    restarts: int = 0
    """How often a process went back in a partition: it takes a committed position up again."""

    def in_order_and_complete(self) -> None:
        assert not self.lost, f"{len(self.lost)} of {self.produced} records lost: {self.lost[:10]}"
        assert (self.skips, self.key_violations) == (0, 0), self


def reconcile(lines: Iterable[Line], produced: Iterable[int]) -> Count:
    lines, expected = list(lines), set(produced)
    seen = {line.number for line in lines}
    count = Count(len(expected), len(lines), sorted(expected - seen), len(lines) - len(seen))
    furthest: dict[int, int] = defaultdict(lambda: -1)
    furthest_of_key: dict[str, int] = defaultdict(lambda: -1)
    known: set[int] = set()
    by_process: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    for line in lines:
        # A repetition may begin anywhere behind, but what comes for the first time is the next one.
        count.skips += line.offset > furthest[line.partition] + 1
        furthest[line.partition] = max(furthest[line.partition], line.offset)
        if line.number not in known:
            known.add(line.number)
            count.key_violations += line.number < furthest_of_key[line.key]
            furthest_of_key[line.key] = max(furthest_of_key[line.key], line.number)
        count.restarts += line.offset <= by_process[line.pid, line.partition]
        by_process[line.pid, line.partition] = line.offset
    return count


class Load(threading.Thread):
    """Writes numbered records, a key's in order, until `limit` or `finish`; survives a broker that goes away for a while."""

    def __init__(self, bootstrap: str, topic: str, limit: int | None = None, pace: float = 0.01) -> None:
        """`pace`: seconds between two bursts of 20 records."""
        super().__init__(name="load", daemon=True)
        self.confirmed: set[int] = set()
        self.failures: list[KafkaError] = []
        self._topic = topic
        self._limit = limit
        self._pace = pace
        self._enough = threading.Event()
        config = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 120_000}
        self._producer = Producer(config, logger=_Silent())

    def run(self) -> None:
        number = 0
        while (self._limit is None or number < self._limit) and not self._enough.is_set():
            self._produce(number)
            number += 1
            if number % 20 == 0 and self._pace:
                self._enough.wait(self._pace)
                self._producer.poll(0)
        self._producer.flush(PATIENCE)

    def _produce(self, number: int) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.confirmed.add(number)
            else:
                self.failures.append(error)

        while True:
            try:
                return self._producer.produce(self._topic, b"%d" % number, b"key-%d" % (number % KEYS), on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.05)

    def finish(self) -> set[int]:
        """Stops, and returns the numbers that the broker has confirmed."""
        if self._limit is None:
            self._enough.set()
        self.join(PATIENCE)
        assert not self.is_alive() and not self.failures, self.failures[:3]
        return self.confirmed


class _Silent:
    def log(self, *_: object) -> None: ...


class WorkerProcess:
    """`worker run`, started as a user starts it."""

    def __init__(self, folder: Path, environ: dict[str, str], number: int, app: str = "faults:app", level: str = "DEBUG") -> None:
        self.log = folder / f"worker-{number}.log"
        command = [sys.executable, "-m", "worker", "run", app, "--log-level", level]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self, patience: float = 60.0) -> int:
        """SIGTERM; returns the exit code."""
        self.terminate()
        return self.process.wait(patience)

    def told(self) -> str:
        return self.log.read_text(errors="replace")


class Stage(ABC):
    """A stream, its journal, and the workers that a test starts on it."""

    def __init__(self, folder: Path, stream: str) -> None:
        """`stream`: `connection:name`."""
        self.folder = folder
        self.stream = stream
        self.journal = Journal(folder / "handled")
        self.workers: list[WorkerProcess] = []
        (folder / "faults.py").write_text(APP)

    @abstractmethod
    def environ(self) -> dict[str, str]:
        """What a worker must be told to reach the stream."""

    @abstractmethod
    def settled(self) -> bool:
        """The broker would deliver nothing again."""

    def worker(self, *, pause: float = 0.1, batch_size: int = 300, **environ: str) -> WorkerProcess:
        """`pause`: seconds that the handler takes for a batch."""
        settings = {
            "HANDLED": str(self.journal.path),
            "STREAM": self.stream,
            "PAUSE": str(pause),
            "BATCH_SIZE": str(batch_size),
        }
        self.workers.append(WorkerProcess(self.folder, self.environ() | settings | environ, len(self.workers)))
        return self.workers[-1]

    def handled(self, count: int) -> None:
        """Waits until so many records are handled."""
        self.until(lambda: len({line.number for line in self.journal.lines()}) >= count)

    def working(self, *workers: WorkerProcess) -> None:
        """Waits until each of them has handled something from now on."""
        before = {worker.pid: self.journal.by(worker.pid) for worker in workers}
        self.until(lambda: all(self.journal.by(pid) > count for pid, count in before.items()))

    def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        until(condition, patience=patience, why=self.story)

    def story(self) -> str:
        """For a test that fails: how far it came, and the end of each worker's log."""
        ends = (f"--- {worker.log.name}, exit {worker.process.poll()}\n{worker.told()[-2000:]}" for worker in self.workers)
        return "\n".join([f"{len(self.journal.lines())} lines in the journal", *ends])

    def close(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.kill()


QUICK = "?session.timeout.ms=3000&heartbeat.interval.ms=300"
"""For tests of what happens after a session has ended, which takes 45 s with the client's own default."""


class KafkaStage(Stage):
    def __init__(self, kafka: KafkaContainer, folder: Path, *, partitions: int = 4, options: str = QUICK) -> None:
        """`options`: the query of the connection's URL."""
        self.kafka = kafka
        self.options = options
        self.bootstrap = kafka.bootstrap
        self.topic = kafka.topic("faults", partitions)
        self.group = f"group-of-{self.topic}"
        super().__init__(folder, f"kafka:{self.topic}")

    def environ(self) -> dict[str, str]:
        return {
            "WORKER_CONNECTIONS__KAFKA": f"kafka://{self.bootstrap}{self.options}",
            "WORKER_HANDLERS__WRITE__GROUP": self.group,
        }

    def load(self, limit: int | None = None, pace: float = 0.01) -> Load:
        load = Load(self.kafka.bootstrap, self.topic, limit, pace)
        load.start()
        return load

    def settled(self) -> bool:
        """The group stands at the end of every partition that has records."""
        ends = {partition: end for partition, end in self.kafka.ends(self.topic).items() if end}
        committed = self.kafka.committed(self.group, self.topic)
        return all(committed.get(partition) == end for partition, end in ends.items())


class QueueStage(Stage):
    """A queue with `count` numbered records in it, of no key: one key of ActiveMQ is one consumer's."""

    def __init__(self, broker: RabbitMQContainer | ActiveMQContainer, folder: Path, count: int, **queue: Any) -> None:
        """`queue`: what RabbitMQ's queue is declared with."""
        self.broker = broker
        self.name = "rabbitmq" if isinstance(broker, RabbitMQContainer) else "activemq"
        self.kind = queue.get("kind", self.name)
        self.queue = broker.queue("faults", **queue)
        self.produced = range(count)
        self.address = broker.address
        self.options = ""
        """The query of the connection's URL."""
        super().__init__(folder, f"{self.name}:{self.queue}")
        broker.produce(self.queue, [b"%d" % number for number in self.produced])

    def environ(self) -> dict[str, str]:
        url = self.broker.url.replace(self.broker.address, self.address)
        return {f"WORKER_CONNECTIONS__{self.name.upper()}": url + self.options}

    def settled(self) -> bool:
        """The queue is empty, also of what was in hands that are gone."""
        return self.broker.read(self.queue) == []
