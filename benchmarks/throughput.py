"""How much the worker costs at full speed, beside a bare loop that does the same with the records."""

from __future__ import annotations

from benchmarks.broker import Broker
from benchmarks.figures import Findings, Pair, Plan, Say, ratios
from benchmarks.peers import kafka_peers
from benchmarks.peers.client import Spec, unique
from benchmarks.peers.run import measure

WORKS = {
    "count": ("a handler that counts len(batch)", 0.95),
    "touch": ("a handler that touches every value", 0.95),
    "validate": ("list[Order], validated by pydantic; bare: model_validate_json of each", 1.0),
    "each": ("one record a call", 0.6),
}
"""What is said of each, and the share of the bare loop's rate that is asked for."""
CPU = 1.15
BARE = "throughput, of the bare loop's"


def run(broker: Broker, plan: Plan, found: Findings, say: Say) -> None:
    for work, (told, least) in WORKS.items():
        records = plan.orders if work == "validate" else plan.records
        topic = broker.filled(plan.records)
        pairs: list[Pair] = []
        for number in range(plan.pairs):
            ours, bare = (
                measure(peer, Spec(broker.bootstrap, topic, work, unique(), records=records))
                for peer in (kafka_peers.OURS, kafka_peers.BARE)
            )
            pairs.append((ours, bare))
            found.keep(f"throughput {work}", {"ours": ours, "bare": bare})
            say(
                f"{work} {number + 1}/{plan.pairs}: ours {ours['records_per_second']:,.0f}/s {ours['cpu_us_per_record']:.2f} us, "
                f"bare {bare['records_per_second']:,.0f}/s {bare['cpu_us_per_record']:.2f} us, "
                f"throughput {ours['records_per_second'] / bare['records_per_second']:.2f}, "
                f"CPU {ours['cpu_us_per_record'] / bare['cpu_us_per_record']:.2f} of the bare loop's"
            )
        for whose, runs in (("ours", [ours for ours, _ in pairs]), ("bare", [bare for _, bare in pairs])):
            found.add(told, f"records/s, {whose}", [one["records_per_second"] for one in runs])
            found.add(told, f"CPU s per million records, {whose}", [one["cpu_us_per_record"] for one in runs], "s")
            found.add(told, f"peak memory, {whose}", [one["peak_mib"] for one in runs], "MiB")
        found.add(told, BARE, ratios(pairs, "records_per_second"), at_least=least)
        target = {"at_most": CPU} if work in ("count", "touch") else {}
        found.add(told, "CPU, of the bare loop's", ratios(pairs, "cpu_us_per_record"), **target)
