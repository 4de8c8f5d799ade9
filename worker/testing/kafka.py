"""What a test does to a Kafka, embedded or real: make a topic, write to it, read it back, ask for positions."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.connectors import kafka_embedded
from worker.connectors.kafka_batch import KafkaBatch, partition_of
from worker.interface import Record


class Silent:
    """A logger for clients whose complaints a test expects."""

    def log(self, *_: object) -> None: ...


class Kafka(ABC):
    """A cluster that tests can reach at `bootstrap`."""

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """`host:port`"""

    @property
    def url(self) -> str:
        """For `App(connections={"kafka": kafka.url})`."""
        return f"kafka://{self.bootstrap}"

    @property
    def client(self) -> dict[str, Any]:
        """What confluent-kafka must be told to reach it."""
        return {"bootstrap.servers": self.bootstrap}

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        *,
        key: bytes | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int = 0,
    ) -> None:
        """Writes `values` in order; returns once the broker has them all."""
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failures.append(error)

        producer = self._producer
        for value in values:
            place: dict[str, Any] = {"partition": partition} if partition >= 0 else {}
            producer.produce(topic, value, key, headers=list(headers), timestamp=timestamp, on_delivery=delivered, **place)
            producer.poll(0)
        if unsent := producer.flush(30):
            raise TimeoutError(f"{unsent} records for {topic} are not confirmed after 30 s")
        if failures:
            raise KafkaException(failures[0])

    @cached_property
    def _producer(self) -> Producer:
        """Kept, because an idempotent one takes half a second to start."""
        return Producer({**self.client, "enable.idempotence": True, "linger.ms": 2}, logger=Silent())

    def read(self, topic: str) -> list[Record[bytes]]:
        """All that is in `topic` now, partition by partition."""
        consumer = self._consumer("read")
        try:
            found = self._read(consumer, topic)
        finally:
            consumer.close()
        return sorted(found, key=lambda record: record.partition)

    def _read(self, consumer: Consumer, topic: str) -> list[Record[bytes]]:
        partitions = list(self._partitions(consumer, topic))
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found, open_partitions = [], set(partitions)
        while open_partitions:
            for message in consumer.consume(500, 0.1):
                error = message.error()
                if error is None:
                    found.append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
                else:
                    raise KafkaException(error)
        return found

    def ends(self, topic: str) -> dict[int, int]:
        """For each partition the offset that its next record will have."""
        consumer = self._consumer("ends")
        try:
            return {
                partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
                for partition in self._partitions(consumer, topic)
            }
        finally:
            consumer.close()

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The positions of a consumer group, without partitions where it has none."""
        consumer = self._consumer(group)
        try:
            places = [TopicPartition(topic, partition) for partition in self._partitions(consumer, topic)]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=10) if place.offset >= 0}
        finally:
            consumer.close()

    def _consumer(self, group: str) -> Consumer:
        """One that reads by itself: it never joins `group`."""
        ours = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
        return Consumer({**self.client, **ours}, logger=Silent())

    def _partitions(self, consumer: Consumer, topic: str) -> Iterable[int]:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)


class EmbeddedKafka(Kafka):
    """A Kafka inside this process, one for all its tests: nothing to install, and there in some milliseconds.

    >>> kafka = EmbeddedKafka()
    >>> topic = kafka.topic()
    >>> kafka.produce(topic, [b"1", b"2"], key=b"a", partition=0)
    >>> [record.value for record in kafka.read(topic)]
    [b'1', b'2']

    Every topic has 4 partitions, each of at most 5 MiB or 100,000 records: it drops what passes that without a word.
    """

    @property
    def bootstrap(self) -> str:
        return kafka_embedded.bootstrap()

    @property
    def url(self) -> str:
        """For `App(connections={"kafka": kafka.url})`; valid in this process only."""
        return f"kafka://{kafka_embedded.HOST}"

    def topic(self, name: str = "topic") -> str:
        """A new topic: `name` with something unique behind it."""
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        producer = Producer({**self.client, "allow.auto.create.topics": True}, logger=Silent())
        while producer.list_topics(unique, timeout=10).topics[unique].error is not None:
            pass
        return unique


def _record(message: Message) -> Record[bytes]:
    return KafkaBatch(partition_of(message), [message])[0]
