"""confluent-kafka's own loop, the ceiling: `consume(500)`, and `poll()` where delay counts. No look at `Message.error()`, which a
loop of one's own would need."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, Message, Producer

from benchmarks.peers.client import Spec, Work, fails, main, stop_on_sigterm

COMMIT = 1.0
"""Seconds between two commits."""


def subscribed(spec: Spec) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": spec.server,
            "group.id": spec.group,
            "auto.offset.reset": spec.start,
            "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "fetch.queue.backoff.ms": 5,  # twice as fast as with its default; larger queues were not faster
        }
    )
    consumer.subscribe([spec.topic])
    return consumer


def run(spec: Spec, work: Work) -> None:
    stop_on_sigterm(work)
    consumer = subscribed(spec)
    (by_one if spec.work == "latency" else fail if spec.work == "fail" else by_batch)(spec, consumer, work)
    consumer.close()


def by_batch(spec: Spec, consumer: Consumer, work: Work) -> None:
    committed = time.monotonic()
    each = spec.work == "each"
    while not work.done:
        messages = consumer.consume(spec.batch, 0.1)
        if not messages:
            continue
        if each:
            for message in messages:
                work.one(message.value())
        else:
            if work.pause:
                time.sleep(work.pause)
            work.take(messages, Message.value)
        if (now := time.monotonic()) - committed >= COMMIT:
            committed = now
            consumer.commit(asynchronous=True)


def by_one(spec: Spec, consumer: Consumer, work: Work) -> None:
    committed = time.monotonic()
    while not work.done:
        message = consumer.poll(0.1)
        if message is not None:
            work.one(message.value())
            if (now := time.monotonic()) - committed >= COMMIT:
                committed = now
                consumer.commit(asynchronous=True)


def fail(spec: Spec, consumer: Consumer, work: Work) -> None:
    """What fails is produced to another topic, and confirmed before the commit."""
    producer = Producer({"bootstrap.servers": spec.server, "acks": "all"})
    committed = time.monotonic()
    while not work.done:
        messages = consumer.consume(spec.batch, 0.1)
        for message in messages:
            if fails(value := message.value()):
                producer.produce(spec.dead, value, message.key(), headers=[("error", b"told to fail")])
        producer.poll(0)
        if messages:
            work.count(len(messages))
        if (now := time.monotonic()) - committed >= COMMIT and messages:
            committed = now
            producer.flush()
            consumer.commit(asynchronous=True)


if __name__ == "__main__":
    main(run)
