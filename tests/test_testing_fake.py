"""FakeSource fires where a real broker would lose records without a word, and gives back what was not durable."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from worker.errors import PublishError, Unavailable
from worker.interface import Batch, DeadLetter, Partition
from worker.testing import FakeSink, FakeSource, batch

ZERO, ONE = Partition("orders", 0), Partition("orders", 1)


def ignore(partitions: Collection[Partition], *, lost: bool) -> None: ...


def opened(records: int = 6, **options: float) -> FakeSource:
    """Even numbers in partition 0, odd ones in 1."""
    source = FakeSource(**options)  # type: ignore[arg-type]
    for number in range(records):
        source.put(b"%d" % number, partition=number % 2)
    source.open(ignore)
    return source


def received(source: FakeSource) -> dict[Partition, Batch]:
    return {one.partition: one for one in source.poll(100, 0)}


def values(source: FakeSource) -> dict[Partition, list[bytes | None]]:
    return {partition: one.values() for partition, one in received(source).items()}


def test_a_commit_out_of_order_fires() -> None:
    source = opened()
    got = received(source)[ZERO]
    with pytest.raises(AssertionError, match="the next ones are"):
        source.commit([got.take(1)])


def test_a_commit_twice_fires() -> None:
    source = opened()
    got = received(source)[ZERO]
    source.commit([got.take(0, 1)])
    with pytest.raises(AssertionError, match="not unsettled"):
        source.commit([got.take(0, 1)])


def test_a_queue_settles_each_record_alone() -> None:
    source = opened(ordered=False)
    source.commit([received(source)[ZERO].pick([2, 0])])
    source.close()
    source.open(ignore)
    assert values(source)[ZERO] == [b"2"]


def test_a_commit_of_a_lost_partition_fires() -> None:
    source = opened()
    got = received(source)
    source.revoke([ZERO], lost=True)
    source.poll(100, 0)
    source.commit([got[ONE]])
    with pytest.raises(AssertionError, match="somebody else's"):
        source.commit([got[ZERO]])


def test_a_revoked_partition_may_be_committed_until_the_callback_returns() -> None:
    source = FakeSource()
    for number in range(3):
        source.put(b"%d" % number)
    told = []

    def commit(partitions: Collection[Partition], *, lost: bool) -> None:
        told.append((list(partitions), lost))
        source.commit([got.take(0, 2)])

    source.open(commit)
    [got] = source.poll(100, 0)
    source.revoke([ZERO])
    assert source.poll(100, 0) == []
    assert told == [([ZERO], False)]
    source.give_back([ZERO])
    assert values(source) == {ZERO: [b"2"]}


def test_a_kill_forgets_what_was_not_durable() -> None:
    source = opened()
    got = received(source)
    source.commit([got[ZERO].take(0, 2)])
    source.poll(0, 0)  # makes it durable
    source.commit([got[ZERO].take(2), got[ONE]])
    source.kill()
    source.open(ignore)
    assert values(source) == {ZERO: [b"4"], ONE: [b"1", b"3", b"5"]}


def test_a_broker_that_is_away_raises_until_it_is_back() -> None:
    source = opened()
    source.commit([received(source)[ZERO]])
    source.disconnect(failing_opens=1)
    with pytest.raises(Unavailable):
        source.poll(100, 0)
    source.close()
    with pytest.raises(Unavailable):
        source.open(ignore)
    source.open(ignore)
    assert values(source) == {ZERO: [b"0", b"2", b"4"], ONE: [b"1", b"3", b"5"]}


def test_a_close_makes_commits_durable() -> None:
    source = opened()
    source.commit([one.take(0, 1) for one in received(source).values()])
    source.close()
    assert not source.finished()
    source.open(ignore)
    source.commit(list(received(source).values()))
    source.close()
    assert source.finished()


def test_a_rewind_gives_back_in_order() -> None:
    source = opened()
    source.commit([source.poll(1, 0)[0]])
    received(source)
    source.rewind(ZERO)
    assert values(source) == {ZERO: [b"2", b"4"]}


def test_a_sink_fails_as_told() -> None:
    sink = FakeSink()
    letter = DeadLetter(batch(b"1")[0], ValueError("no"), 1, [])
    sink.fail()
    with pytest.raises(PublishError):
        sink.publish([letter])
    sink.publish([letter])
    assert sink.letters == [letter]
