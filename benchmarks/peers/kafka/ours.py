"""This worker, as `worker run` makes it; all options at their defaults but those of the case."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import ours
from benchmarks.orders import Order
from benchmarks.peers.client import Spec, Work, fails, main
from worker import Batch, Reject
from worker.run import run_until_signal


def run(spec: Spec, work: Work) -> None:
    options: dict[str, Any] = {"batch_size": spec.batch, "group": spec.group, "start": spec.start, **(spec.options or {})}
    if spec.work in ("latency", "gaps"):
        options["window"] = 0
    if spec.dead:
        options["dead_letter"] = f"kafka:{spec.dead}"
    worker = ours.worker(spec.server, spec.topic, handler(spec, work), **options)
    work.on_done = worker.stop
    if code := run_until_signal(worker):
        raise SystemExit(code)


def handler(spec: Spec, work: Work) -> Callable[[Any], Any]:
    def count(batch: Batch) -> None:
        if work.pause:
            time.sleep(work.pause)
        work.count(len(batch))

    async def wait(batch: Batch) -> None:
        await asyncio.sleep(work.pause)
        work.count(len(batch))

    def values(values: list[bytes]) -> None:
        work.batch(values)

    def validate(orders: list[Order]) -> None:
        work.count(len(orders))

    def each(value: bytes) -> None:
        work.one(value)

    def slow_key(value: bytes) -> None:
        time.sleep(0.001)
        work.one(value)

    def passes(values: list[bytes]) -> None:
        any(fails(value) for value in values)
        work.count(len(values))

    def fail(values: list[bytes]) -> Mapping[int, Exception] | None:
        failed: dict[int, Exception] = {i: Reject("told to fail") for i, value in enumerate(values) if fails(value)}
        work.count(len(values))
        return failed or None

    named: dict[str, Callable[[Any], Any]] = {
        "validate": validate,
        "each": each,
        "wait": wait,
        "slow_key": slow_key,
        "fail": fail,
        "pass": passes,
    }
    return named.get(spec.work, count if work.counts else values)


if __name__ == "__main__":
    main(run)
