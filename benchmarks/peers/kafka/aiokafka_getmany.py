"""aiokafka: `getmany`, which is its batch; `getone` where delay counts."""

from __future__ import annotations

import asyncio
import time
from operator import attrgetter

from aiokafka import AIOKafkaConsumer

from benchmarks.peers.client import Spec, Work, main, stop_on_sigterm

COMMIT = 1.0


async def consume(spec: Spec, work: Work) -> None:
    consumer = AIOKafkaConsumer(
        spec.topic,
        bootstrap_servers=spec.server,
        group_id=spec.group,
        auto_offset_reset=spec.start,
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    committed = time.monotonic()
    try:
        while not work.done:
            if spec.work == "latency":
                try:
                    work.one((await asyncio.wait_for(consumer.getone(), 1.0)).value)
                except TimeoutError:
                    continue
            else:
                for messages in (await consumer.getmany(timeout_ms=100, max_records=spec.batch)).values():
                    if work.pause:
                        await asyncio.sleep(work.pause)
                    work.take(messages, attrgetter("value"))
            if (now := time.monotonic()) - committed >= COMMIT:
                committed = now
                await consumer.commit()
    finally:
        await consumer.stop()


def run(spec: Spec, work: Work) -> None:
    stop_on_sigterm(work)
    asyncio.run(consume(spec, work))


if __name__ == "__main__":
    main(run)
