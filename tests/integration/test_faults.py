"""Workers that are killed, stopped, joined and cut off under load: nothing is lost, order holds, repetitions are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from tests.integration.harness import Count, KafkaStage, reconcile
from tests.waiting import moment, until
from worker.testing import KafkaContainer

BATCH, PAUSE = 300, 0.1
"""A handler that takes so long is in the middle of a batch whenever something happens."""

ALL_AT_ONCE = {"WORKER_HANDLERS__WRITE__CONCURRENCY": "4"}
"""So is each of its partitions."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def stage(kafka: KafkaContainer, tmp_path: Path) -> Iterator[KafkaStage]:
    made = KafkaStage(kafka, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("interval", [1.0, 0.05])
def test_a_worker_that_is_killed_loses_nothing(stage: KafkaStage, report: Callable[[Count], None], interval: float) -> None:
    """And repeats no more than what was in flight or finished in the last `commit_interval`."""
    produced = stage.load(limit=20_000, pace=0).finish()
    rate, kills = BATCH / PAUSE, (4_000, 8_000, 12_000)
    for enough in kills:
        worker = stage.worker(WORKER_HANDLERS__WRITE__COMMIT_INTERVAL=str(interval))
        stage.handled(enough)
        worker.kill()
    last = stage.worker(pause=0)
    stage.handled(len(produced))
    until(stage.settled)  # a partition may have been handled to its end before the kill, and be repeated still
    assert last.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    # 0.3 s: until the broker has a commit.
    assert count.duplicates <= len(kills) * (rate * (interval + 0.3) + BATCH)


def test_workers_that_join_and_leave_under_load(stage: KafkaStage, report: Callable[[Count], None]) -> None:
    load = stage.load()
    first = stage.worker(**ALL_AT_ONCE)
    stage.working(first)
    second = stage.worker(**ALL_AT_ONCE)
    stage.working(first, second)
    third = stage.worker(**ALL_AT_ONCE)
    stage.working(first, second, third)
    assert first.stop() == 0, stage.story()
    stage.working(second, third)
    second.kill()
    stage.working(third)
    fourth = stage.worker(**ALL_AT_ONCE)
    stage.working(third, fourth)
    produced = load.finish()
    stage.handled(len(produced))
    until(stage.settled)
    assert (third.stop(), fourth.stop()) == (0, 0), stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()


def test_workers_that_come_and_go_orderly_repeat_nothing(stage: KafkaStage, report: Callable[[Count], None]) -> None:
    load = stage.load()
    workers = [stage.worker(**ALL_AT_ONCE)]
    stage.working(*workers)
    for _ in range(3):
        workers.append(stage.worker(**ALL_AT_ONCE))
        stage.working(*workers)
        assert workers.pop(0).stop() == 0, stage.story()
    produced = load.finish()
    stage.handled(len(produced))
    assert workers[0].stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    assert count.duplicates == 0
    assert stage.settled(), stage.story()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_restarts_under_load(stage: KafkaStage, report: Callable[[Count], None], how: str) -> None:
    """With the client's own defaults: no session ends, so they cost no time."""
    stage.options = ""
    load = stage.load()
    worker = stage.worker()
    stage.handled(500)
    try:
        (stage.kafka.stop_broker if how == "stop" else stage.kafka.kill_broker)()
    finally:
        stage.kafka.start_broker()
    before = len(load.confirmed)
    stage.until(lambda: len(load.confirmed) > before + 1_000)
    produced = load.finish()
    stage.handled(len(produced))
    until(stage.settled)
    assert worker.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()


def test_a_handler_slower_than_the_session_keeps_its_partition(
    kafka: KafkaContainer, tmp_path: Path, report: Callable[[Count], None], request: pytest.FixtureRequest
) -> None:
    """Five seconds a batch with a session of three: the member stays the same and the group stable all the time."""
    stage = KafkaStage(kafka, tmp_path, partitions=1)
    request.addfinalizer(stage.close)
    admin = AdminClient(stage.kafka.client)

    def group() -> tuple[ConsumerGroupState, list[str]]:
        found = admin.describe_consumer_groups([stage.group])[stage.group].result(10)
        return found.state, [member.member_id for member in found.members]

    produced = stage.load(limit=40, pace=0).finish()
    worker = stage.worker(pause=5, batch_size=20)
    stage.until(lambda: stage.journal.begun() == 1)
    joined = group()
    assert joined[0] == ConsumerGroupState.STABLE and len(joined[1]) == 1
    seen = []
    stage.until(lambda: seen.append(group()) or stage.journal.begun() == 2)  # type: ignore[func-returns-value]
    assert set(map(str, seen)) == {str(joined)}
    stage.handled(len(produced))
    assert worker.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    assert (count.duplicates, count.restarts) == (0, 0)
    assert stage.settled(), stage.story()


def test_a_clean_stop_repeats_nothing(stage: KafkaStage, report: Callable[[Count], None]) -> None:
    load = stage.load()
    for _ in range(3):
        worker = stage.worker(**ALL_AT_ONCE)
        stage.working(worker)
        assert worker.stop() == 0, stage.story()
    produced = load.finish()
    worker = stage.worker(pause=0)
    stage.handled(len(produced))
    assert worker.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    assert count.duplicates == 0
    assert stage.settled(), stage.story()


def test_a_second_signal_does_not_wait(stage: KafkaStage, report: Callable[[Count], None]) -> None:
    produced = stage.load(limit=1_000, pace=0).finish()
    worker = stage.worker(pause=60)
    stage.until(lambda: stage.journal.begun() == 1)

    def signal_again() -> None:  # two signals at once may arrive as one
        worker.terminate()
        moment()

    until(lambda: not worker.running, signal_again, patience=15, why=stage.story)
    assert stage.journal.lines() == []
    again = stage.worker(pause=0)
    stage.handled(len(produced))
    assert again.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), produced)
    report(count)
    count.in_order_and_complete()
    assert stage.settled(), stage.story()
