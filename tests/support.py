"""Small things that several tests need."""

from __future__ import annotations

from worker.interface import Batch, Partition, Record
from worker.work import Verdict


class PlainBatch(Batch):
    """`native` holds (value, key, timestamp, id)."""

    __slots__ = ()

    def values(self) -> list[bytes | None]:
        return [value for value, _, _, _ in self.native]

    def keys(self) -> list[bytes | None]:
        return [key for _, key, _, _ in self.native]

    def timestamps(self) -> list[int | None]:
        return [timestamp for _, _, timestamp, _ in self.native]

    def sizes(self) -> list[int]:
        return [len(value or b"") for value in self.values()]

    def record(self, index: int) -> Record[bytes]:
        value, key, timestamp, number = self.native[index]
        return Record(value, key, (), timestamp, number, self.partition)


def batch(*values: bytes | None, key: bytes | None = None, start: int = 0, timestamp: int | None = None) -> PlainBatch:
    """A batch of orders[0] whose ids count from `start`."""
    return PlainBatch(Partition("orders", 0), [(value, key, timestamp, start + i) for i, value in enumerate(values)])


def indices_of(verdict: Verdict) -> tuple[list[int], list[int], list[int]]:
    """Finished, again, given up."""
    again = [i for part in verdict.again for i in part.indices]
    return list(verdict.finished), again, [one.index for one in verdict.given_up]
