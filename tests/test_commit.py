"""Position moves only over a finished prefix in the order delivered."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.support import batch
from worker.commit import Each, Prefix
from worker.interface import Batch


def ids(batches: list[Batch]) -> list[int | str]:
    return [record.id for one in batches for record in one]


def test_a_whole_batch_in_turn_is_released_as_it_is() -> None:
    position, first = Prefix(), batch(b"a", b"b")
    numbers = position.deliver(first)
    assert position.finish(numbers, first) == [first]
    assert position.open == 0


def test_nothing_moves_past_what_is_not_finished() -> None:
    position, first, second = Prefix(), batch(b"a", b"b", b"c"), batch(b"d", start=3)
    one, two = position.deliver(first), position.deliver(second)
    assert position.finish(two, second) == []
    assert ids(position.finish([one[0], one[2]], first.pick([0, 2]))) == [0]
    assert position.open == 3
    assert ids(position.finish([one[1]], first.pick([1]))) == [1, 2, 3]
    assert position.open == 0


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_finishing_releases_each_record_once_in_order(seed: int) -> None:
    rng = random.Random(seed)
    position, todo, released, start = Prefix(), [], [], 0
    finished: set[int] = set()
    for _ in range(rng.randint(1, 8)):
        size = rng.randint(1, 6)
        one = batch(*[b"x"] * size, start=start * 3)  # ids with gaps, as compaction leaves them
        start += size
        numbers = position.deliver(one)
        indices = list(range(size))
        rng.shuffle(indices)
        todo.append((one, numbers, indices))
        while rng.random() < 0.7 and todo:
            pick = rng.choice(todo)
            some = sorted(pick[2].pop() for _ in range(rng.randint(1, len(pick[2]))))
            finished |= {pick[1][i] for i in some}
            released += ids(position.finish([pick[1][i] for i in some], pick[0].pick(some)))
            todo = [entry for entry in todo if entry[2]]
            assert len(released) == next(n for n in range(start + 1) if n not in finished)
    for one, numbers, indices in todo:
        released += ids(position.finish([numbers[i] for i in sorted(indices)], one.pick(sorted(indices))))
    assert len(released) == start and position.open == 0
    assert all(a < b for a, b in pairwise(released))


def test_a_queue_settles_each_alone() -> None:
    position, first = Each(), batch(b"a", b"b", b"c")
    position.deliver(first)
    part = first.pick([1])
    assert position.finish([1], part) == [part]
    assert position.open == 2
