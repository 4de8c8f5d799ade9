"""Kafka's records as the client hands them over, and the cut of one poll into batches of one partition each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from confluent_kafka import Message

from worker.interface import Batch, Partition, Record

_error, _partition, _topic, _timestamp = Message.error, Message.partition, Message.topic, Message.timestamp


class KafkaBatch(Batch):
    """Records of one topic-partition; `native` is a list of `confluent_kafka.Message`."""

    __slots__ = ()

    native: Sequence[Message]

    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self.native))

    def keys(self) -> list[bytes | None]:
        return list(map(Message.key, self.native))

    def timestamps(self) -> list[int | None]:
        return [time if kind else None for kind, time in map(_timestamp, self.native)]

    def sizes(self) -> list[int]:
        return list(map(len, self.native))

    def size(self) -> int:
        return sum(map(len, self.native))

    def record(self, index: int) -> Record[bytes]:
        message = self.native[index]
        kind, time = message.timestamp()
        return Record(
            message.value(),
            message.key(),
            tuple(message.headers() or ()),  # type: ignore[arg-type]
            time if kind else None,
            message.offset(),  # type: ignore[arg-type]
            self.partition,
        )


def partition_of(message: Message) -> Partition:
    return Partition(message.topic(), message.partition())  # type: ignore[arg-type]


def errors(messages: Sequence[Message]) -> bool:
    """Whether any of them is an error instead of a record."""
    return next(filter(_error, messages), None) is not None


def split(messages: list[Message], topic: str | None) -> list[KafkaBatch]:
    """One batch per partition, in the order delivered. `topic`: the only one they can be of, if there is only one.

    Sorting is stable and finds the runs in which the client delivers, so its cost hardly depends on how many there are.
    """
    if topic is not None and len(ids := set(map(_partition, messages))) == 1:
        return [KafkaBatch(Partition(topic, ids.pop()), messages)]  # type: ignore[arg-type]
    ordered = sorted(messages, key=_partition)  # type: ignore[arg-type]
    if topic is None:
        ordered.sort(key=_topic)  # type: ignore[arg-type]
    places: list[tuple[str, int]] = list(zip(map(_topic, ordered), map(_partition, ordered), strict=True))  # type: ignore[arg-type]
    batches: list[KafkaBatch] = []
    start = 0
    while start < len(places):
        stop = bisect_right(places, places[start], start)
        batches.append(KafkaBatch(Partition(*places[start]), ordered[start:stop]))
        start = stop
    return batches
