"""Records by value: what can be written to a file, or sent to another process."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from worker.interface import Batch, Record, Unreadable


class PlainBatch(Batch):
    """Records by value: `native` holds values, or the tuples of whole records."""

    __slots__ = ()

    def values(self) -> list[bytes | None]:
        return [one[0] for one in self.native] if self._whole else list(self.native)

    def keys(self) -> list[bytes | None]:
        return [record.key for record in self]

    def timestamps(self) -> list[int | None]:
        return [record.timestamp for record in self]

    def sizes(self) -> list[int]:
        return [len(value or b"") for value in self.values()]

    @property
    def _whole(self) -> bool:
        return len(self.native) > 0 and isinstance(self.native[0], tuple)

    def record(self, index: int) -> Record[bytes]:
        one = self.native[index]
        if not isinstance(one, tuple):
            return Record(one, None, (), None, index, self.partition)
        value, key, headers, timestamp, number, properties = one
        return Record(value, key, headers, timestamp, number, self.partition, properties)


def columns(batch: Batch, *, whole: bool = True) -> list[Any]:
    """What a `PlainBatch` holds; not `whole`: only the values."""
    if not whole:
        return batch.values()
    return [(r.value, r.key, _headers(r), r.timestamp, r.id, _plain(r.properties)) for r in batch]


def _headers(record: Record[bytes]) -> Any:
    return record.headers if type(record.headers) is Unreadable else tuple(record.headers)


def _plain(properties: Mapping[str, Any]) -> dict[str, Any]:
    try:
        pickle.dumps(properties)
    except Exception:  # whatever a client put there
        return {name: str(value) for name, value in properties.items()}
    return dict(properties)
