"""Some messages of a queue are taken, and the others stay as they are: nobody writes them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from worker.interface import Batch, Record, Source

Meant = Callable[[Record[bytes]], bool]


class Picker(Protocol):
    """Over what a queue holds. A connector may have a function `picker(options, meant)` that makes one of its own."""

    @property
    def done(self) -> bool | None:
        """Everything was looked at; None: only silence tells."""

    def open(self) -> None: ...

    def poll(self, most: int, timeout: float) -> list[Batch]:
        """What is meant, at most `most`; also keeps the connection alive."""

    def commit(self, batch: Batch) -> None:
        """These are finished. What was polled and is not committed before the next poll stays."""

    def waiting(self) -> int | None:
        """How many the broker has not handed out, as far as it says."""

    def close(self) -> None:
        """Everything that is not committed is where it was."""


class Holding:
    """Fetches everything, and holds what is not meant until it closes: so each message comes once, in whatever order.

    What is held counts as unsettled, and a broker bounds that: when a consumer is full the next one gets the rest.
    """

    def __init__(self, make: Callable[[int], Source], meant: Meant, prefetch: int) -> None:
        self.done = None
        self._make = make
        self._meant = meant
        self._prefetch = prefetch
        self._sources: list[Source] = []
        self._held = 0
        """By the last of them."""
        self._worn: list[tuple[Source, list[Batch]]] = []

    def open(self) -> None:
        self._add()

    def _add(self) -> None:
        self._held = 0
        self._sources.append(self._make(self._prefetch))
        self._sources[-1].open(lambda partitions, *, lost: None)
        self._prefetch *= 2

    def poll(self, most: int, timeout: float) -> list[Batch]:
        for full in self._sources[:-1]:
            full.poll(0, 0.0)
        source = self._sources[-1]
        if most and source.limit is not None and self._held >= source.limit:
            self._add()
            source = self._sources[-1]
        picked: list[Batch] = []
        for batch in source.poll(most, timeout):
            self._held += len(batch)
            chosen = [self._meant(record) for record in batch]
            picked.append(pick(batch, chosen))
            self._look_at_wear(source, pick(batch, [not one for one in chosen]))
        return [batch for batch in picked if len(batch)]

    def _look_at_wear(self, source: Source, held: Batch) -> None:
        """A queue may drop what came back too often; its source then knows how to renew it."""
        worn: Callable[[Batch], list[Batch]] | None = getattr(source, "worn", None)
        if worn is not None and len(held) and (found := worn(held)):
            self._worn.append((source, found))

    def commit(self, batch: Batch) -> None:
        self._held -= len(batch)
        if len(batch):
            self._sources[-1].commit([batch])
        self._sources[-1].poll(0, 0.0)  # now: a kill repeats what the broker does not know of

    def waiting(self) -> int | None:
        ask: Callable[[], int] | None = getattr(self._sources[-1], "waiting", None)
        return None if ask is None else ask()

    def close(self) -> None:
        try:
            for source, worn in self._worn:
                source.renew(worn)  # type: ignore[attr-defined]
        finally:
            for source in self._sources:
                source.close()


def pick(batch: Batch, chosen: Sequence[bool]) -> Batch:
    return batch.pick([index for index, one in enumerate(chosen) if one])
