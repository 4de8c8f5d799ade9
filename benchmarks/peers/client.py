"""What every peer is told, and what it is made to do with records: the same work for all, counted and timed the same way.

def run(spec: Spec, work: Work) -> None: ...   # reads until work.done, hands records to work.batch, count or one

if __name__ == "__main__":
    main(run)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.meter import Meter, percentile

BATCH = 500
STAMP = 20
"""Digits of the time of producing, in nanoseconds, that a record of the trickle begins with."""
GAP = 0.1
"""Seconds between two notes of how far it is."""
PAUSE = 0.005
"""Seconds that the work `wait` takes for each batch."""
SLOW = 0.05
"""Seconds that the work `slow` takes for each batch."""


@dataclass(frozen=True)
class Spec:
    """What a peer is told."""

    server: str
    """Kafka: host:port; queues: a URL."""
    topic: str
    work: str
    group: str = "bench"
    records: int = 0
    """It ends after so many; 0: on SIGTERM only."""
    start: str = "earliest"
    seconds: float = 0.0
    """Trickles end by time."""
    batch: int = BATCH
    options: dict[str, Any] | None = None
    """For ours: of the handler."""
    dead: str = ""
    """Where what fails goes."""


class Work:
    """What is done with records. `done` says that there is enough; `on_done` is called then, from inside the work."""

    counts = False
    """Only how many there are matters, so nobody need look at the values."""
    pause = 0.0
    """Seconds that each batch waits for something: those that are async await it."""

    def __init__(self, spec: Spec) -> None:
        self.done = False
        self.on_done: Callable[[], object] = lambda: None
        self._first = 0.0
        self._noted = 0.0
        self._progress: list[tuple[float, int]] = []
        self._meter = Meter(spec.records or sys.maxsize, self.stop)
        self._spec = spec

    def stop(self) -> None:
        self.done = True
        self.on_done()

    def count(self, number: int) -> None:
        """So many more are finished."""
        if not self._first:
            self._first = time.time()
            print("first", flush=True)  # who waits for it may begin
        self._meter.add(number)
        now = time.monotonic()
        if now - self._noted >= GAP:
            self._noted = now
            self._progress.append((now, self._meter.records))

    def take(self, messages: Sequence[Any], value: Callable[[Any], bytes]) -> None:
        """A batch of the client's own messages, whose values are only got at where the work looks at them."""
        if self.counts:
            self.count(len(messages))
        else:
            self.batch(list(map(value, messages)))

    def batch(self, values: Sequence[bytes]) -> None:
        self.use(values)
        self.count(len(values))

    def one(self, value: bytes) -> None:
        """For those that have no batches."""
        self.use((value,))
        self.count(1)

    def use(self, values: Sequence[bytes]) -> None:
        """The work itself."""

    def result(self) -> dict[str, Any]:
        told = self._meter.result() if self._meter.done else {}
        return told | {"first": self._first, "progress": self._progress}


class Count(Work):
    counts = True


class Touch(Work):
    def use(self, values: Sequence[bytes]) -> None:
        touched = 0
        for value in values:
            touched += len(value)


class Validate(Work):
    """Each value by itself, as a loop of one's own would."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        from benchmarks.orders import Order

        self._validate = Order.model_validate_json

    def use(self, values: Sequence[bytes]) -> None:
        validate = self._validate
        for value in values:
            validate(value)


class Parse(Work):
    def use(self, values: Sequence[bytes]) -> None:
        loads, total = json.loads, 0.0
        for value in values:
            total += loads(value)["total"]


class Wait(Count):
    pause = PAUSE


class Slow(Count):
    pause = SLOW


class Latency(Work):
    """From producing to the handler; the first second is not counted."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._delays: list[float] = []
        self._begin = self._end = 0

    def use(self, values: Sequence[bytes]) -> None:
        now = time.time_ns()
        if not self._begin:
            self._begin = now + 10**9
            self._end = self._begin + int(self._spec.seconds * 1e9)
        if now >= self._begin:
            self._delays += [(now - int(value[:STAMP])) / 1e6 for value in values]
        if now >= self._end and not self.done:
            self.stop()

    def result(self) -> dict[str, Any]:
        seen = self._delays
        return super().result() | {
            "seen": len(seen),
            "p50_ms": percentile(seen, 50),
            "p99_ms": percentile(seen, 99),
        }


class Gaps(Work):
    """The longest time without a record, after the first second."""

    counts = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._gap, self._last, self._begin = 0.0, 0.0, 0.0

    def count(self, number: int) -> None:
        super().count(number)
        now = time.monotonic()
        self._begin = self._begin or now
        if now > self._begin + 1:
            self._gap = max(self._gap, now - self._last)
        self._last = now
        if self._spec.seconds and now > self._begin + self._spec.seconds and not self.done:
            self.stop()

    def result(self) -> dict[str, Any]:
        return super().result() | {"gap_s": self._gap}


WORKS: dict[str, type[Work]] = {
    "count": Count,
    "touch": Touch,
    "validate": Validate,
    "parse": Parse,
    "wait": Wait,
    "wait_alone": Wait,
    "slow": Slow,
    "latency": Latency,
    "gaps": Gaps,
    "each": Work,
    "slow_key": Work,
    "fail": Work,
    "pass": Work,
}


def fails(value: bytes) -> bool:
    """Of the orders, one in a hundred, in every batch."""
    return b'99, "customer' in value[:24]


def unique() -> str:
    """For a consumer group that has read nothing yet."""
    return f"bench-{os.urandom(6).hex()}"


def stop_on_sigterm(work: Work) -> None:
    """For clients that are loops, not programs with signal handlers of their own."""
    signal.signal(signal.SIGTERM, lambda *_: work.stop())


def main(run: Callable[[Spec, Work], None]) -> None:
    """In the measured process: prints one line of JSON at the end."""
    spec = Spec(**json.loads(sys.argv[1]))
    work = WORKS[spec.work](spec)
    run(spec, work)
    print(json.dumps(work.result()), flush=True)
