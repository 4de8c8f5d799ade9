"""What must be known of the messages of a poll before anything else: in C where that was compiled, else the same in Python."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Message

Scanned = list[tuple[int, list[Message], int]] | None
_error, _partition = Message.error, Message.partition


def pure(messages: list[Message]) -> Scanned:
    """For each partition that there are messages of: its number, its messages, and how many bytes their values have. None: one of
    them is an error."""
    if next(filter(_error, messages), None) is not None:
        return None
    numbers = list(map(_partition, messages))
    if len(set(numbers)) == 1:  # nearly always
        return [(numbers[0], messages, sum(map(len, messages)))]  # type: ignore[list-item]
    found: dict[int, list[Message]] = {}
    for number, message in zip(numbers, messages, strict=True):
        found.setdefault(number, []).append(message)  # type: ignore[arg-type]
    return [(number, native, sum(map(len, native))) for number, native in found.items()]


scan: Callable[[list[Message]], Scanned]
try:
    from connectors._kafka_scan import prepare
    from connectors._kafka_scan import scan as compiled

    prepare(Message)
except (ImportError, TypeError):  # no compiler where it was installed, or a client that is made in another way
    scan = pure
else:
    scan = compiled
