"""What is measured on Kafka."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import process
from benchmarks.broker import Broker
from benchmarks.peers import environments
from benchmarks.peers.client import Spec, unique
from benchmarks.peers.kafka_peers import AIOKAFKA, BARE, FASTSTREAM, OURS, PEERS
from benchmarks.peers.rounds import Measure, Table, play
from benchmarks.peers.run import Peer, Running, java, kcat, measure

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int = 5
    records: int = 2_000_000
    """Of the fastest; the others read fewer, for about as many seconds."""
    validated: int = 400_000
    together: int = 20_000_000
    """Of two processes, of which the second one takes seconds to get its partitions; one alone reads a fifth. 0: not at all."""
    messages: int = 50_000
    """Of queues."""
    waits: int = 20_000
    seconds: float = 4.0
    """Of a trickle."""
    peers: tuple[str, ...] = ()
    """Words of names; none: all."""

    def wanted(self, peer: Peer) -> bool:
        return not self.peers or any(word in peer.name for word in self.peers)


QUICK = Plan(rounds=1, records=50_000, validated=20_000, together=0, messages=2_000, waits=1_000, seconds=0.5)


def _runs(broker: Broker, topic: str, work: str, records: int, peers: list[Peer], **told: Any) -> dict[str, Measure]:
    def run(peer: Peer) -> Measure:
        many = max(10_000, min(records, records * peer.speed // 1_000_000)) if records else 0
        return lambda: measure(peer, Spec(broker.bootstrap, topic, work, unique(), records=many, **told))

    return {peer.name: run(peer) for peer in peers}


def _other_worlds(broker: Broker, topic: str, records: int) -> dict[str, Measure]:
    return {
        "kcat (C)": lambda: kcat(broker, topic, records),
        "Apache's Java consumer": lambda: java(broker, topic, records),
    }


def works(broker: Broker, plan: Plan, say: Say) -> Iterator[Table]:
    """The same work by everybody."""
    topic = broker.filled(plan.records)
    everybody = [peer for peer in PEERS if plan.wanted(peer)]
    for work, told, peers in (
        ("count", "Counting", everybody),
        ("touch", "Touching each value", [peer for peer in everybody if "defaults" not in peer.name]),
        ("validate", "Validating each record with pydantic", everybody),
        ("parse", "Parsing each value as JSON, adding up", [peer for peer in everybody if "defaults" not in peer.name]),
        ("each", "One record a call", [peer for peer in everybody if peer in (OURS, BARE)]),
    ):
        records = plan.validated if work in ("validate", "parse") else plan.records
        runs = _runs(broker, topic, work, records, peers)
        if work == "count" and not plan.peers:
            runs |= _other_worlds(broker, topic, plan.records)
        yield play(f"{told}, 200 B", runs, plan.rounds, say)


def shapes(broker: Broker, plan: Plan, say: Say) -> Iterator[Table]:
    """Sizes, compression and partitions, ours beside the bare loop."""
    for size in (200, 1024):
        for codec in ("none", "lz4"):
            for partitions in (1, 4, 64):
                records = plan.records * 200 // max(200, size // 2)
                topic = broker.filled(records, size, codec, partitions)
                title = f"Counting, {size:,} B, {'plain' if codec == 'none' else codec}, {partitions} partitions"
                large = (size, codec, partitions) == (1024, "none", 4)
                runs = _runs(broker, topic, "count", records, [OURS, BARE])
                if large and not plan.peers:
                    runs |= _other_worlds(broker, topic, records)
                yield play(title, runs, plan.rounds, say)
                if large:
                    title = title.replace("Counting", "Touching each value")
                    yield play(title, _runs(broker, topic, "touch", records, [OURS, BARE]), plan.rounds, say)
                if (size, codec, partitions) != (200, "none", 4):
                    broker.delete(topic)


def promises(broker: Broker, plan: Plan, say: Say) -> Iterator[Table]:
    """What only ours does, beside itself without it."""
    many = broker.filled(plan.waits * 8, partitions=16)

    def ours(work: str, records: int, topic: str, **told: Any) -> Measure:
        return lambda: measure(OURS, Spec(broker.bootstrap, topic, work, unique(), records=records, **told))

    small = {"batch_size": 100}
    runs = {
        "async, all partitions at once": ours("wait", plan.waits * 6, many, batch=100, options=small),
        "the same, one at a time": ours("wait_alone", plan.waits, many, batch=100, options=small),
    }
    yield play("A handler that awaits 5 ms a batch of 100, 16 partitions", runs, plan.rounds, say)
    keyed = broker.filled(plan.waits, partitions=1, keyed=True)
    runs = {
        "parallel=8": ours("slow_key", plan.waits // 2, keyed, options={"parallel": 8}),
        "parallel=1": ours("slow_key", plan.waits // 10, keyed),
    }
    yield play("A handler that waits 1 ms a record, one partition, order of keys kept", runs, plan.rounds, say)
    topic, dead = broker.filled(plan.records), broker.topic("dead")
    runs = {
        "ours, 1 % dead-lettered": ours("fail", plan.records, topic, dead=dead, options={"flood": 1.0}),
        "the same, concurrency=4": ours("fail", plan.records, topic, dead=dead, options={"flood": 1.0, "concurrency": 4}),
        "ours, nothing fails": ours("pass", plan.records, topic, dead=dead),
        "bare loop that produces them": lambda: measure(
            BARE, Spec(broker.bootstrap, topic, "fail", unique(), records=plan.records, dead=dead)
        ),
    }
    yield play("A handler that fails one record in a hundred", runs, plan.rounds, say)


def processes(broker: Broker, plan: Plan, say: Say) -> Iterator[Table]:
    """Two of one group beside one."""
    if not plan.together:
        return
    topic = broker.filled(plan.together)
    runs: dict[str, Measure] = {}
    for peer in (OURS, BARE):
        one = Spec(broker.bootstrap, topic, "validate", "", records=plan.together // 5)
        runs[f"{peer.name}, two processes"] = lambda peer=peer: _two(peer, broker, topic, plan.together)
        runs[f"{peer.name}, one process"] = lambda peer=peer, one=one: measure(peer, _again(one))
    yield play("Two processes of one group, validating", runs, plan.rounds, say)


def _again(spec: Spec) -> Spec:
    return Spec(**{**vars(spec), "group": unique()})


def _two(peer: Peer, broker: Broker, topic: str, records: int) -> dict[str, Any]:
    """While both are at work."""
    spec = Spec(broker.bootstrap, topic, "validate", unique(), records=records // 2)
    pair = [Running(peer, spec) for _ in range(2)]
    found = [one.result() for one in pair]
    begin = max(one["progress"][1][0] for one in found)
    end = min(one["progress"][-1][0] for one in found)
    if end - begin < 1.0:
        raise RuntimeError("the two were at work together for less than a second: it takes more records")
    done = sum(_at(one["progress"], end) - _at(one["progress"], begin) for one in found)
    return {
        "records_per_second": done / (end - begin),
        "cpu_us_per_record": sum(one["cpu_us_per_record"] for one in found) / 2,
        "peak_mib": sum(one["peak_mib"] for one in found),
    }


def _at(progress: list[tuple[float, int]], when: float) -> float:
    """How many there were then, between two notes."""
    for (t0, n0), (t1, n1) in itertools.pairwise(progress):
        if t0 <= when <= t1:
            return n0 + (n1 - n0) * (when - t0) / (t1 - t0)
    return progress[-1][1] if when > progress[-1][0] else progress[0][1]


@contextlib.contextmanager
def _trickle(broker: Broker, topic: str, rate: float) -> Iterator[None]:
    producer = process.start("trickle", bootstrap=broker.bootstrap, topic=topic, rate=rate)
    try:
        yield
    finally:
        process.result(producer)


MOST_TRICKLE = 50_000
"""Records a second; producer, broker and reader share two cores."""


def latencies(broker: Broker, plan: Plan, say: Say, fastest: dict[str, float]) -> Iterator[Table]:
    """From producing to the handler, `window=0`; `fastest`: what each reached when it counted."""
    peers = [peer for peer in PEERS if plan.wanted(peer) and "defaults" not in peer.name]
    told = ("p50_ms", "p99_ms")

    def run(peer: Peer, topic: str) -> Measure:
        return lambda: measure(peer, Spec(broker.bootstrap, topic, "latency", unique(), start="latest", seconds=plan.seconds))

    for rate in (200, 2_000):
        topic = broker.topic(f"trickle-{rate}")
        with _trickle(broker, topic, rate):
            runs = {peer.name: run(peer, topic) for peer in peers}
            yield play(f"Delay at {rate:,} records/s", runs, plan.rounds, say, "p50_ms", figures=told)
        broker.delete(topic)

    def half(peer: Peer) -> Measure:
        rate = min(MOST_TRICKLE, fastest.get(peer.name, 2 * MOST_TRICKLE) / 2)

        def measured() -> dict[str, Any]:
            topic = broker.topic("half")
            with _trickle(broker, topic, rate):
                found = run(peer, topic)()
            broker.delete(topic)
            assert found is not None
            return found | {"rate": rate}

        return measured

    runs = {peer.name: half(peer) for peer in peers}
    title = f"Delay at half of each one's own rate (at most {MOST_TRICKLE:,} records/s)"
    yield play(title, runs, plan.rounds, say, "p50_ms", figures=("rate", *told))


def lives(broker: Broker, plan: Plan, say: Say) -> Iterator[Table]:
    """How they stop, and what others see of one that comes and goes."""
    topic = broker.filled(plan.records)
    peers = [peer for peer in (OURS, BARE, AIOKAFKA, FASTSTREAM) if plan.wanted(peer)]

    def stop(peer: Peer) -> dict[str, Any]:
        running = Running(peer, Spec(broker.bootstrap, topic, "slow", unique()))
        running.first()
        time.sleep(2.0)
        return {"stop_s": running.stop()}

    runs: dict[str, Measure] = {peer.name: lambda peer=peer: stop(peer) for peer in peers}
    yield play("SIGTERM to the end, 50 ms a batch", runs, plan.rounds, say, "stop_s", figures=("stop_s",))

    def join_and_leave(peer: Peer) -> dict[str, Any]:
        group = unique()
        seconds = 6 + plan.seconds
        stays = Running(peer, Spec(broker.bootstrap, trickle, "gaps", group, start="latest", seconds=seconds))
        stays.first()
        time.sleep(2.0)
        comes = Running(peer, Spec(broker.bootstrap, trickle, "gaps", group, start="latest"))
        comes.first()
        time.sleep(1.0)
        comes.stop()
        return stays.result()

    trickle = broker.topic("rebalance")
    with _trickle(broker, trickle, 2_000):
        runs = {peer.name: lambda peer=peer: join_and_leave(peer) for peer in peers}
        title = "Longest time without a record for a member while another one joins and leaves, 2,000 records/s"
        yield play(title, runs, plan.rounds, say, "gap_s", figures=("gap_s",))
    imports = {name: run for name, run in _imports().items() if not plan.peers or any(word in name for word in plan.peers)}
    yield play("Import", imports, plan.rounds, say, "import_ms", figures=("import_ms",))


def _imports() -> dict[str, Measure]:
    def run(environment: str, module: str) -> Measure:
        code = f"import time; began = time.perf_counter(); import {module}; print(1e3 * (time.perf_counter() - began))"

        def measured() -> dict[str, Any]:
            command = [environments.python(environment), "-W", "ignore", "-c", code]
            return {"import_ms": float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)}

        return measured

    return {
        "ours": run("", "worker"),
        "confluent_kafka": run("", "confluent_kafka"),
        "aiokafka": run("aiokafka", "aiokafka"),
        "FastStream confluent, raw": run("faststream", "faststream.confluent"),
        "Quix Streams": run("quix", "quixstreams"),
        "Arroyo": run("arroyo", "arroyo.processing, arroyo.backends.kafka"),
        "Faust": run("faust", "faust"),
    }
