"""A broker in memory: a source and a sink that behave like real ones, and can be made to misbehave like them."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from worker.errors import PublishError, Refused, Unavailable
from worker.interface import Batch, DeadLetter, OnRevoke, Partition, Record


class FakeBatch(Batch):
    """Holds `Record`s."""

    __slots__ = ()

    native: Sequence[Record[bytes]]

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.native]

    def keys(self) -> list[bytes | None]:
        return [record.key for record in self.native]

    def timestamps(self) -> list[int | None]:
        return [record.timestamp for record in self.native]

    def sizes(self) -> list[int]:
        return [len(record.value or b"") for record in self.native]

    def record(self, index: int) -> Record[bytes]:
        return self.native[index]


def batch(
    *values: bytes | None, stream: str = "orders", partition: int = 0, start: int = 0, key: bytes | None = None
) -> FakeBatch:
    """A batch to call a handler with in a unit test; ids count from `start`."""
    where = Partition(stream, partition)
    return FakeBatch(where, [Record(value, key, (), None, start + i, where) for i, value in enumerate(values)])


class FakeSource:
    """A source over logs in memory, one a partition, with the durable position of one consumer group.

    >>> source = FakeSource()
    >>> source.put(b"1", key=b"a", partition=0)

    A commit that does not follow what was delivered, or comes for a partition that is not its own any more, raises
    AssertionError: real brokers would lose records there without a word.
    """

    def __init__(
        self,
        *,
        ordered: bool = True,
        limit: int | None = None,
        rng: random.Random | None = None,
        idle: Callable[[float], object] | None = None,
        flush: float = 0.0,
        hold: float = math.inf,
        counts: bool = False,
    ) -> None:
        """`rng`: deliver in random pieces. `idle`: called instead of waiting when nothing is here. `flush`: the chance
        that a poll leaves commits undurable, as a source that commits at its own pace does. `counts`: what it is given back
        is counted, so a worker that stops should handle what there is."""
        self.ordered = ordered
        self.limit = limit
        self.patience = math.inf
        self.hold = hold
        self.timestamps = True
        self.flooded = False
        self.stalled = False
        self.session = 0.0
        self.membership = ""
        self.logs: dict[Partition, list[Record[bytes]]] = {}
        self.durable: dict[Partition, set[int | str]] = {}
        """Ids that a restart does not deliver again."""
        self.received = 0
        self.polls = 0
        self.opened = False
        self.pauses = 0
        self.rejected: list[Record[bytes]] = []
        """Left to the broker's dead-letter policy."""
        self.returns: Counter[tuple[Partition, int | str]] = Counter()
        """How often each record was given back."""
        self._counts = counts
        self._finishing = False
        self._rng = rng
        self._idle = idle
        self._flush_chance = flush
        self._arrived = threading.Event()
        self._committed: dict[Partition, set[int | str]] = {}
        self._queues: dict[Partition, deque[Record[bytes]]] = {}
        self._unsettled: dict[Partition, dict[int | str, Record[bytes]]] = {}
        self._away: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._events: deque[tuple[tuple[Partition, ...], bool]] = deque()
        self._disconnected = False
        self._failing_opens = 0
        self._on_revoke: OnRevoke | None = None

    # What a test does to it

    def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        stream: str = "orders",
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
        skip: int = 0,
    ) -> Record[bytes]:
        """Appends a record; its id is the next one, or `skip` further, as behind a compacted gap."""
        where = Partition(stream, partition)
        log = self.logs.setdefault(where, [])
        number = (int(log[-1].id) + 1 if log else 0) + skip
        record = Record(value, key, tuple(headers), timestamp, number, where)
        log.append(record)
        if where in self._queues:
            self._queues[where].append(record)
        elif self.opened and where not in self._away:
            self._assign(where)
        self._arrived.set()
        return record

    def revoke(self, partitions: Collection[Partition], *, lost: bool = False) -> None:
        """From inside the next poll on, they are somebody else's."""
        self._events.append((tuple(partitions), lost))

    def give_back(self, partitions: Collection[Partition]) -> None:
        """They are assigned again, and start behind what is durable."""
        for partition in set(partitions) & self._away:
            self._away.discard(partition)
            if self.opened:
                self._assign(partition)

    def disconnect(self, failing_opens: int = 0) -> None:
        """The next poll raises `Unavailable`, and so do the next opens."""
        self._disconnected = True
        self._failing_opens = failing_opens

    def kill(self) -> None:
        """The process is gone: what was not durable is forgotten."""
        self.opened = False
        self._disconnected = False
        self._events.clear()
        self._away.clear()
        self._forget(list(self._queues))

    @property
    def events(self) -> int:
        """Revocations that the next poll will tell of."""
        return len(self._events)

    def finished(self) -> bool:
        """Nothing would be delivered after a restart."""
        return all(len(self.durable.get(partition, ())) == len(log) for partition, log in self.logs.items())

    # The source

    def open(self, on_revoke: OnRevoke) -> None:
        if self._failing_opens:
            self._failing_opens -= 1
            raise Unavailable("the fake broker is away")
        self._on_revoke = on_revoke
        self.opened = True
        self._finishing = False
        self._disconnected = False
        for partition in self.logs:
            if partition not in self._away:
                self._assign(partition)

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        self.polls += 1
        self._happen()
        if self._rng is None or self._rng.random() >= self._flush_chance:
            self._flush(self._committed)
        batches = self._deliver(max_records) if max_records and not self._finishing else []
        if not batches and max_records and timeout > 0:
            if self._idle is not None:
                self._idle(timeout)
            else:
                self._arrived.wait(timeout)
                self._arrived.clear()
                batches = self._deliver(max_records)
        self.received += sum(map(len, batches))
        return list(batches)

    def commit(self, batches: Sequence[Batch]) -> None:
        for one in batches:
            partition = one.partition
            assert partition in self._queues, f"a commit for {partition}, which is somebody else's"
            unsettled = self._unsettled[partition]
            ids = [record.id for record in one]
            assert all(number in unsettled for number in ids), f"a commit of {ids} of {partition}: not unsettled"
            if self.ordered:
                expected = list(unsettled)[: len(ids)]
                assert ids == expected, f"a commit of {ids} of {partition}: the next ones are {expected}"
            for number in ids:
                del unsettled[number]
            self._committed.setdefault(partition, set()).update(ids)

    def rewind(self, partition: Partition) -> None:
        queue = self._queues[partition]
        self.returns.update((partition, record) for record in self._unsettled[partition])
        queue.extendleft(reversed(self._unsettled[partition].values()))
        self._unsettled[partition] = {}

    def reject(self, batches: Sequence[Batch]) -> None:
        if self.ordered:
            raise Refused("a log has no dead-letter policy")
        self.rejected += [record for one in batches for record in one]
        self.commit(batches)

    def finish(self) -> bool:
        self._finishing = not self._counts
        return self._counts

    def pause(self, partitions: Collection[Partition]) -> None:
        self.pauses += 1
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        self._paused -= set(partitions)

    def lag(self) -> int | None:
        return sum(len(queue) for queue in self._queues.values())

    def close(self, remaining: Callable[[], float] | None = None) -> None:
        if self.opened and not self._disconnected and self._on_revoke is not None:
            self._on_revoke(list(self._queues), lost=False)
            self._flush(self._committed)
        self.opened = False
        self._forget(list(self._queues))

    # How it does it

    def _assign(self, partition: Partition) -> None:
        durable = self.durable.get(partition, set())
        self._queues[partition] = deque(record for record in self.logs[partition] if record.id not in durable)
        self._unsettled[partition] = {}

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._queues.pop(partition, None)
            self.returns.update((partition, record) for record in self._unsettled.pop(partition, {}))
            self._committed.pop(partition, None)
            self._paused.discard(partition)

    def _flush(self, committed: Mapping[Partition, set[int | str]]) -> None:
        for partition, ids in committed.items():
            self.durable.setdefault(partition, set()).update(ids)
            ids.clear()

    def _happen(self) -> None:
        assert self.opened and self._on_revoke is not None, "a poll of a source that is not open"
        if self._disconnected:
            raise Unavailable("the fake broker went away")
        while self._events:
            partitions, lost = self._events.popleft()
            mine = [partition for partition in partitions if partition in self._queues]
            self._on_revoke(mine, lost=lost)
            if not lost:
                self._flush({partition: self._committed.get(partition, set()) for partition in mine})
            self._forget(mine)
            self._away |= set(mine)

    def _deliver(self, most: int) -> list[FakeBatch]:
        batches = []
        for partition in self._order():
            queue, unsettled = self._queues[partition], self._unsettled[partition]
            room = min(most, len(queue))
            if self.limit is not None:
                room = min(room, self.limit - sum(map(len, self._unsettled.values())))
            if self._rng is not None and room > 0:
                room = self._rng.randint(0, room)
            if room <= 0:
                continue
            records = [queue.popleft() for _ in range(room)]
            unsettled.update((record.id, record) for record in records)
            batches.append(FakeBatch(partition, records))
            most -= room
        return batches

    def _order(self) -> list[Partition]:
        partitions = [partition for partition in self._queues if partition not in self._paused]
        if self._rng is not None:
            self._rng.shuffle(partitions)
        return partitions


class FakeSink:
    """Keeps dead letters in `letters`; fails or blocks when told to."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.failures: deque[Exception] = deque()
        """Raised by the next publishes, one each, before anything is kept."""
        self.gate: threading.Event | None = None
        """A publish waits for it."""
        self.opens = 0

    def fail(self, times: int = 1, *, permanent: bool = False) -> None:
        self.failures.extend(PublishError("the fake broker refused", permanent=permanent) for _ in range(times))

    def open(self) -> None:
        self.opens += 1

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        if self.gate is not None:
            self.gate.wait()
        if self.failures:
            raise self.failures.popleft()
        self.letters += letters

    def close(self) -> None: ...
