"""The client without us, at its best."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Message

from benchmarks.peers.client import unique

BEST = {"fetch.queue.backoff.ms": 5}
"""Everything else as librdkafka has it: larger and smaller queues (`queued.max.messages.kbytes`) were not faster."""
COMMIT = 1.0
"""Seconds between two commits, as our default."""


def consumer(bootstrap: str, topic: str, start: str = "earliest", **config: Any) -> Consumer:
    made = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": unique(),
            "auto.offset.reset": start,
            "enable.auto.commit": False,
            **BEST,
            **config,
        }
    )
    made.subscribe([topic])
    return made


def poll(client: Consumer, use: Callable[[Message], None], done: Callable[[], bool]) -> None:
    """`poll()`: the quickest to hand over one record."""
    committed = time.monotonic()
    while not done():
        message = client.poll(0.1)
        if message is not None:
            use(message)
        if (now := time.monotonic()) - committed >= COMMIT and message is not None:
            committed = now
            client.commit(asynchronous=True)
