"""What every connector does, as tests: subclass `Contract` with a fixture `broker`, and say what the broker cannot do.

Nothing here waits for time to pass: `Member.until` polls, as the loop does, until what is expected is there.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import pytest

from tests.waiting import until
from worker.errors import Refused, Unavailable, Unconfirmed
from worker.interface import Batch, DeadLetter, Partition, Record, Sink, Source

PATIENCE = 40.0
"""Seconds after which something does not come any more; an embedded Kafka blocks a group for 6 after a member left."""

Header = tuple[str, bytes | None]
EMPTY = (b"", None)


class Broker(Protocol):
    """One kind of broker, as a contract's tests use it."""

    def stream(self) -> str:
        """A new, empty stream."""

    def put(
        self,
        stream: str,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        """Appends records; they are there when it returns."""

    def source(self, stream: str, group: str) -> Source:
        """A new source; a second one of the same group shares the partitions with the first."""

    def sink(self, stream: str) -> Sink: ...

    def read(self, stream: str) -> list[Record[bytes]]:
        """All that the stream holds, of each partition in order."""


class Member:
    """A source with the loop's part played: what it was handed, and what it was told to give back."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.batches: list[Batch] = []
        self.got: list[Record[bytes]] = []
        self.revoked: list[set[Partition]] = []
        self.on_revoke: Callable[[Collection[Partition], bool], None] | None = None

    def open(self) -> Member:
        self.source.open(self._revoked)
        return self

    def _revoked(self, partitions: Collection[Partition], *, lost: bool) -> None:
        self.revoked.append(set(partitions))
        if self.on_revoke is not None:
            self.on_revoke(partitions, lost)

    def open_again(self) -> None:
        """As the loop does when the broker is away."""

        def opened() -> bool:
            try:
                self.open()
            except Unavailable:
                self.source.close()
                return False
            return True

        until(opened)

    def poll(self, most: int = 500, timeout: float = 0.05) -> list[Batch]:
        batches = self.source.poll(most, timeout)
        assert all(len(batch) > 0 for batch in batches), "an empty batch"
        assert sum(map(len, batches)) <= most, f"more than {most} records"
        self.batches += batches
        for batch in batches:
            records = list(batch)
            if ">" not in batch.partition.stream:  # its records name the queues that they were in
                assert {record.partition for record in records} == {batch.partition}, "a batch of several partitions"
            self.got += records
        return batches

    def until(self, done: Callable[[], object], most: Callable[[], int] = lambda: 500) -> None:
        until(done, lambda: self.poll(most()), why=lambda: f"did not happen; got {len(self.got)}: {values(self.got)[-20:]}")

    def receive(self, count: int, most: int = 500) -> list[Batch]:
        """Polls until `count` more records are here, and no longer."""
        start, wanted = len(self.batches), len(self.got) + count
        self.until(lambda: len(self.got) >= wanted, lambda: min(most, wanted - len(self.got)))
        return self.batches[start:]

    def nothing_more(self) -> None:
        """Polls for a while in which anything that is there would come."""
        start = len(self.got)
        for _ in range(8):
            self.poll()
        assert self.got[start:] == []


def values(records: Sequence[Record[bytes]]) -> list[bytes | None]:
    return [record.value for record in records]


def by_partition(records: Sequence[Record[bytes]]) -> dict[Any, list[bytes | None]]:
    found: dict[Any, list[bytes | None]] = defaultdict(list)
    for record in records:
        found[record.partition.id].append(record.value)
    return dict(found)


def numbers(*span: int) -> list[bytes | None]:
    return [b"%d" % number for number in range(*span)]


def letter(record: Record[bytes], headers: Sequence[Header] = ()) -> DeadLetter:
    return DeadLetter(record, ValueError("no"), 1, [*record.headers, *headers])


class Contract:
    """Each test has a stream and a group of its own."""

    ordered = True
    partitions = 4
    """How many a stream has; 1: a queue."""
    many = 300
    """How many records of a partition may be unfinished at once."""
    nulls = True
    """The broker keeps a null value, a null key and a null header apart from empty ones, and a header given twice."""
    timestamps = True
    """The broker keeps the timestamp that a record is written with."""
    settles_alone = True
    """A queue's consumer can settle a record behind one that is not."""
    checks_destination = True
    """Opening a source or a sink of a stream that is not there is refused."""
    tells_lag = True
    """The source knows how many records are behind what it has handed out."""
    keeps_flooded = True
    """The broker keeps `flooded` with the positions."""

    binary_headers = True
    """Header values may be any bytes, not only text."""

    @pytest.fixture
    @abstractmethod
    def broker(self) -> Broker: ...

    @property
    def headers(self) -> list[Header]:
        return [("one", b"1"), ("two", b"\xff\x00" if self.binary_headers else b"text: \xc3\xa4\\\n")]

    @pytest.fixture
    def stream(self, broker: Broker) -> str:
        return broker.stream()

    @pytest.fixture
    def join(self, broker: Broker, stream: str) -> Iterator[Callable[[], Member]]:
        """Opens one more member of the group."""
        members: list[Member] = []

        def join() -> Member:
            members.append(Member(broker.source(stream, "group-of-" + stream)))
            return members[-1].open()

        yield join
        for member in members:
            member.on_revoke = None
            with contextlib.suppress(Unconfirmed):  # a test may end while its group rebalances
                member.source.close()

    def need_partitions(self) -> None:
        if self.partitions < 2:
            pytest.skip("a queue has one partition")

    def fill(self, broker: Broker, stream: str, each: int) -> None:
        """`each` numbers into every partition."""
        for partition in range(self.partitions):
            broker.put(stream, *numbers(each), partition=partition)

    # Delivery

    def test_every_partition_comes_in_order(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.fill(broker, stream, self.many)
        member = join()
        member.receive(self.many * self.partitions, most=70)
        assert by_partition(member.got) == {partition: numbers(self.many) for partition in by_partition(member.got)}
        assert len(by_partition(member.got)) == self.partitions
        ids = defaultdict(list)
        for record in member.got:
            ids[record.partition].append(record.id)
        assert all(len(set(found)) == len(found) for found in ids.values())

    def test_a_poll_returns_as_soon_as_anything_is_there(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, b"first")
        member = join()
        member.receive(1)
        broker.put(stream, b"second")
        began = time.monotonic()
        while not member.poll(500, PATIENCE):
            pass
        assert time.monotonic() - began < PATIENCE / 4

    def test_a_poll_of_nothing_takes_its_timeout(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, b"first")
        member = join()
        member.receive(1)
        member.nothing_more()
        began = time.monotonic()
        assert member.poll(500, 0.2) == []
        assert 0.1 < time.monotonic() - began < 5

    def test_a_poll_for_no_records_returns_none_and_loses_none(
        self, broker: Broker, stream: str, join: Callable[[], Member]
    ) -> None:
        broker.put(stream, b"0")
        member = join()
        member.receive(1)
        broker.put(stream, *numbers(1, 50))
        for _ in range(20):
            assert member.poll(0, 0.0) == []
        member.receive(49)
        assert values(member.got) == numbers(50)

    def test_most_is_never_exceeded(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.fill(broker, stream, 20)
        member = join()
        member.receive(20 * self.partitions, most=1)
        assert all(len(batch) == 1 for batch in member.batches)

    # Positions

    def test_what_was_committed_stays_committed(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(10))
        first = join()
        whole = gather(first.receive(10))
        first.source.commit([whole.take(0, 2), whole.take(2, 6)])
        first.source.close()
        second = join()
        second.receive(4)
        assert values(second.got) == numbers(6, 10)
        second.nothing_more()

    def test_everything_committed_leaves_nothing(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.fill(broker, stream, 10)
        first = join()
        first.source.commit(first.receive(10 * self.partitions))
        first.source.close()
        broker.put(stream, b"new")
        second = join()
        second.receive(1)
        assert values(second.got) == [b"new"]

    def test_what_was_not_committed_comes_again(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.fill(broker, stream, 10)
        first = join()
        first.receive(10 * self.partitions)
        first.source.close()
        second = join()
        second.receive(10 * self.partitions)
        assert by_partition(second.got) == by_partition(first.got)

    def test_a_source_opens_again_behind_its_position(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(6))
        member = join()
        member.source.commit([gather(member.receive(6)).take(0, 3)])
        member.source.close()
        member.open()
        member.receive(3)
        assert values(member.got)[6:] == numbers(3, 6)

    def test_a_queue_settles_each_record_alone(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        if self.ordered or not self.settles_alone:
            pytest.skip("there is one position")
        broker.put(stream, *numbers(6))
        member = join()
        member.source.commit([gather(member.receive(6)).pick([4, 1])])
        member.source.close()
        member.open()
        member.receive(4)
        assert sorted(map(str, values(member.got)[6:])) == sorted(map(str, [b"0", b"2", b"3", b"5"]))

    def test_closing_twice_and_before_opening_does_nothing(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.source(stream, "never-opened").close()
        member = join()
        member.source.close()
        member.source.close()

    def test_a_close_gives_everything_back_in_time_for_a_commit(
        self, broker: Broker, stream: str, join: Callable[[], Member]
    ) -> None:
        broker.put(stream, *numbers(5))
        first = join()
        whole = gather(first.receive(5))

        def finish(partitions: Collection[Partition], lost: bool) -> None:
            if whole.partition in partitions and not lost:
                first.source.commit([whole.take(0, 3)])

        first.on_revoke = finish
        first.source.close()
        assert any(whole.partition in partitions for partitions in first.revoked)
        second = join()
        second.receive(2)
        assert values(second.got) == numbers(3, 5)

    # Rewinding, pausing

    def test_a_rewind_gives_back_in_order(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.fill(broker, stream, 50)
        member = join()
        batches = member.receive(50 * self.partitions)
        partition = batches[0].partition
        mine = gather(batches, partition)
        member.source.commit([mine.take(0, 20)])
        before = len(member.got)
        member.source.rewind(partition)
        member.receive(30)
        assert {record.partition for record in member.got[before:]} == {partition}
        assert values(member.got[before:]) == numbers(20, 50)

    def test_a_rewind_in_the_middle_skips_nothing(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(100))
        member = join()
        member.receive(10, most=10)
        member.source.rewind(member.got[0].partition)
        member.receive(100)
        assert values(member.got[10:]) == numbers(100)

    def test_a_paused_partition_keeps_the_others_going(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        self.need_partitions()
        self.fill(broker, stream, 1)
        member = join()
        member.receive(self.partitions)
        paused = {record.partition for record in member.got if record.partition.id != 0}
        member.source.pause(paused)
        for partition in range(self.partitions):
            broker.put(stream, *numbers(1, 30), partition=partition)
        member.receive(29)
        member.nothing_more()
        member.source.resume(paused)
        member.receive(29 * (self.partitions - 1))
        assert by_partition(member.got) == {partition: numbers(30) for partition in range(self.partitions)}

    def test_pausing_what_was_polled_in_part_loses_nothing(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(200))
        member = join()
        member.receive(20, most=20)
        partition = member.got[0].partition
        for _ in range(3):
            member.source.pause([partition])
            member.nothing_more()
            member.source.resume([partition])
            member.receive(20, most=20)
        member.receive(120)
        assert values(member.got) == numbers(200)

    # Several members

    def test_partitions_move_to_a_member_that_joins(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        """What is finished from within `on_revoke` is durable before the new owner reads: nothing is lost or repeated."""
        self.need_partitions()
        self.fill(broker, stream, 40)
        first = join()
        batches = first.receive(40 * self.partitions)
        moved: set[Partition] = set()
        inside = False

        def finish(partitions: Collection[Partition], lost: bool) -> None:
            assert inside and not lost
            first.source.commit([gather(batches, partition).take(0, 25) for partition in set(partitions) - moved])
            moved.update(partitions)

        first.on_revoke = finish
        second = join()
        deadline = time.monotonic() + PATIENCE
        # A member that had to give back everything may get some of it again.
        while not moved or not second.got or len(first.got[40 * self.partitions :]) + len(second.got) < 15 * len(moved):
            assert time.monotonic() < deadline, f"gave back {moved}, the other got {len(second.got)}"
            inside = True
            first.poll()
            inside = False
            second.poll()
        again = first.got[40 * self.partitions :] + second.got
        assert by_partition(again) == {partition.id: numbers(25, 40) for partition in moved}
        first.on_revoke = None

    def test_two_members_together_miss_nothing(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        """Both commit what they get: at the end each record was received exactly once, in order per partition."""
        self.need_partitions()
        self.fill(broker, stream, 5)
        first = join()
        first.source.commit(first.receive(5 * self.partitions))
        second = join()
        deadline = time.monotonic() + PATIENCE
        while not first.revoked:
            assert time.monotonic() < deadline, "nothing was given back"
            first.source.commit(first.poll())
            second.source.commit(second.poll())
        for partition in range(self.partitions):
            broker.put(stream, *numbers(5, 60), partition=partition)
        while len(first.got) + len(second.got) < 60 * self.partitions:
            assert time.monotonic() < deadline, f"{len(first.got)} and {len(second.got)} records"
            first.source.commit(first.poll(13))
            second.source.commit(second.poll(13))
        assert by_partition(first.got + second.got) == {partition: numbers(60) for partition in range(self.partitions)}

    # Records

    def test_records_keep_what_they_were_written_with(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        headers = self.headers
        broker.put(stream, b"\x00\xff value", key=b"key", headers=headers, timestamp=1_700_000_000_123)
        broker.put(stream, b"", key=b"key")
        member = join()
        member.receive(2)
        first, empty = member.got
        assert (first.value, first.key, sorted(first.headers)) == (b"\x00\xff value", b"key", headers)
        assert empty.value == b""
        if self.timestamps:
            assert first.timestamp == 1_700_000_000_123

    def test_nothing_is_not_the_same_as_empty(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        if not self.nulls:
            pytest.skip("the broker knows no null")
        headers = [("twice", b"1"), ("null", None), ("twice", b"2"), ("empty", b"")]
        broker.put(stream, None, key=b"", headers=headers)
        broker.put(stream, b"", key=None)
        member = join()
        member.receive(2)
        tombstone, empty = member.got
        assert (tombstone.value, tombstone.key, list(tombstone.headers)) == (None, b"", headers)
        assert (empty.value, empty.key, list(empty.headers)) == (b"", None, [])

    def test_all_views_of_a_batch_agree(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        some = [b"abc", b"", b"x" * 1000, *([None] if self.nulls else []), b"\xff"]
        broker.put(stream, *some, key=b"k", headers=[("h", b"1")])
        member = join()
        batch = gather(member.receive(len(some)))
        records = list(batch)
        assert batch.values() == [record.value for record in records] == some
        assert batch.keys() == [record.key for record in records]
        assert batch.timestamps() == [record.timestamp for record in records]
        assert all(size >= len(value or b"") for size, value in zip(batch.sizes(), some, strict=True))
        assert batch.size() >= sum(batch.sizes())
        assert [batch.record(i) for i in range(len(batch))] == [batch[i] for i in range(len(batch))] == records
        assert batch[-1] == records[-1]
        with pytest.raises(IndexError):
            batch[len(batch)]
        assert {record.partition for record in records} == {batch.partition}
        assert batch.attempt == 1

    def test_batches_are_cut_and_joined(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(10))
        member = join()
        batch = gather(member.receive(10))
        batch.attempt = 3
        assert batch.take(2, 5).values() == numbers(2, 5)
        assert batch.take(7).values() == numbers(7, 10)
        assert batch.pick([8, 1, 1]).values() == [b"8", b"1", b"1"]
        assert len(batch.take(3, 3)) == 0
        parts = batch.take(0, 2), batch.take(2, 6), batch.take(6)
        joined = parts[0].join(parts[1:])
        assert joined.values() == batch.values() and list(joined) == list(batch)
        assert type(joined) is type(batch)
        assert [part.attempt for part in (*parts, joined, batch.pick([0]))] == [3] * 5
        assert len(parts[0]) == 2, "join changed its own batch"

    def test_lag_counts_down(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        broker.put(stream, *numbers(30))
        member = join()
        if not self.tells_lag:
            assert member.source.lag() is None
            return
        member.receive(10, most=10)
        member.until(lambda: member.source.lag() == 20, lambda: 0)
        member.receive(20)
        member.until(lambda: member.source.lag() == 0, lambda: 0)

    # What there is no way to do

    def test_a_log_refuses_to_reject(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        if not self.ordered:
            pytest.skip("a queue may have a policy")
        broker.put(stream, b"1")
        member = join()
        with pytest.raises(Refused):
            member.source.reject(member.receive(1))

    def test_a_source_of_a_missing_stream_is_refused(self, broker: Broker, stream: str) -> None:
        if not self.checks_destination:
            pytest.skip("the broker makes it")
        source = broker.source("not-there", "group-of-" + stream)
        with pytest.raises(Refused, match="not-there"):
            source.open(lambda partitions, lost: None)
        source.close()

    # Dead letters

    def test_a_sink_refuses_a_missing_destination(self, broker: Broker) -> None:
        if not self.checks_destination:
            pytest.skip("the broker makes it")
        with contextlib.closing(broker.sink("not-there")) as sink, pytest.raises(Refused, match="not-there"):
            sink.open()

    def test_a_letter_keeps_what_the_record_had(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        headers = self.headers
        broker.put(stream, b"value", key=b"key", headers=headers, timestamp=1_700_000_000_123)
        member = join()
        member.receive(1)
        dead = broker.stream()
        with contextlib.closing(broker.sink(dead)) as sink:
            sink.open()
            sink.publish([letter(member.got[0], [("worker-error", b"no")])])
        [found] = broker.read(dead)
        assert (found.value, found.key, sorted(found.headers)) == (b"value", b"key", [*headers, ("worker-error", b"no")])

    def test_a_letter_keeps_what_is_null(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        if not self.nulls:
            pytest.skip("the broker knows no null")
        headers: list[Header] = [("twice", b"1"), ("null", None), ("twice", b"2")]
        broker.put(stream, None, key=None, headers=headers)
        broker.put(stream, b"", key=b"")
        member = join()
        member.receive(2)
        dead = broker.stream()
        with contextlib.closing(broker.sink(dead)) as sink:
            sink.open()
            sink.publish([letter(record) for record in member.got])
        found = {record.value: (record.key, list(record.headers)) for record in broker.read(dead)}
        assert found == {None: (None, headers), b"": (b"", [])}

    def test_letters_are_there_when_publish_returns_in_order_per_key(
        self, broker: Broker, stream: str, join: Callable[[], Member]
    ) -> None:
        for key in (b"a", b"b", b"c"):
            broker.put(stream, *(key + b"%d" % number for number in range(40)), key=key)
        member = join()
        member.receive(120)
        dead = broker.stream()
        with contextlib.closing(broker.sink(dead)) as sink:
            sink.open()
            for start in range(0, 120, 30):
                sink.publish([letter(record) for record in member.got[start : start + 30]])
                assert len(broker.read(dead)) == start + 30
        found = defaultdict(list)
        for record in broker.read(dead):
            found[record.key].append(record.value)
        assert found == {key: [key + b"%d" % number for number in range(40)] for key in (b"a", b"b", b"c")}

    def test_a_flood_is_told_to_the_next_worker(self, broker: Broker, stream: str, join: Callable[[], Member]) -> None:
        if not self.keeps_flooded:
            pytest.skip("the broker has no place for it")
        broker.put(stream, *numbers(3))
        first = join()
        first.source.commit([gather(first.receive(3)).take(0, 1)])
        first.source.flooded = True
        first.source.close()
        second = join()
        second.receive(2)
        assert second.source.flooded
        second.source.flooded = False
        second.source.close()
        third = join()
        third.receive(2)
        assert not third.source.flooded


def gather(batches: Sequence[Batch], partition: Partition | None = None) -> Batch:
    """One batch of what came of one partition in several: the first one's, if none is named."""
    wanted = partition if partition is not None else batches[0].partition
    mine = [batch for batch in batches if batch.partition == wanted]
    return mine[0].join(mine[1:])
