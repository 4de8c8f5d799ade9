"""Joins what was polled of one partition into batches, until count, bytes or age says go."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from worker.interface import Batch


class _Part(NamedTuple):
    arrived: float
    batch: Batch
    records: int
    bytes: int


class Waiting:
    """Records of one partition that no handler has yet. Time is an argument."""

    def __init__(self, batch_size: int, window: float, max_bytes: int) -> None:
        self.batch_size = batch_size
        self.window = window
        self.max_bytes = max_bytes
        self.count = 0
        self.bytes = 0
        self._parts: deque[_Part] = deque()

    def add(self, batch: Batch, now: float) -> None:
        count, size = len(batch), batch.size()
        self._parts.append(_Part(now, batch, count, size))
        self.count += count
        self.bytes += size

    @property
    def arrived(self) -> float:
        """When the first of them came."""
        return self._parts[0].arrived

    @property
    def due(self) -> float:
        """When the window of the first of them ends."""
        return self._parts[0].arrived + self.window

    def full(self) -> bool:
        """A batch that waits longer would not get larger."""
        return self.count >= self.batch_size or self.bytes >= self.max_bytes

    def take(self, most: int) -> Batch:
        """At most `most` records and `max_bytes` of values, except one record that alone exceeds them: it goes alone."""
        part, most = self._parts[0], min(most, self.batch_size)
        if (part.records == most or part.records == self.count < most) and part.bytes <= self.max_bytes:
            self._parts.popleft()  # it came as the whole batch: nothing to join or to cut
            self.count -= part.records
            self.bytes -= part.bytes
            return part.batch
        return self._gather(most, self.max_bytes)

    def _gather(self, count: int, room: int) -> Batch:
        chosen: list[Batch] = []
        while self._parts and count:
            part = self._parts[0]
            if part.records <= count and part.bytes <= room:
                self._parts.popleft()
                chosen.append(part.batch)
                count -= part.records
                room -= part.bytes
            else:
                fits = self._fits(part.batch, count, room) or (0 if chosen else 1)
                if fits:
                    chosen.append(self._cut(part, fits))
                break
        batch = chosen[0] if len(chosen) == 1 else chosen[0].join(chosen[1:])
        self.count -= len(batch)
        self.bytes = sum(part.bytes for part in self._parts)
        return batch

    def _fits(self, batch: Batch, count: int, room: int) -> int:
        fits = 0
        for size in batch.take(0, count).sizes():
            room -= size
            if room < 0:
                break
            fits += 1
        return fits

    def _cut(self, part: _Part, count: int) -> Batch:
        if count == part.records:
            self._parts.popleft()
            return part.batch
        head, rest = part.batch.take(0, count), part.batch.take(count)
        self._parts[0] = _Part(part.arrived, rest, part.records - count, part.bytes - head.size())
        return head
