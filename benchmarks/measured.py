"""The process that is measured: `python -m benchmarks.measured '{"run": NAME, ...}'` prints one line of JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Message

from benchmarks import bare, ours
from benchmarks.broker import SIZE
from benchmarks.meter import memory, percentile
from benchmarks.peers.client import STAMP

# Latency


class Delays:
    """Of a trickle whose records tell when they were produced; what comes in the first second is not counted."""

    def __init__(self, seconds: float) -> None:
        self.end_to_end: list[float] = []
        self.inside: list[float] = []
        self._begin: float | None = None
        self._seconds = seconds

    def add(self, value: bytes, entered: int, inside: float | None = None) -> bool:
        """True once enough was seen."""
        if self._begin is None:
            self._begin = entered / 1e9 + 1.0
        if entered / 1e9 >= self._begin:
            self.end_to_end.append((entered - int(value[:STAMP])) / 1e6)
            if inside is not None:
                self.inside.append(inside * 1e3)
        return entered / 1e9 >= self._begin + self._seconds

    def result(self) -> dict[str, Any]:
        told: dict[str, Any] = {"records": len(self.end_to_end)}
        for name, seen in (("end_to_end_ms", self.end_to_end), ("inside_ms", self.inside)):
            if seen:
                told[name] = {"p50": percentile(seen, 50), "p99": percentile(seen, 99), "max": max(seen)}
        return told


def ours_latency(bootstrap: str, topic: str, seconds: float, **_: Any) -> dict[str, Any]:
    ours.watch()
    delays = Delays(seconds)

    def handle(values: list[bytes]) -> None:
        entered, inside = time.time_ns(), time.perf_counter() - ours.Watched.returned
        for value in values:
            if delays.add(value, entered, inside):
                worker.stop()

    worker = ours.worker(bootstrap, topic, handle, window=0, start="latest")
    ours.run(worker)
    return delays.result()


def bare_latency(bootstrap: str, topic: str, seconds: float, **_: Any) -> dict[str, Any]:
    delays = Delays(seconds)
    done = False

    def use(message: Message) -> None:
        nonlocal done
        if message.error() is None:
            done |= delays.add(message.value() or b"", time.time_ns())

    client = bare.consumer(bootstrap, topic, "latest")
    bare.poll(client, use, lambda: done)
    client.close()
    return delays.result()


def trickle(bootstrap: str, topic: str, rate: float, **_: Any) -> dict[str, Any]:
    """Produces until its standard input ends; not measured."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    number, began = 0, time.monotonic()
    while not ended.is_set():
        try:
            producer.produce(topic, str(time.time_ns()).encode().rjust(STAMP, b"0").ljust(SIZE), partition=number % 4)
            number += 1
        except BufferError:
            producer.poll(0.1)
        producer.poll(0)
        if (ahead := began + number / rate - time.monotonic()) > 0.0002:
            time.sleep(ahead)
    producer.flush(10)
    return {"records": number}


# A slow handler, and none to do


def ours_slow(bootstrap: str, topic: str, batch_size: int, sleep: float, seconds: float, size: int, **_: Any) -> dict[str, Any]:
    traffic = ours.Traffic()
    ours.watch(traffic)
    handled = 0
    memories: list[float] = []
    seen: dict[str, Any] = {}

    def handle(batch: list[bytes]) -> None:
        nonlocal handled
        if not handled:
            ours.Watched.longest_gap = 0.0
            threading.Thread(target=watch, daemon=True).start()
        time.sleep(sleep)
        handled += len(batch)

    def watch() -> None:
        for _ in range(round(seconds)):
            time.sleep(1.0)
            memories.append(memory())
        seen.update(
            handled=handled,
            handled_bytes=handled * size,
            received_bytes=traffic.bytes,
            received=traffic.records,
            fetched=traffic.fetched,
            longest_gap_ms=ours.Watched.longest_gap * 1e3,
            peak_mib=memory("VmHWM"),
            memory_mib=memories,
        )
        worker.stop(now=True)

    worker = ours.worker(bootstrap, topic, handle, batch_size=batch_size)
    ours.run(worker)
    return seen


def ours_idle(bootstrap: str, topic: str, seconds: float, settle: float, **_: Any) -> dict[str, Any]:
    return _idle(seconds, settle, lambda stop: _idle_worker(bootstrap, topic, stop))


def bare_idle(bootstrap: str, topic: str, seconds: float, settle: float, **_: Any) -> dict[str, Any]:
    """A client that nobody asks for anything more than `poll(1.0)`."""

    def begin(stop: threading.Event) -> None:
        client = bare.consumer(bootstrap, topic)
        while not stop.is_set():
            client.poll(1.0)
        client.close()

    return _idle(seconds, settle, begin)


def _idle_worker(bootstrap: str, topic: str, stop: threading.Event) -> None:
    worker = ours.worker(bootstrap, topic, lambda batch: None, batch_size=500)

    def wait() -> None:
        stop.wait()
        worker.stop()

    threading.Thread(target=wait, daemon=True).start()
    ours.run(worker)


def _idle(seconds: float, settle: float, run: Callable[[threading.Event], None]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    stop = threading.Event()

    def watch() -> None:
        time.sleep(settle)
        began = time.process_time()
        time.sleep(seconds)
        seen.update(cpu_percent=(time.process_time() - began) / seconds * 100, memory_mib=memory())
        stop.set()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    run(stop)
    watching.join()
    return seen


def main() -> None:
    spec = json.loads(sys.argv[1])
    runs: dict[str, Callable[..., dict[str, Any]]] = {
        function.__name__: function for function in (*(ours_latency, bare_latency, trickle, ours_slow, ours_idle, bare_idle),)
    }
    print(json.dumps(runs[spec.pop("run")](**spec)), flush=True)


if __name__ == "__main__":
    main()
