"""Random runs of the real turn: none breaks a promise, and a turn with a bug in it is found."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests import simulation
from worker.deadletter import DeadLetters
from worker.interface import Batch
from worker.lane import Lane
from worker.loop import Loop
from worker.position import Prefix

RUNS = int(os.environ.get("WORKER_TEST_RUNS", "10000"))
FIRST = int(os.environ.get("WORKER_TEST_SEED", "0"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    log = logging.getLogger("worker")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


@pytest.mark.parametrize("part", range(10))
def test_no_promise_is_broken(part: int) -> None:
    size = RUNS // 10
    for seed in range(FIRST + part * size, FIRST + (part + 1) * size):
        if found := simulation.failure_of(seed):
            error, history = found
            pytest.fail("\n".join([*history[-60:], f"{error}: replay with python -m tests.simulation {seed}"]), pytrace=False)


def late_results_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: Loop) -> None:
        while self.outcomes:
            work, result = self.outcomes.popleft()
            self.lanes.setdefault(work.lane.partition, work.lane)
            self._take_in(work.lane, work, result)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_settle", settle)


def commit_before_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    give = Loop._give

    def early(self: Loop, work: Any) -> None:
        self._finished.append(work.batch)
        give(self, work)

    monkeypatch.setattr(Loop, "_give", early)


def position_skips_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: Prefix, numbers: Sequence[int], batch: Batch) -> list[Batch]:
        self._move(len(numbers))
        self._done.clear()
        return [batch]

    monkeypatch.setattr(Prefix, "finish", finish)


def unconfirmed_dead_letters_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: DeadLetters, sink: Any, letters: Any) -> None:
        if not sink.failures:
            sink.publish(letters)
        else:
            sink.failures.clear()

    monkeypatch.setattr(DeadLetters, "_publish", publish)


def halves_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Lane.settle

    def backwards(self: Lane, work: Any, verdict: Any, now: float) -> Any:
        verdict.again.reverse()
        return settle(self, work, verdict, now)

    monkeypatch.setattr(Lane, "settle", backwards)


def two_batches_of_a_partition_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    give = Loop._give

    def forget(self: Loop, work: Any) -> None:
        give(self, work)
        work.lane.busy[work.slot] = None

    monkeypatch.setattr(Loop, "_give", forget)


def a_drain_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Loop.stop
    monkeypatch.setattr(Loop, "stop", lambda self, deadline: stop(self, -1.0))


def keys_in_any_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    import itertools

    import worker.lane

    counter = itertools.count()
    monkeypatch.setattr(worker.lane, "crc32", lambda key: next(counter))


def the_next_batch_does_not_wait_for_a_late_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_held", lambda self, lane: False)


def a_rewind_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "idle", property(lambda self: True))


def what_was_fetched_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_starting", property(lambda self: not self.draining))


def given_up_and_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker's policy is for is acknowledged as well."""
    take_in = Loop._take_in

    def both(self: Loop, lane: Lane, work: Any, verdict: Any) -> None:
        take_in(self, lane, work, verdict)
        self._finished += self._rejected

    monkeypatch.setattr(Loop, "_take_in", both)


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    late_results_count,
    commit_before_the_handler,
    position_skips_a_gap,
    unconfirmed_dead_letters_count,
    halves_in_the_wrong_order,
    two_batches_of_a_partition_at_once,
    a_drain_that_does_not_wait,
    keys_in_any_slot,
    the_next_batch_does_not_wait_for_a_late_one,
    a_rewind_does_not_wait,
    what_was_fetched_is_given_back,
    given_up_and_finished,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_seeded_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert any(_breaks(seed) for seed in range(2_000))


def _breaks(seed: int) -> bool:
    try:
        return simulation.failure_of(seed) is not None
    except Exception:
        return True
