"""The process that is measured: `python -m benchmarks.measured '{"run": NAME, ...}'` prints one line of JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import ours
from benchmarks.broker import SIZE
from benchmarks.meter import memory, percentile
from benchmarks.peers.client import STAMP, Latency, Spec, unique
from benchmarks.peers.kafka import confluent

# Latency


def ours_latency(bootstrap: str, topic: str, seconds: float, **_: Any) -> dict[str, Any]:
    """Also from the client's return to the handler's entry, which only can be seen from inside."""
    ours.watch()
    work, inside = Latency(Spec(bootstrap, topic, "latency", seconds=seconds)), list[float]()

    def handle(values: list[bytes]) -> None:
        inside.append((time.perf_counter() - ours.Watched.returned) * 1e3)
        work.batch(values)

    worker = ours.worker(bootstrap, topic, handle, window=0, start="latest")
    work.on_done = worker.stop
    ours.run(worker)
    return work.result() | {"inside_p50_ms": percentile(inside, 50), "inside_p99_ms": percentile(inside, 99)}


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
        client = confluent.subscribed(Spec(bootstrap, topic, "idle", unique()))
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
        function.__name__: function for function in (*(ours_latency, trickle, ours_slow, ours_idle, bare_idle),)
    }
    print(json.dumps(runs[spec.pop("run")](**spec)), flush=True)


if __name__ == "__main__":
    main()
