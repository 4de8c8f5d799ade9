"""The broker all runs read from, and the topics in it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.orders import orders
from benchmarks.peers.client import unique

PARTITIONS = 4
SIZE = 200
"""Bytes of a value."""
RUN = 1_000
"""Records in a row of one partition."""
READY = 30.0
KEYS = 64
Inside = Callable[[list[str]], tuple[int, str]]


class Broker:
    def __init__(self, bootstrap: str, say: Callable[[str], None], inside: Inside | None = None) -> None:
        self.bootstrap = bootstrap
        self.inside = inside
        """Runs a command where the broker is, if that can be done."""
        self._say = say
        # Its calls raise; its log has a line for each deleted topic, and many when the broker is stopped.
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
        self._filled: dict[tuple[int, int, str, int, bool], str] = {}
        self._topics: set[str] = set()

    def topic(self, name: str, partitions: int = PARTITIONS) -> str:
        topic = f"{unique()}-{name}"
        self._admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
        deadline = time.monotonic() + READY
        while len(self._admin.list_topics(topic, timeout=10).topics[topic].partitions) < partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {topic} has no partitions after {READY:.0f} s")
            time.sleep(0.05)
        self._topics.add(topic)
        return topic

    def filled(
        self, records: int, size: int = SIZE, codec: str = "none", partitions: int = PARTITIONS, keyed: bool = False
    ) -> str:
        """A topic with at least `records` orders of `size` bytes; the same one for all that ask for the same."""
        asked = (records, size, codec, partitions, keyed)
        if asked not in self._filled:
            began = time.monotonic()
            topic = self.topic(f"{size}-{codec}-{partitions}", partitions)
            # More than are read: the batches at the ends of the partitions would wait for their window.
            self._fill(topic, records + max(500 * partitions, records // 50), size, codec, partitions, keyed)
            self._filled[asked] = topic
            self._say(f"filled {topic} with {records:,} records of {size} B in {time.monotonic() - began:.0f} s")
        return self._filled[asked]

    def _fill(self, topic: str, records: int, size: int, codec: str, partitions: int, keyed: bool) -> None:
        more = {"linger.ms": 20, "queue.buffering.max.messages": 1_000_000, "acks": "all", "compression.type": codec}
        producer = Producer({"bootstrap.servers": self.bootstrap, **more})
        source = orders(size)
        run = min(RUN, max(1, records // partitions))
        for part in range(0, records, run):
            partition = part // run % partitions
            for number, value in enumerate(itertools.islice(source, run)):
                key = b"%d" % (number % KEYS) if keyed else None
                try:
                    producer.produce(topic, value, key, partition)
                except BufferError:
                    producer.poll(0.2)
                    producer.produce(topic, value, key, partition)
            producer.poll(0)
        if unsent := producer.flush(120):
            raise TimeoutError(f"{unsent} records for {topic} are not confirmed")
        self._check(topic, records, partitions)

    def _check(self, topic: str, records: int, partitions: int) -> None:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "bench-watermarks"})
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        found = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.close()
        if found < records:
            raise RuntimeError(f"{topic} holds {found} records instead of {records}")

    def delete(self, topic: str) -> None:
        """Makes room on the disk."""
        self._filled = {asked: name for asked, name in self._filled.items() if name != topic}
        self._topics.discard(topic)
        with suppress(KafkaException):
            self._admin.delete_topics([topic])[topic].result(30)

    def clean(self) -> None:
        if not self._topics:
            return
        with suppress(KafkaException):
            for future in self._admin.delete_topics(sorted(self._topics)).values():
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

        def inside(command: list[str]) -> tuple[int, str]:
            code, written = kafka.get_wrapped_container().exec_run(command)
            return code, written.decode(errors="replace")

        yield Broker(kafka.bootstrap, say, inside)
