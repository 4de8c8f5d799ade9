"""What happens behind a handler that sleeps 2 s in each batch, and what a worker costs that has nothing to do."""

from __future__ import annotations

from typing import Any

from benchmarks import process
from benchmarks.broker import SIZE, Broker
from benchmarks.figures import Findings, Plan, Say

SLEEP = 2.0
WAITING = 1_000_000
BATCHES = (500, 5_000)
"""Records a batch: of 60 s small batches are less than the client fetches beforehand, so the ratio of bytes is that of the
larger ones; and nothing may be fetched twice in either."""
SETTLE = 5.0
MIB = 1024 * 1024


def run(broker: Broker, plan: Plan, found: Findings, say: Say) -> None:
    empty = broker.topic("empty")
    idle = _idle(broker, plan, found, say, empty)
    topic = broker.filled(max(WAITING, plan.records))
    say(f"a handler that sleeps {SLEEP:g} s a batch, for {plan.slow_seconds:g} s")
    for batch_size in BATCHES:
        seen = process.measure(
            "ours_slow",
            bootstrap=broker.bootstrap,
            topic=topic,
            batch_size=batch_size,
            sleep=SLEEP,
            seconds=plan.slow_seconds,
            size=SIZE,
        )
        found.keep(f"slow {batch_size}", seen)
        _figures(f"a handler that sleeps 2 s, {batch_size:,} records a batch", seen, idle, found, full=batch_size == BATCHES[-1])
        say(f"slow, batches of {batch_size}: longest gap {seen['longest_gap_ms']:.0f} ms, peak {seen['peak_mib']:.0f} MiB")


def _idle(broker: Broker, plan: Plan, found: Findings, say: Say, topic: str) -> dict[str, Any]:
    say(f"an idle worker and an idle client, {plan.idle_seconds:g} s each")
    ours, bare = (
        process.measure(run, bootstrap=broker.bootstrap, topic=topic, seconds=plan.idle_seconds, settle=SETTLE)
        for run in ("ours_idle", "bare_idle")
    )
    found.keep("idle", {"ours": ours, "bare": bare})
    found.add("idle", "CPU of a core", ours["cpu_percent"], "%", at_most=1.0)
    found.add("idle", "CPU of a core, bare poll(1.0)", bare["cpu_percent"], "%")
    found.add("idle", "memory", ours["memory_mib"], "MiB")
    found.add("idle", "memory, bare", bare["memory_mib"], "MiB")
    return ours


def _figures(case: str, seen: dict[str, Any], idle: dict[str, Any], found: Findings, *, full: bool) -> None:
    found.add(case, "longest gap between polls", seen["longest_gap_ms"], "ms", at_most=100)
    found.add(case, "bytes handled", seen["handled_bytes"] / MIB, "MiB")
    found.add(case, "bytes received", seen["received_bytes"] / MIB, "MiB")
    if full:
        found.add(case, "bytes received, of those handled", seen["received_bytes"] / seen["handled_bytes"], at_most=2)
    else:
        found.add(case, "bytes received, of those handled", seen["received_bytes"] / seen["handled_bytes"])
    found.add(case, "received, of what was fetched once", seen["received"] / max(1, seen["fetched"]))
    found.add(case, "peak memory over the idle worker", seen["peak_mib"] - idle["memory_mib"], "MiB", at_most=150)
    memory = seen["memory_mib"]
    third = max(1, len(memory) // 3)
    found.add(case, "memory: last third over the first (flat)", max(memory[-third:]) - max(memory[:third]), "MiB", at_most=5)
