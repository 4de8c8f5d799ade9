"""One pass over the dead letters of a handler: those meant go back to their stream, or are thrown away; the others stay.

Publish, confirm, then commit, a batch at a time: killed in between, that batch comes again in the next pass. A log cannot
forget single records and a queue gives them in turn, so letters that are not meant are put back behind the others.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from worker.errors import Unavailable
from worker.interface import Batch, DeadLetter, Partition, Sink, SinkOptions
from worker.letters import BATCH, PASS, Letter, Selection, options
from worker.plugins import connector
from worker.settings import HandlerSettings

REDRIVES = 3
"""A record that became a dead letter again so often is not redriven without being asked for."""
QUIET = 2.0
"""Seconds without a letter after which there are no more."""
JOIN = 60.0
"""Seconds for the group to hand out its partitions."""


@dataclass
class Moved:
    """What a pass did so far."""

    redriven: Counter[str] = field(default_factory=Counter)
    """By stream."""
    discarded: int = 0
    exhausted: int = 0
    """Stay, as they were redriven too often."""
    strange: Counter[str] = field(default_factory=Counter)
    """Stay, as the handler does not read the stream they name."""
    put_back: int = 0
    """Letters that stay and were written again behind the others."""
    stopped: bool = False

    @property
    def count(self) -> int:
        return self.redriven.total() + self.discarded


class Pass:
    """`stop` may be set from a signal handler: the batch at hand is finished first."""

    def __init__(
        self,
        settings: HandlerSettings,
        selection: Selection,
        action: Literal["redrive", "discard"],
        *,
        limit: int | None = None,
        rate: float | None = None,
        redrives: int = REDRIVES,
        progress: Callable[[Moved], None] = lambda moved: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.moved = Moved()
        self.stop = False
        self._settings = settings
        self._selection = selection
        self._action = action
        self._limit = limit
        self._rate = rate
        self._redrives = redrives
        self._progress = progress
        self._clock = clock
        self._wait = wait
        self._started = int(wall() * 1000)
        self._run = uuid.uuid4().hex
        self._done: set[Partition] = set()
        self._sinks: dict[str, Sink] = {}
        told = options(settings)
        size = BATCH if rate is None else min(BATCH, max(1, int(rate)))
        self._options = replace(told, batch_size=size, in_flight=2 * size)
        self._source = connector(told.connection.scheme).source(self._options)

    def run(self) -> Moved:
        """Until every letter that was there at the beginning has been looked at; raises ConnectorError."""
        with ExitStack() as stack:
            stack.callback(self._close_sinks)
            stack.callback(self._source.close)
            self._source.open(self._revoked)
            begun = heard = self._clock()
            while not self._full and not self.stop:
                batches = self._source.poll(self._options.batch_size, 0.1)
                if any([self._take(batch) for batch in batches]):
                    heard = self._clock()
                elif self._over(begun, heard):
                    break
            self.moved.stopped = self.stop
        return self.moved

    def _over(self, begun: float, heard: float) -> bool:
        now = self._clock()
        if self._source.ordered and (lag := self._source.lag()) is not None and lag == 0:
            return True
        if self._source.ordered and lag is None:
            if now - begun > JOIN:
                raise Unavailable(f"group {self._options.group} gives us no partition: are others at it already?")
            return False
        return now - heard > QUIET

    @property
    def _full(self) -> bool:
        return self._limit is not None and self.moved.count >= self._limit

    def _revoked(self, partitions: Collection[Partition], *, lost: bool) -> None:
        self._done.difference_update(partitions)

    def _take(self, batch: Batch) -> bool:
        """Whether there was anything to do."""
        if batch.partition in self._done or self._full or self.stop:
            return False
        begun = self._clock()
        meant: dict[str, list[DeadLetter]] = {}
        others: list[DeadLetter] = []
        before, taken = self.moved.count, 0
        for letter in map(Letter, batch):
            if letter.headers.get(PASS) == self._run or (letter.time or 0) > self._started:
                self._done.add(batch.partition)
                break
            if self._limit is not None and before + sum(map(len, meant.values())) >= self._limit:
                break
            taken += 1
            self._sort(letter, meant, others)
        if taken:
            self._publish(meant, others)
            self._source.commit([batch.take(0, taken)])
            self._source.poll(0, 0.0)  # what was written goes out now: a kill repeats what the broker does not know of
            self._count(meant, others)
            self._slow_down(begun, self.moved.count - before)
        return taken > 0

    def _sort(self, letter: Letter, meant: dict[str, list[DeadLetter]], others: list[DeadLetter]) -> None:
        stream = letter.partition.stream
        if not self._selection.takes(letter):
            # Where each handler's group has its own position, the letters of others are simply passed over.
            if self._selection.ours(letter) or not self._source.ordered:
                others.append(letter.put_back(self._run))
        elif self._action == "discard":
            meant.setdefault("", []).append(letter.redriven())
        elif letter.redrives >= self._redrives:
            self.moved.exhausted += 1
            others.append(letter.put_back(self._run))
        elif not self._reads(stream):
            self.moved.strange[stream] += 1
            others.append(letter.put_back(self._run))
        else:
            meant.setdefault(stream, []).append(letter.redriven())

    def _reads(self, stream: str) -> bool:
        """Somebody else's letter must not send records anywhere."""
        return any(re.match(one, stream) if one.startswith("^") else one == stream for one in self._settings.streams)

    def _publish(self, meant: dict[str, list[DeadLetter]], others: Sequence[DeadLetter]) -> None:
        if self._action == "redrive":
            for stream, letters in meant.items():
                self._sink(stream).publish(letters)
        if others:
            self._sink("").publish(others)

    def _sink(self, stream: str) -> Sink:
        """ "": that of the letters themselves."""
        if stream not in self._sinks:
            connection = self._settings.connection if stream else self._options.connection
            told = SinkOptions(connection, stream or self._options.streams[0], partitions=True)
            sink = connector(connection.scheme).sink(told)
            sink.open()
            self._sinks[stream] = sink
        return self._sinks[stream]

    def _count(self, meant: dict[str, list[DeadLetter]], others: Sequence[DeadLetter]) -> None:
        for stream, letters in meant.items():
            if self._action == "redrive":
                self.moved.redriven[stream] += len(letters)
            else:
                self.moved.discarded += len(letters)
        self.moved.put_back += len(others)
        self._progress(self.moved)

    def _slow_down(self, begun: float, moved: int) -> None:
        if self._rate is not None and (left := begun + moved / self._rate - self._clock()) > 0:
            self._wait(left)

    def _close_sinks(self) -> None:
        for sink in self._sinks.values():
            sink.close()
