"""What the worker adds to the way of a record, with `window=0` and 200 records/s, beside a bare `poll()` loop."""

from __future__ import annotations

from benchmarks import process
from benchmarks.broker import Broker
from benchmarks.figures import Findings, Pair, Plan, Say
from benchmarks.peers.client import Spec, unique
from benchmarks.peers.kafka_peers import BARE
from benchmarks.peers.run import measure

CASE = "window=0, 200 records/s"
RATE = 200


def run(broker: Broker, plan: Plan, found: Findings, say: Say) -> None:
    topic = broker.topic("trickle")
    producer = process.start("trickle", bootstrap=broker.bootstrap, topic=topic, rate=RATE)
    try:
        pairs: list[Pair] = []
        for number in range(plan.latency_pairs):
            spec = Spec(broker.bootstrap, topic, "latency", unique(), start="latest", seconds=plan.latency_seconds)
            ours = process.measure("ours_latency", bootstrap=broker.bootstrap, topic=topic, seconds=plan.latency_seconds)
            bare = measure(BARE, spec)
            pairs.append((ours, bare))
            found.keep("latency", {"ours": ours, "bare": bare})
            say(
                f"latency {number + 1}/{plan.latency_pairs}: "
                + ", ".join(
                    f"{whose} p50 {one['p50_ms']:.2f} p99 {one['p99_ms']:.2f} ms"
                    for whose, one in (("ours", ours), ("bare", bare))
                )
                + f", inside p99 {ours['inside_p99_ms']:.3f} ms"
            )
    finally:
        process.result(producer)
    found.add(CASE, "client's return to handler's entry, p50", [ours["inside_p50_ms"] for ours, _ in pairs], "ms")
    found.add(CASE, "client's return to handler's entry, p99", [ours["inside_p99_ms"] for ours, _ in pairs], "ms", at_most=0.3)
    for percent in ("p50", "p99"):
        for whose, runs in (("ours", [ours for ours, _ in pairs]), ("bare poll()", [bare for _, bare in pairs])):
            found.add(CASE, f"end to end, {percent}, {whose}", [one[f"{percent}_ms"] for one in runs], "ms")
    beyond = [ours["p50_ms"] - bare["p50_ms"] for ours, bare in pairs]
    found.add(CASE, "end to end, p50, beyond the bare loop's", beyond, "ms", at_most=0.3)
