"""Short campaigns, so that each change has seen some chaos; `make chaos` runs long ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Result
from tests.chaos.stage import stage
from worker.testing import ToxiproxyContainer

SEED = int(os.environ.get("WORKER_TEST_SEED", "1"))
QUICK = ("kill", "massacre", "nap", "cut", "delay", "dead-cut", "crash", "join", "leave", "grow", "hang", "flood")
"""Faults that are over soon."""

pytestmark = pytest.mark.timeout(240)

Play = Callable[..., Result]


@pytest.fixture
def play(toxiproxy: ToxiproxyContainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    def play(
        broker: str, seconds: float, least: int, kinds: Sequence[str] = QUICK, bug: str | None = None, enough: int = 0
    ) -> Result:
        with closing(stage(broker, toxiproxy)) as made:
            result = Campaign(broker, made, tmp_path, SEED, seconds, least, kinds, bug, enough).run()
        with capsys.disabled():
            count = result.count
            print(
                f"\n{broker}, seed {SEED}: {len(result.faults)} faults, {count.produced} produced, {len(count.lost)} lost, "
                f"{len(count.disorder)} out of order, {dict(count.duplicates)} repeated"
            )
        return result

    return play


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq", "activemq"])
def test_no_promise_is_broken(play: Play, broker: str) -> None:
    result = play(broker, seconds=12, least=8, enough=1_001)
    assert result.violations == {}
    assert result.count.produced > 1_000 and len(result.faults) >= 5


def test_a_planted_bug_is_found(play: Play) -> None:
    result = play("activemq", seconds=9, least=6, kinds=("kill", "massacre"), bug="settled_at_receipt")
    assert result.count.lost
