"""The lane of one partition: what waits, what is in a handler's hands, what is tried again, and what may be committed."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from worker.batching import Waiting
from worker.commit import Each, Position, Prefix
from worker.interface import Batch, Partition
from worker.work import Again, Verdict

_order = itertools.count()


@dataclass(frozen=True)
class Shape:
    """What lanes need of a handler's options and of its source."""

    batch_size: int = 100
    window: float = 0.5
    max_bytes: int = 6 * 1024 * 1024
    parallel: int = 1
    ordered: bool = True
    """False: a failed record waits aside and the rest goes on."""
    positioned: bool = True
    """The source moves a position; else it settles each record alone."""
    limit: int | None = None
    """The source hands out no more than so many unsettled records."""
    rejects: bool = False
    """Records that are given up are left to the broker's own dead-letter policy."""

    @cached_property
    def room(self) -> int:
        """Records that may be delivered and unfinished at once."""
        if not self.ordered:
            return 4 * self.parallel * self.batch_size
        return self.batch_size if self.parallel == 1 else 2 * self.parallel * self.batch_size

    @cached_property
    def high(self) -> int:
        """Records that may wait before the partition is paused. A pause throws away what the client fetched, so it is rare."""
        return max(4 * self.batch_size, 2_000)


@dataclass(eq=False, slots=True)
class Work:
    """One batch for one call of the handler."""

    lane: Lane
    batch: Batch
    numbers: Sequence[int]
    """Of each record, as its lane's position numbered it."""
    arrived: float
    """When the first of them reached the worker."""
    slot: int = 0
    rest: int = 1
    """The attempt of every record but the first, which may have failed alone; `batch.attempt` is the first's."""
    due: float = 0.0
    probe: bool = False
    """After a flood: if this one becomes a dead letter as well, the handler stops."""


