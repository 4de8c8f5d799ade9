"""What must be known of the messages of a poll before anything else: in C where that was compiled, else the same in Python."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Message

_error, _partition = Message.error, Message.partition


def pure(messages: list[Message]) -> tuple[bool, int | None, int]:
    """Whether one of them is an error (then nothing else is looked at); the partition number of all, None if there are several;
    how many bytes their values have."""
    if next(filter(_error, messages), None) is not None:
        return True, None, 0
    numbers = set(map(_partition, messages))
    return False, numbers.pop() if len(numbers) == 1 else None, sum(map(len, messages))


scan: Callable[[list[Message]], tuple[bool, int | None, int]]
try:
    from connectors._kafka_scan import prepare
    from connectors._kafka_scan import scan as compiled

    prepare(Message)
except (ImportError, TypeError):  # no compiler where it was installed, or a client that is made in another way
    scan = pure
else:
    scan = compiled
