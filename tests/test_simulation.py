"""Random runs of the real turn: none breaks a promise, and a turn with a bug in it is found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests import simulation
from tests.bugs import BUGS, Bug

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


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_seeded_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch.setattr)
    assert any(_breaks(seed) for seed in range(2_000))


def _breaks(seed: int) -> bool:
    try:
        return simulation.failure_of(seed) is not None
    except Exception:
        return True
