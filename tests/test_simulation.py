"""Random runs of the real turn: none breaks a promise, and a turn with a bug in it is found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.bugs import BUGS, Bug
from tests.simulation.shrink import failure_of, replay, shrink

RUNS = int(os.environ.get("WORKER_TEST_RUNS", "2000"))
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
        if failure_of(seed):
            best, steps = shrink(seed)
            told = [" ".join(map(str, line)) for line in best.history]
            pytest.fail("\n".join([*told, f"seed {seed}, steps {steps}: {best.error}"]), pytrace=False)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_seeded_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch.setattr)
    assert any(failure_of(seed) for seed in range(6_000))


def test_a_history_that_fails_is_made_short_and_can_be_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS["commit_before_the_handler"](monkeypatch.setattr)
    seed = next(seed for seed in range(2_000) if failure_of(seed))
    best, steps = shrink(seed, patience=10.0)
    assert len(steps) <= 5
    again = replay(seed, steps)
    assert again is not None and again.history == best.history
