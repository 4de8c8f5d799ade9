"""The messages of a poll by partition, unless one of them is an error: in C where that was compiled, else the same in Python."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Message

Scanned = list[tuple[int, list[Message], int]] | None
_error, _partition, _key = Message.error, Message.partition, Message.key


def pure(messages: list[Message]) -> Scanned:
    """For each partition that there are messages of: its number, its messages, and the bytes of their values and keys. None: one
    of them is an error."""
    if next(filter(_error, messages), None) is not None:
        return None
    numbers = list(map(_partition, messages))
    if len(set(numbers)) == 1:  # most often
        return [(numbers[0], messages, _bytes(messages))]  # type: ignore[list-item]
    found: dict[int, list[Message]] = {}
    for number, message in zip(numbers, messages, strict=True):
        found.setdefault(number, []).append(message)  # type: ignore[arg-type]
    return [(number, native, _bytes(native)) for number, native in found.items()]


def _bytes(messages: list[Message]) -> int:
    return sum(map(len, messages)) + sum(map(len, filter(None, map(_key, messages))))


by_partition: Callable[[list[Message]], Scanned]
try:
    from worker.connectors._kafka_scan import by_partition as compiled
    from worker.connectors._kafka_scan import prepare

    prepare(Message)
except (ImportError, TypeError):  # no compiler where it was installed, or a client that is made in another way
    by_partition = pure
else:
    by_partition = compiled
