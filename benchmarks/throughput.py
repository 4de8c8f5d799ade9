"""How much the worker costs at full speed, beside `consume(500)` that does the same with the records."""

from __future__ import annotations

from benchmarks import process
from benchmarks.broker import Broker
from benchmarks.figures import Findings, Pair, Plan, Say, ratios

JOBS = {
    "count": "a handler that counts len(batch)",
    "touch": "a handler that touches every value",
    "orders": "list[Order], validated by pydantic",
}


def run(broker: Broker, plan: Plan, found: Findings, say: Say) -> None:
    for job, told in JOBS.items():
        records = plan.orders if job == "orders" else plan.records
        topic = broker.filled(job, records)
        pairs: list[Pair] = []
        for number in range(plan.pairs):
            ours, bare = (
                process.measure(run, bootstrap=broker.bootstrap, topic=topic, job=job, records=records)
                for run in ("ours_throughput", "bare_throughput")
            )
            pairs.append((ours, bare))
            found.keep(f"throughput {job}", {"ours": ours, "bare": bare})
            say(
                f"{job} {number + 1}/{plan.pairs}: ours {ours['records_per_second']:,.0f}/s {ours['cpu_us_per_record']:.2f} us, "
                f"bare {bare['records_per_second']:,.0f}/s {bare['cpu_us_per_record']:.2f} us, "
                f"throughput {ours['records_per_second'] / bare['records_per_second']:.2f}, "
                f"CPU {ours['cpu_us_per_record'] / bare['cpu_us_per_record']:.2f} of the bare loop's"
            )
        _figures(told, job, pairs, found)


def _figures(told: str, job: str, pairs: list[Pair], found: Findings) -> None:
    for whose, runs in (("ours", [ours for ours, _ in pairs]), ("bare", [bare for _, bare in pairs])):
        found.add(told, f"records/s, {whose}", [one["records_per_second"] for one in runs])
        found.add(told, f"CPU s per million records, {whose}", [one["cpu_us_per_record"] for one in runs], "s")
        found.add(told, f"peak memory, {whose}", [one["peak_mib"] for one in runs], "MiB")
    found.add(told, "throughput, of the bare loop's", ratios(pairs, "records_per_second"), at_least=0.90)
    cpu = ratios(pairs, "cpu_us_per_record")
    if job == "orders":
        found.add(told, "CPU, of the bare loop's", cpu)
    else:
        found.add(told, "CPU, of the bare loop's", cpu, at_most=1.25)
