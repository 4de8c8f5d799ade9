"""Kafka's records as the client hands them over, and the cut of one poll into batches of one partition each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from confluent_kafka import Message

from worker.interface import Batch, Partition, Record

_partition, _topic, _timestamp = Message.partition, Message.topic, Message.timestamp


class KafkaBatch(Batch):
    """Records of one topic-partition; `native` is a list of `confluent_kafka.Message`."""

    __slots__ = ("_size",)

    native: Sequence[Message]

    def __init__(self, partition: Partition, native: Sequence[Message], attempt: int = 1, size: int | None = None) -> None:
        super().__init__(partition, native, attempt)
        self._size = size
        """Where it is known already."""

    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self.native))

    def keys(self) -> list[bytes | None]:
        return list(map(Message.key, self.native))

    def timestamps(self) -> list[int | None]:
        return [time if kind else None for kind, time in map(_timestamp, self.native)]

    def sizes(self) -> list[int]:
        return list(map(len, self.native))

    def size(self) -> int:
        if self._size is None:
            self._size = sum(map(len, self.native))
        return self._size

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


def split(messages: list[Message], topic: str | None) -> list[KafkaBatch]:
    """One batch per partition, in the order delivered. `topic`: the only one they can be of, if there is only one.

    Sorting is stable and finds the runs in which the client delivers, so its cost hardly depends on how many there are.
    """
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
