"""One pass over the dead letters of a handler: those meant go back to their stream, or are thrown away; the others stay.

Publish, confirm, then commit, a batch at a time: killed in between, that batch comes again in the next pass. A log cannot
forget single records, so letters of this handler that are not meant are put back behind the others; a queue keeps them.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from worker.deadletter import PASS
from worker.errors import ConfigError, PublishError, Refused, Unavailable
from worker.interface import Batch, Partition, Record, Sink, SinkOptions, Source
from worker.letters import BATCH, Letter, Selection, options
from worker.picker import Holding, Picker, pick
from worker.plugins import connector
from worker.settings import HandlerSettings

REDRIVES = 3
"""A record that became a dead letter again so often is not redriven without being asked for."""
QUIET = 2.0
"""Seconds without a letter after which there are no more."""
JOIN = 60.0
"""Seconds for the group to hand out its partitions."""
STALLED = 20.0
"""Seconds without a letter though the broker has more: a leader moves, or what is left is none of ours to see (a log may end with
marks of transactions)."""

Fate = Literal["meant", "kept", "passed", "exhausted", "strange"]


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
    refused: int = 0
    """Stay, as the broker never takes them."""
    reason: str = ""
    """Why the last of those was refused."""
    put_back: int = 0
    """Letters that stay and were written again behind the others."""
    unseen: int = 0
    """Records that the broker has and did not send."""
    stopped: bool = False

    @property
    def count(self) -> int:
        return self.redriven.total() + self.discarded


class Pass:
    """What was given up before it was made. `stop` may be set from a signal handler: the batch at hand is finished first."""

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
        self._limit = math.inf if limit is None else limit
        self._rate = rate
        self._redrives = redrives
        self._progress = progress
        self._clock = clock
        self._wait = wait
        self._wall = wall
        self._begun = wall()
        self._run = uuid.uuid4().hex
        self._done: set[Partition] = set()
        self._gone: set[Partition] = set()
        """Somebody else's, since the last poll: what was polled of them is, too."""
        self._heard_lag = 0.0
        self._picker: Picker | None = None
        self._unusable: set[str] = set()
        """Streams that a letter names and that cannot be opened."""
        self._failure: PublishError | None = None
        """After which nothing more is sent."""
        self._sinks: dict[str, Sink] = {}
        told = options(settings)
        size = int(max(1, min(BATCH, self._limit, math.inf if rate is None else rate)))
        # A queue counts what it has sent and gets back: no more is asked for than is wanted.
        self._options = replace(told, batch_size=size, in_flight=size if limit is not None else 2 * size)
        self._connector = connector(told.connection.scheme)
        self._source = self._connector.source(self._options)
        self._looked = 0
        """Letters of a queue that were there at the beginning."""
        self._seen = 0
        self._expected: int | None = None

    def run(self) -> Moved:
        """Until every letter that was there at the beginning has been looked at; raises ConnectorError."""
        with ExitStack() as stack:
            stack.callback(self._close_sinks)
            if self._source.ordered:
                stack.callback(self._source.close)
                self._source.open(self._revoked)
                self._run_log()
            else:
                self._picker = self._make_picker()
                stack.callback(self._picker.close)
                self._picker.open()
                self._run_queue(self._picker)
            self.moved.stopped = self.stop
        return self.moved

    def _run_log(self) -> None:
        heard = self._heard_lag = self._clock()
        while self._left and not self.stop:
            self._gone.clear()
            batches = self._source.poll(int(min(self._options.batch_size, self._left)), 0.1)
            if any([self._take(batch) for batch in batches]):
                heard = self._clock()
            elif self._over(heard):
                break

    def _make_picker(self) -> Picker:
        make = getattr(self._connector, "picker", None)
        if make is not None:
            made: Picker = make(self._options, self._is_meant)
            return made
        sources = iter([self._source])

        def source(prefetch: int) -> Source:
            return next(sources, None) or self._connector.source(replace(self._options, in_flight=prefetch))

        return Holding(source, self._is_meant, self._options.in_flight)

    def _run_queue(self, picker: Picker) -> None:
        heard, self._expected = self._clock(), picker.waiting()
        while self._left and not self.stop:
            before = self._looked
            for batch in picker.poll(int(min(self._options.batch_size, self._left)), 0.1):
                if not self.stop:
                    self._take_picked(picker, batch)
            if self._looked != before:
                heard = self._clock()
            elif self._clock() - heard > QUIET if picker.done is None else picker.done:
                break
        if self._left and not self.stop:
            waiting = picker.waiting() or 0  # others may take some of them, and what came later does not count
            self.moved.unseen = waiting if self._expected is None else max(0, min(waiting, self._expected - self._seen))

    def _is_meant(self, record: Record[bytes]) -> bool:
        """Of a queue: looks at each one once."""
        letter = Letter(record)
        self._seen += 1
        if self._new(letter):
            return False
        # Messages of others may have no time and never end.
        self._looked += self._selection.ours(letter) or self._expected is None or self._seen <= self._expected
        fate = self.fate(letter)
        self.moved.exhausted += fate == "exhausted"
        if fate == "strange":
            self.moved.strange[letter.partition.stream] += 1
        return fate == "meant"

    def _take_picked(self, picker: Picker, batch: Batch) -> None:
        begun, before = self._clock(), self.moved.count
        letters = list(map(Letter, batch))
        chosen = [self.fate(letter) == "meant" for letter in letters]  # a connector knows them by what they say of themselves
        meant = [letter for letter, one in zip(letters, chosen, strict=True) if one]
        staying = self._send_all(meant)
        kept = set(map(id, staying))
        picker.commit(pick(batch, [one and id(letter) not in kept for letter, one in zip(letters, chosen, strict=True)]))
        self._progress(self.moved)
        if self._failure is not None:
            raise PublishError(f"{self._failure}; {self.moved.count:,} are done, the others stay") from self._failure
        self._slow_down(begun, self.moved.count - before)

    def fate(self, letter: Letter) -> Fate:
        """What is to become of a letter; "passed": it is another handler's, in a log."""
        if not self._selection.takes(letter):
            # Where each handler's group has its own position, the letters of others are simply passed over.
            return "kept" if self._selection.ours(letter) or not self._source.ordered else "passed"
        if self._action == "discard":
            return "meant"
        if letter.redrives >= self._redrives:
            return "exhausted"
        return "meant" if self._reads(letter.partition.stream) else "strange"

    def _over(self, heard: float) -> bool:
        now = self._clock()
        lag = self._source.lag()
        if lag is None:
            if now - self._heard_lag > JOIN:
                raise Unavailable(f"group {self._options.group} gives us no partition: are others at it already?")
            return False
        self._heard_lag = now
        if lag and now - heard > STALLED:
            self.moved.unseen = lag
        return not lag or self.moved.unseen > 0

    @property
    def _left(self) -> float:
        return max(0, self._limit - self.moved.count)

    def _revoked(self, partitions: Collection[Partition], *, lost: bool) -> None:
        self._done.difference_update(partitions)
        self._gone.update(partitions)

    def _new(self, letter: Letter) -> bool:
        """Put back by this pass, or given up since it began. A time that is still to come is of a clock that is wrong."""
        time = letter.record.timestamp if letter.time is None else letter.time
        return letter.headers.get(PASS) == self._run or self._begun * 1000 < (time or 0) <= self._wall() * 1000

    def _take(self, batch: Batch) -> bool:
        """Whether there was anything to do."""
        if batch.partition in self._done or batch.partition in self._gone or self.stop:
            return False
        begun, before = self._clock(), self.moved.count
        meant: list[Letter] = []
        others: list[Letter] = []
        taken = 0
        for letter in map(Letter, batch):
            if self._new(letter):
                self._done.add(batch.partition)
                break
            if len(meant) >= self._left:
                break
            taken += 1
            fate = self.fate(letter)
            if fate == "meant":
                meant.append(letter)
            elif fate != "passed":
                others.append(letter)
                self.moved.exhausted += fate == "exhausted"
                if fate == "strange":
                    self.moved.strange[letter.partition.stream] += 1
        if taken:
            self._move(meant, others)
            self._source.commit([batch.take(0, taken)])
            self._source.poll(0, 0.0)  # what was written goes out now: a kill repeats what the broker does not know of
            self._progress(self.moved)
            self._slow_down(begun, self.moved.count - before)
        return taken > 0

    def _reads(self, stream: str) -> bool:
        """Somebody else's letter must not send records anywhere."""
        if stream in self._unusable:
            return False
        matches = getattr(connector(self._settings.connection.scheme), "matches", _matches)
        return any(matches(one, stream) for one in self._settings.streams)

    def _move(self, meant: Sequence[Letter], others: list[Letter]) -> None:
        others += self._send_all(meant)
        if self._failure is not None:
            raise self._failure
        if others:
            self._sink("").publish([letter.put_back(self._run) for letter in others])
        self.moved.put_back += len(others)

    def _send_all(self, meant: Sequence[Letter]) -> list[Letter]:
        """Returns those that stay."""
        if self._action == "discard":
            self.moved.discarded += len(meant)
            return []
        staying: list[Letter] = []
        streams = dict.fromkeys(letter.partition.stream for letter in meant)
        for stream in streams:
            self._try_sink(stream)  # one that cannot be opened is told before anything is sent
        for stream in streams:
            letters = [letter for letter in meant if letter.partition.stream == stream]
            if stream in self._unusable:
                self.moved.strange[stream] += len(letters)
                staying += letters
                continue
            refused = letters if self._failure is not None else self._send(stream, letters)
            staying += refused
            if len(letters) > len(refused):
                self.moved.redriven[stream] += len(letters) - len(refused)
        return staying

    def _try_sink(self, stream: str) -> None:
        """A name that only a pattern of the handler fits, in a letter that anybody may have written, must not keep the others."""
        try:
            self._sink(stream)
        except (ConfigError, Refused):
            if stream in self._settings.streams:
                raise
            self._unusable.add(stream)

    def _send(self, stream: str, letters: Sequence[Letter]) -> list[Letter]:
        """Returns those that stay; raises PublishError if the broker takes none of several, or nobody knows which."""
        try:
            self._sink(stream).publish([letter.redriven() for letter in letters])
            return []
        except PublishError as error:
            if not error.permanent:
                if error.refused is None:
                    raise
                self._failure = error
                return [letters[index] for index in error.refused]
            if error.refused is not None or len(letters) == 1:
                refused = [letters[index] for index in error.refused or (0,)]
                self.moved.reason = str(error)
                self.moved.refused += len(refused)
                return refused
            refused = [one for letter in letters for one in self._send(stream, [letter])]
            if len(refused) == len(letters):
                raise
            return refused

    def _sink(self, stream: str) -> Sink:
        """ "": that of the letters themselves."""
        if stream not in self._sinks:
            connection = self._settings.connection if stream else self._options.connection
            told = SinkOptions(connection, stream or self._options.streams[0], partitions=True)
            sink = connector(connection.scheme).sink(told)
            sink.open()
            self._sinks[stream] = sink
        return self._sinks[stream]

    def _slow_down(self, begun: float, moved: int) -> None:
        """The source is attended to meanwhile: its broker would take it for dead."""
        while self._rate is not None and not self.stop and (left := begun + moved / self._rate - self._clock()) > 0:
            self._wait(min(left, 0.5))
            self._attend()

    def _attend(self) -> None:
        if self._picker is not None:
            self._picker.poll(0, 0.0)
        else:
            self._source.poll(0, 0.0)

    def _close_sinks(self) -> None:
        for sink in self._sinks.values():
            sink.close()


def _matches(subscribed: str, stream: str) -> bool:
    return bool(re.match(subscribed, stream)) if subscribed.startswith("^") else subscribed == stream
