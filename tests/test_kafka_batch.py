"""One poll of the client, cut into batches of one partition each, and how partitions are told."""

from __future__ import annotations

from confluent_kafka import Message

from worker.connectors.kafka_batch import KafkaBatch, split
from worker.connectors.kafka_start import spans
from worker.interface import Partition


def message(partition: int, offset: int, topic: str = "orders") -> Message:
    return Message(topic=topic, partition=partition, offset=offset, value=b"v")


def shape(batches: list[KafkaBatch]) -> dict[Partition, list[int | None]]:
    assert len({batch.partition for batch in batches}) == len(batches)
    return {batch.partition: [m.offset() for m in batch.native] for batch in batches}


def test_one_poll_is_cut_into_partitions_in_the_order_delivered() -> None:
    mixed = [message(i % 3, i) for i in range(12)]
    assert shape(split(mixed, "orders")) == {
        Partition("orders", 0): [0, 3, 6, 9],
        Partition("orders", 1): [1, 4, 7, 10],
        Partition("orders", 2): [2, 5, 8, 11],
    }
    assert shape(split([message(2, i) for i in range(3)], "orders")) == {Partition("orders", 2): [0, 1, 2]}


def test_one_poll_of_several_topics_keeps_them_apart() -> None:
    mixed = [message(0, i, "ab"[i % 2]) for i in range(6)]
    assert shape(split(mixed, None)) == {Partition("a", 0): [0, 2, 4], Partition("b", 0): [1, 3, 5]}


def test_partitions_in_few_words() -> None:
    assert spans([Partition("b", 7), *(Partition("a", i) for i in (3, 0, 1, 2, 9))]) == "a[0..3,9], b[7]"
