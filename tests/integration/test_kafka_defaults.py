"""A member is killed while nobody has set anything: what the others have finished, and how long they stand still."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Count, KafkaStage, WorkerProcess, reconcile
from worker.testing import KafkaContainer

RATE = 2_000
"""Records a second."""
UNCONFIRMED = re.compile(r"(\d+) finished records could not be committed and come again")

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("defaults")]


@pytest.fixture
def stage_of(kafka: KafkaContainer, tmp_path: Path) -> Iterator[Callable[[str], KafkaStage]]:
    stages = []

    def made(options: str) -> KafkaStage:
        stages.append(KafkaStage(kafka, tmp_path, options=options))
        return stages[-1]

    yield made
    for stage in stages:
        stage.close()


def killed(stage: KafkaStage, **environ: str) -> tuple[WorkerProcess, WorkerProcess, WorkerProcess]:
    """Three of two workers: one that lives, one that is killed, and the one that is started in its place. Returns once the group
    waits for the one that was killed, and commits with it."""
    lives, dies = (stage.worker(pause=0.005, batch_size=100, **environ) for _ in range(2))
    stage.working(lives, dies)
    gate = stage.folder / "gate"
    again = stage.worker(pause=0.005, batch_size=100, GATE=str(gate), **environ)
    stage.until(lambda: gate.with_name("gate.reached").exists())
    dies.kill()
    gate.touch()
    stage.until(lambda: "waiting for partitions" in again.told())
    return lives, dies, again


def test_a_stop_while_the_group_waits_for_a_killed_member_repeats_nothing(
    stage_of: Callable[[str], KafkaStage], report: Callable[[Count], None]
) -> None:
    stage = stage_of("")
    load = stage.load()
    lives, dies, again = killed(stage)
    assert f"group {stage.group} is " in again.told()  # rebalancing, unless it took long to ask
    began = time.monotonic()
    lives.terminate()
    again.terminate()
    assert (lives.process.wait(30), again.process.wait(30)) == (0, 0), stage.story()
    assert time.monotonic() - began < 13, stage.story()
    finished = {line.number for line in stage.journal.lines() if line.pid != dies.pid}
    lines = len(stage.journal.lines())
    produced = load.finish()
    last = stage.worker(pause=0)
    stage.handled(len(produced))
    stage.until(stage.settled)
    assert last.stop() == 0, stage.story()
    assert re.search(r"assigned .*\] from [1-9]", last.told()), stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    assert not finished & {line.number for line in stage.journal.lines()[lines:]}, "what had finished came again"
    assert count.duplicates <= 2 * (RATE + 2 * 4 * 100)  # of the one that was killed


def test_commits_that_cannot_be_confirmed_are_counted_and_end_with_1(stage_of: Callable[[str], KafkaStage]) -> None:
    """A session longer than `drain`, which `worker check` warns of."""
    stage = stage_of("?session.timeout.ms=30000")
    load = stage.load()
    lives, _, again = killed(stage, WORKER_HANDLERS__WRITE__DRAIN="1")
    assert lives.stop() == 1, stage.story()
    again.kill()
    load.finish()
    committed = stage.kafka.committed(stage.group, stage.topic)
    left = [line for line in stage.journal.lines() if line.pid == lives.pid and line.offset >= committed.get(line.partition, 0)]
    told = UNCONFIRMED.search(lives.told())
    assert told is not None and int(told[1]) == len(left) > 0, (told, len(left), stage.story())
