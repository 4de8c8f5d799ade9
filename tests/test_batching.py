"""A batch ends by count, by bytes (never exceeded but by one record alone), or by the age of its first record."""

from __future__ import annotations

import random

import pytest

from tests.support import batch
from worker.batching import Waiting


def test_the_window_counts_from_the_first_arrival() -> None:
    waiting = Waiting(batch_size=10, window=0.5, max_bytes=1_000)
    waiting.add(batch(b"a"), now=7.0)
    waiting.add(batch(b"b", start=1), now=7.4)
    assert (waiting.due, waiting.full()) == (7.5, False)
    assert waiting.take(10).values() == [b"a", b"b"]


def test_what_is_left_keeps_its_own_arrival() -> None:
    waiting = Waiting(batch_size=2, window=0.5, max_bytes=1_000)
    waiting.add(batch(b"a"), now=1.0)
    waiting.add(batch(b"b", b"c", start=1), now=2.0)
    assert waiting.full()
    assert waiting.take(2).values() == [b"a", b"b"]
    assert (waiting.due, waiting.count) == (2.5, 1)


def test_bytes_are_not_exceeded() -> None:
    waiting = Waiting(batch_size=10, window=1, max_bytes=10)
    waiting.add(batch(b"x" * 6, b"y" * 4, b"z"), now=0)
    assert waiting.full()
    assert waiting.take(10).values() == [b"x" * 6, b"y" * 4]
    assert waiting.take(10).values() == [b"z"]


def test_a_record_that_alone_exceeds_them_goes_alone() -> None:
    waiting = Waiting(batch_size=10, window=1, max_bytes=10)
    waiting.add(batch(b"a", b"x" * 50, b"b"), now=0)
    assert [waiting.take(10).values() for _ in range(3)] == [[b"a"], [b"x" * 50], [b"b"]]
    assert (waiting.count, waiting.bytes) == (0, 0)


@pytest.mark.parametrize("seed", range(200))
def test_any_arrivals_come_out_once_in_order_within_bounds(seed: int) -> None:
    rng = random.Random(seed)
    waiting = Waiting(batch_size=rng.randint(1, 8), window=1, max_bytes=rng.randint(1, 40))
    fed, out = 0, []
    for step in range(40):
        size = rng.randint(1, 12)
        waiting.add(batch(*[b"v" * rng.choice([0, 1, 5, 9, 60]) for _ in range(size)], start=fed), now=step)
        fed += size
        while waiting.full() or (step == 39 and waiting.count):
            most = rng.randint(1, 10)
            taken = waiting.take(most)
            assert 1 <= len(taken) <= min(most, waiting.batch_size)
            assert taken.size() <= waiting.max_bytes or len(taken) == 1
            out += [record.id for record in taken]
            assert waiting.count == fed - len(out)
    assert out == list(range(fed))
