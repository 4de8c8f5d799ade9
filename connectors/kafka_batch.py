"""Kafka's records as the client hands them over, and the cut of one poll into batches of one partition each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import call
from random import choice
from typing import Any

from confluent_kafka import Message

from worker.connectors.kafka_scan import by_partition
from worker.interface import Batch, Partition, Record, Unreadable, shown

_topic, _timestamp, _headers = Message.topic, Message.timestamp, Message.headers
_partition = lru_cache(maxsize=4096)(Partition)


class KafkaBatch(Batch):
    """Records of one topic-partition; `native` is a list of `confluent_kafka.Message`."""

    __slots__ = ("_size", "beside")

    native: Sequence[Message]

    def __init__(self, partition: Partition, native: Sequence[Message], attempt: int = 1, size: int | None = None) -> None:
        super().__init__(partition, native, attempt)
        self._size = size
        """Where it is known already."""
        self.beside = 0
        """Of a batch as it was polled: bytes of a record's key and headers, as far as one tells."""

    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self.native))

    def keys(self) -> list[bytes | None]:
        return list(map(Message.key, self.native))

    def timestamps(self) -> list[int | None]:
        return [time if kind and time >= 0 else None for kind, time in map(_timestamp, self.native)]

    def sizes(self) -> list[int]:
        return [len(message) + len(message.key() or b"") for message in self.native]

    def size(self) -> int:
        if self._size is None:
            self._size = sum(self.sizes())
        return self._size

    def record(self, index: int) -> Record[bytes]:
        message = self.native[index]
        kind, time = message.timestamp()
        return Record(
            message.value(),
            message.key(),
            headers_of(message),
            time if kind and time >= 0 else None,
            message.offset(),  # type: ignore[arg-type]
            self.partition,
        )


def headers_of(message: Message) -> Sequence[tuple[str, bytes | None]]:
    try:
        # Not message.headers(): the interpreter's short way to that does not look for an error beside a result.
        found: Any = call(_headers, message)
    except (UnicodeDecodeError, SystemError):
        # The client leaves a list with holes behind, and a second look at it would end the process.
        found = Unreadable("a name is not UTF-8")
        message.set_headers(found)
    return found if type(found) is Unreadable else tuple(found or ())


def weight(message: Message) -> int:
    """The bytes of value, key and headers; looking at those costs more than all the rest."""
    headers = shown(headers_of(message))
    return len(message) + len(message.key() or b"") + sum(len(name) + len(value or b"") for name, value in headers)


def partition_of(message: Message) -> Partition:
    return _partition(message.topic(), message.partition())


def split(messages: list[Message], topic: str | None) -> list[KafkaBatch] | None:
    """One batch per partition, each in the order delivered; None: one of them is an error. `topic`: all of them are of it."""
    found = by_partition(messages)
    if found is None:
        return None
    if topic is not None:
        return [_polled(_partition(topic, number), native, size) for number, native, size in found]
    return [batch for number, native, size in found for batch in _by_topic(number, native, size)]


def _polled(partition: Partition, messages: list[Message], size: int) -> KafkaBatch:
    """`size`: of values and keys. Headers take memory too, and looking at all is slow: one, by chance, stands for them."""
    one = choice(messages)
    beside = weight(one) - len(one)
    made = KafkaBatch(partition, messages, size=size + (beside - len(one.key() or b"")) * len(messages))
    made.beside = beside
    return made


def _by_topic(number: int, messages: list[Message], size: int) -> list[KafkaBatch]:
    topics: list[str] = list(map(_topic, messages))  # type: ignore[arg-type]
    if topics.count(topics[0]) == len(topics):  # the client delivers in runs
        return [_polled(_partition(topics[0], number), messages, size)]
    by_topic: dict[str, list[Message]] = {}
    for topic, message in zip(topics, messages, strict=True):
        by_topic.setdefault(topic, []).append(message)
    return [KafkaBatch(_partition(topic, number), native) for topic, native in by_topic.items()]
