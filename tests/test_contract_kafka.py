"""Kafka keeps the contract: embedded, and a real broker with every way of sharing out partitions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest
from confluent_kafka import Producer

from tests.contract import Broker, Contract, Header, Member, letter, numbers, values
from worker.connectors import kafka as connector
from worker.interface import Connection, Partition, Record, Sink, SinkOptions, Source, SourceOptions
from worker.testing import EmbeddedKafka, KafkaContainer


class KafkaBroker:
    def __init__(self, kafka: EmbeddedKafka | KafkaContainer, options: dict[str, str]) -> None:
        self.kafka = kafka
        self.connection = Connection("kafka", "kafka", kafka.url.removeprefix("kafka://"), options=options)

    def stream(self) -> str:
        return self.kafka.topic("contract")

    def put(
        self,
        stream: str,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        self.kafka.produce(stream, values, key=key, partition=partition, headers=headers, timestamp=timestamp or 0)

    def source(self, stream: str, group: str) -> Source:
        return connector.source(SourceOptions(self.connection, (stream,), group))

    def sink(self, stream: str) -> Sink:
        return connector.sink(SinkOptions(self.connection, stream, timeout=20))

    def read(self, stream: str) -> list[Record[bytes]]:
        return self.kafka.read(stream)


class TestEmbeddedKafka(Contract):
    # It refuses commits while a group rebalances.
    test_partitions_move_to_a_member_that_joins = None  # type: ignore[assignment]
    test_two_members_together_miss_nothing = None  # type: ignore[assignment]
    checks_destination = False

    @pytest.fixture
    def broker(self, embedded: EmbeddedKafka) -> Broker:
        return KafkaBroker(embedded, {})


class TestKafka(Contract):
    options: ClassVar[dict[str, str]] = {"heartbeat.interval.ms": "300"}

    @pytest.fixture
    def broker(self, kafka: KafkaContainer) -> Broker:
        return KafkaBroker(kafka, self.options)

    def test_the_letter_of_an_old_record_is_young(self, broker: Broker, stream: str) -> None:
        """Retention counts from its timestamp: with the record's, it would be gone at once."""
        old = Record(b"value", b"key", (), 1_000_000_000_000, 1, Partition(stream, 0))
        with contextlib.closing(broker.sink(stream)) as sink:
            sink.open()
            sink.publish([letter(old)])
        [found] = broker.read(stream)
        assert found.timestamp is not None and abs(time.time() - found.timestamp / 1000) < 60


class TestKafkaConsumerProtocol(TestKafka):
    """KIP-848: the broker shares out."""

    options: ClassVar[dict[str, str]] = {"group.protocol": "consumer"}


class TestKafkaEager(TestKafka):
    """Every rebalance takes everything away first."""

    options: ClassVar[dict[str, str]] = {"partition.assignment.strategy": "range", "heartbeat.interval.ms": "300"}


class TestTransactions:
    """Aborted records are never seen, and their gaps and markers are no obstacle for positions."""

    @pytest.fixture
    def members(self, kafka: KafkaContainer) -> Iterator[Callable[[], Member]]:
        topic = kafka.topic("transactions", partitions=1)
        producer = Producer({**kafka.client, "transactional.id": topic})
        producer.init_transactions(30)
        for first, keep in ((0, True), (10, False), (20, True), (30, False)):
            producer.begin_transaction()
            for value in numbers(first, first + 10):
                producer.produce(topic, value)
            producer.flush(30)
            (producer.commit_transaction if keep else producer.abort_transaction)(30)
        broker, members = KafkaBroker(kafka, {}), []

        def join() -> Member:
            members.append(Member(broker.source(topic, f"group-of-{topic}")).open())
            return members[-1]

        yield join
        for member in members:
            member.source.close()

    def test_aborted_records_are_skipped(self, members: Callable[[], Member]) -> None:
        first = members()
        batches = first.receive(20)
        first.nothing_more()
        assert values(first.got) == [*numbers(10), *numbers(20, 30)]
        first.source.commit([batch.take(0) for batch in batches])
        first.source.close()
        members().nothing_more()

    def test_a_rewind_over_a_gap(self, members: Callable[[], Member]) -> None:
        member = members()
        batches = member.receive(20)
        whole = batches[0].join(batches[1:])
        member.source.commit([whole.take(0, 10)])
        member.source.rewind(whole.partition)
        member.receive(10)
        assert values(member.got[20:]) == numbers(20, 30)
