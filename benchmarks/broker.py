"""The broker all runs read from, and the topics in it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks import jobs

PARTITIONS = 4
RUN = 1_000
"""Records in a row of one partition."""
READY = 30.0


class Broker:
    def __init__(self, bootstrap: str, say: Callable[[str], None]) -> None:
        self.bootstrap = bootstrap
        self._say = say
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._topics: dict[tuple[str, int], str] = {}

    def version(self) -> str:
        return f"{self.bootstrap}, {len(self._admin.list_topics(timeout=10).brokers)} broker"

    def topic(self, name: str) -> str:
        topic = f"{jobs.unique()}-{name}"
        self._admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
        deadline = time.monotonic() + READY
        while len(self._admin.list_topics(topic, timeout=10).topics[topic].partitions) < PARTITIONS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {topic} has no partitions after {READY:.0f} s")
            time.sleep(0.05)
        self._topics[topic, -1] = topic
        return topic

    def filled(self, job: str, records: int) -> str:
        """A topic with at least `records` for a job; the same one for all that ask for as many."""
        key = ("orders" if job == "orders" else "bytes", records)
        if key not in self._topics:
            began = time.monotonic()
            topic = self.topic(key[0])
            # More than are read: the batches at the ends of the partitions would wait for their window.
            self._fill(topic, job, records + max(20_000, records // 50))
            self._topics[key] = topic
            self._say(f"filled {topic} with {records:,} records of {jobs.SIZE} B in {time.monotonic() - began:.0f} s")
        return self._topics[key]

    def _fill(self, topic: str, job: str, records: int) -> None:
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000, "acks": "all"}
        )
        source = jobs.values(job)
        for part in range(0, records, RUN):
            partition = part // RUN % PARTITIONS
            for value in itertools.islice(source, RUN):
                try:
                    producer.produce(topic, value, partition=partition)
                except BufferError:
                    producer.poll(0.2)
                    producer.produce(topic, value, partition=partition)
            producer.poll(0)
        if unsent := producer.flush(120):
            raise TimeoutError(f"{unsent} records for {topic} are not confirmed")
        self._check(topic, records)

    def _check(self, topic: str, records: int) -> None:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "bench-watermarks"})
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        found = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.close()
        if found < records:
            raise RuntimeError(f"{topic} holds {found} records instead of {records}")

    def clean(self) -> None:
        if not self._topics:
            return
        with suppress(KafkaException):
            for future in self._admin.delete_topics(sorted(set(self._topics.values()))).values():
                future.result(30)


@contextmanager
def running(bootstrap: str | None, say: Callable[[str], None]) -> Iterator[Broker]:
    """The one at `bootstrap`, else a container of our own."""
    if bootstrap is not None:
        broker = Broker(bootstrap, say)
        try:
            yield broker
        finally:
            broker.clean()
        return
    from worker.testing.containers import KafkaContainer

    say("starting Kafka in a container")
    with KafkaContainer() as kafka:
        yield Broker(kafka.bootstrap, say)