class Lane:
    """Ordered: `parallel` slots, each one batch at a time, every key always in the same slot. Else any slot takes any batch."""

    def __init__(self, partition: Partition, shape: Shape) -> None:
        self.partition = partition
        self.shape = shape
        self.waiting = Waiting(shape.batch_size, shape.window, shape.max_bytes)
        self.position: Position = Prefix() if shape.positioned else Each()
        self.busy: list[Work | None] = [None] * shape.parallel
        self.paused = False
        self.flush = False
        """Nothing more comes: what waits need not wait for more."""
        self.timer = math.inf
        """When the loop will look at it again."""
        self.closing = False
        """Nothing more is started, and a handler of one record begins no other: its partition is being given away."""
        self.gone = False
        """Its partition is somebody else's, or comes again from the start."""
        self.letters = 0
        """Where there is no order: works whose dead letters are on their way. In order the next one waits for them."""
        self._todo: list[deque[Work]] = [deque() for _ in range(shape.parallel)]
        self._aside: list[tuple[float, int, Work]] = []

    @property
    def idle(self) -> bool:
        return not self.letters and not any(self.busy)

    @property
    def empty(self) -> bool:
        """There is nothing that could be started."""
        return not (self.waiting.count or self._aside or any(self._todo))

    @property
    def over(self) -> bool:
        """More waits than is needed to go on."""
        return self.waiting.count >= self.shape.high or self.huge

    @property
    def huge(self) -> bool:
        """More waits than memory is meant for."""
        return self.waiting.bytes >= 2 * self.shape.max_bytes

    def stands_still(self, now: float, patience: float) -> bool:
        """What is unfinished, perhaps between its tries, keeps waiting what came after it."""
        return self.position.open > 0 and self.waiting.count > 0 and now - self.waiting.arrived > patience

    @property
    def supplied(self) -> bool:
        """The next batch need not be polled for."""
        return self.waiting.full()

    def start(self, now: float, most: int | None = None) -> Iterator[Work]:
        """What can be given to the handler now; `most` bounds the records taken (the probe after a flood)."""
        if self.closing:
            return
        for slot, work in enumerate(self.busy):
            if work is None and not self._todo[slot] and self._ready(now):
                self._deal(slot, min(most or self.shape.room, self.shape.room - self.position.open))
        for slot, work in enumerate(self.busy):
            if work is None and (work := self._next(slot, now)):
                self.busy[slot] = work
                yield work

    def probe(self, now: float) -> Work | None:
        """One record alone."""
        while (work := next(self.start(now, most=1), None)) is not None and len(work.batch) > 1:
            self.put_back(work)
        return work

    def _next(self, slot: int, now: float) -> Work | None:
        if self._aside and self._aside[0][0] <= now:
            again = heapq.heappop(self._aside)[2]
            again.slot = slot
            return again
        todo = self._todo[slot]
        return todo.popleft() if todo and todo[0].due <= now else None

    def _ready(self, now: float) -> bool:
        waiting, shape = self.waiting, self.shape
        if not waiting.count or self.position.open >= shape.room:
            return False
        if self.flush or waiting.full() or now >= waiting.due:
            return True
        return shape.limit is not None and waiting.count + self.position.open >= shape.limit

    def _deal(self, slot: int, most: int) -> None:
        """One batch for `slot`, or, in order with several slots, up to `most` records dealt by key."""
        shape = self.shape
        if shape.parallel == 1 or not shape.ordered:
            self._todo[slot].append(self._take(slot, most))
            return
        while self.waiting.count and most > 0:
            whole = self._take(slot, most)
            most -= len(whole.batch)
            by_slot: dict[int, list[int]] = {}
            for index, key in enumerate(whole.batch.keys()):
                by_slot.setdefault(0 if key is None else crc32(key) % shape.parallel, []).append(index)
            for number, indices in by_slot.items():
                self._append(number, _part(whole, indices, number))

    def _take(self, slot: int, most: int) -> Work:
        arrived = self.waiting.arrived
        batch = self.waiting.take(most)
        return Work(self, batch, self.position.deliver(batch), arrived, slot)

    def _append(self, slot: int, work: Work) -> None:
        """Behind what the slot has to do, in the same batch as the last of it where they fit together."""
        todo, shape = self._todo[slot], self.shape
        if todo and todo[-1].batch.attempt == 1 and todo[-1].due == 0.0:
            last = todo[-1]
            fits = len(last.batch) + len(work.batch) <= shape.batch_size
            if fits and last.batch.size() + work.batch.size() <= shape.max_bytes:
                todo[-1] = Work(self, last.batch.join([work.batch]), [*last.numbers, *work.numbers], last.arrived, slot)
                return
        todo.append(work)

    def settle(self, work: Work, verdict: Verdict, now: float) -> tuple[list[Batch], list[Batch]]:
        """Takes the result of one of its works; returns what may be committed, and what is to be rejected.

        A work with dead letters has not ended before they are durable (`published`); in order, its slot is busy until then.
        """
        if verdict.again:
            self._try_again(work, [self._again(work, part, now) for part in verdict.again])
        if verdict.letters and self.shape.ordered:
            return [], []
        self.busy[work.slot] = None
        if verdict.letters:
            self.letters += 1
            return [], []
        if self.shape.rejects:
            return self._finish(work, verdict.finished), self._finish(work, [one.index for one in verdict.given_up])
        return self._ended(work, verdict), []

    def published(self, work: Work, verdict: Verdict) -> list[Batch]:
        """The letters of one of its works are durable; returns what may be committed."""
        self.unpublished(work)
        return self._ended(work, verdict)

    def unpublished(self, work: Work) -> None:
        """The letters of one of its works could not be published: nothing of it has ended."""
        if self.shape.ordered:
            self.busy[work.slot] = None
        else:
            self.letters -= 1

    def _ended(self, work: Work, verdict: Verdict) -> list[Batch]:
        if not verdict.given_up:
            return self._finish(work, verdict.finished)
        return self._finish(work, sorted([*verdict.finished, *(one.index for one in verdict.given_up)]))

    def _finish(self, work: Work, ended: Sequence[int]) -> list[Batch]:
        if not ended:
            return []
        if len(ended) == len(work.numbers):
            return self.position.finish(work.numbers, work.batch)
        return self.position.finish([work.numbers[i] for i in ended], work.batch.pick(ended))

    def _try_again(self, work: Work, parts: Sequence[Work]) -> None:
        if self.shape.ordered:
            self._todo[work.slot].extendleft(reversed(parts))
        else:
            for part in parts:
                heapq.heappush(self._aside, (part.due, next(_order), part))

    def _again(self, work: Work, part: Again, now: float) -> Work:
        again = _part(work, part.indices, work.slot)
        again.batch.attempt = part.attempt
        again.rest = part.rest
        again.due = now + part.wait
        return again

    def put_back(self, work: Work) -> None:
        """To be tried as if for the first time, its first record alone."""
        self.busy[work.slot] = None
        parts = [_part(work, indices, work.slot) for indices in ([0], range(1, len(work.batch))) if indices]
        for part in parts:
            part.batch.attempt = 1
        self._try_again(work, parts)

    def drop(self, work: Work) -> None:
        """It was given out, but no handler has begun with it, and none will."""
        self.busy[work.slot] = None

    def wake_at(self) -> float:
        """When there may be something to start, if nothing else happens."""
        if None not in self.busy:
            return math.inf
        at = self._aside[0][0] if self._aside else math.inf
        for slot, todo in enumerate(self._todo):
            if todo and self.busy[slot] is None:
                at = min(at, todo[0].due)
        if self.waiting.count and self.position.open < self.shape.room:
            at = min(at, self.waiting.due)
        return at


def _part(work: Work, indices: Sequence[int], slot: int) -> Work:
    if len(indices) == len(work.batch):
        batch = work.batch.take(0)
        return Work(work.lane, batch, work.numbers, work.arrived, slot)
    return Work(work.lane, work.batch.pick(indices), [work.numbers[i] for i in indices], work.arrived, slot)
