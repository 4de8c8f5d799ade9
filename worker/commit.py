"""What may be committed: the finished prefix in the order delivered, where a position moves; else each record alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from worker.interface import Batch


class Position(Protocol):
    """Numbers records in the order delivered and says which of them the source may be told about."""

    open: int
    """Records delivered and not finished, or behind one that is not."""

    def deliver(self, batch: Batch) -> range: ...

    def finish(self, numbers: Sequence[int], batch: Batch) -> list[Batch]:
        """`numbers` are finished, `batch` holds them; returns what is now to be committed, in the order delivered."""


class Prefix:
    """An ordered source's: arithmetic on offsets would skip records, as compaction and transactions leave gaps."""

    def __init__(self) -> None:
        self.open = 0
        self._held: deque[Batch] = deque()
        self._head = 0
        self._done: set[int] = set()

    def deliver(self, batch: Batch) -> range:
        start, size = self._head + self.open, len(batch)
        self._held.append(batch)
        self.open += size
        return range(start, start + size)

    def finish(self, numbers: Sequence[int], batch: Batch) -> list[Batch]:
        first, size = self._held[0], len(numbers)
        whole = size == len(first) and numbers[0] == self._head and numbers[-1] == self._head + size - 1
        if whole and not self._done:
            self._held.popleft()
            self._move(size)
            return [first]
        self._done.update(numbers)
        count = 0
        while self._head + count in self._done:
            self._done.remove(self._head + count)
            count += 1
        self._move(count)
        return self._release(count)

    def _move(self, count: int) -> None:
        self._head += count
        self.open -= count

    def _release(self, count: int) -> list[Batch]:
        released = []
        while count:
            first = self._held.popleft()
            if len(first) > count:
                self._held.appendleft(first.take(count))
                first = first.take(0, count)
            released.append(first)
            count -= len(first)
        return released


class Each:
    """A queue's: every record is settled alone, in any order."""

    def __init__(self) -> None:
        self.open = 0
        self._next = 0

    def deliver(self, batch: Batch) -> range:
        start = self._next
        self._next += len(batch)
        self.open += len(batch)
        return range(start, self._next)

    def finish(self, numbers: Sequence[int], batch: Batch) -> list[Batch]:
        self.open -= len(numbers)
        return [batch]
