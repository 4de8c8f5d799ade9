"""Workers on queues that are killed, cut off and restarted: nothing is lost, repetitions are bounded and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Count, QueueStage, reconcile
from worker.testing import ActiveMQContainer, RabbitMQContainer, ToxiproxyContainer

BATCH, PAUSE = 100, 0.05
"""A handler that takes so long is in the middle of a batch whenever something happens."""
IN_ORDER = {"WORKER_HANDLERS__WRITE__ORDERED": "true"}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

Make = Callable[..., QueueStage]
ALL = pytest.mark.parametrize("make", ["quorum", "classic", "activemq"], indirect=True)


@pytest.fixture(params=["quorum", "activemq"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[QueueStage] = []

    def make(count: int, **queue: Any) -> QueueStage:
        """`alone`: one consumer at a time is active."""
        alone = queue.pop("alone", False)
        if request.param == "activemq":
            activemq: ActiveMQContainer = request.getfixturevalue("activemq")
            made.append(QueueStage(activemq, tmp_path, count))
            made[-1].options = "?activemq.exclusive=true" if alone else ""
        else:
            rabbitmq: RabbitMQContainer = request.getfixturevalue("rabbitmq")
            one = {"x_single_active_consumer": True} if alone else {}
            made.append(QueueStage(rabbitmq, tmp_path, count, kind=request.param, **one))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def finish(stage: QueueStage, report: Callable[[Count], None], **environ: str) -> Count:
    """One more worker handles the rest; what all of them did is reconciled."""
    if not any(worker.running for worker in stage.workers):
        stage.worker(pause=0, batch_size=BATCH, **environ)
    stage.handled(len(stage.produced))
    for worker in stage.workers:
        if worker.running:
            assert worker.stop() == 0, stage.story()
    count = reconcile(stage.journal.lines(), stage.produced)
    report(count)
    assert not count.lost, f"{len(count.lost)} of {count.produced} lost: {count.lost[:10]}"
    assert stage.settled()
    return count


@ALL
def test_workers_that_are_killed_lose_nothing(make: Make, report: Callable[[Count], None]) -> None:
    """What is repeated was in flight: a batch that was handled and not yet acknowledged."""
    stage = make(4_000)
    for enough in (800, 1_600, 2_400):
        worker = stage.worker(pause=PAUSE, batch_size=BATCH)
        stage.handled(enough)
        worker.kill()
    count = finish(stage, report)
    assert count.duplicates <= 3 * 2 * BATCH


def test_clean_stops_repeat_nothing(make: Make, report: Callable[[Count], None]) -> None:
    stage = make(4_000)
    for _ in range(3):
        worker = stage.worker(pause=PAUSE, batch_size=BATCH)
        stage.working(worker)
        assert worker.stop() == 0, stage.story()
    assert finish(stage, report).duplicates == 0


def test_several_workers_share_a_queue(make: Make, report: Callable[[Count], None]) -> None:
    stage = make(6_000)
    workers = [stage.worker(pause=PAUSE, batch_size=BATCH) for _ in range(3)]
    stage.working(*workers)
    workers[0].kill()
    assert workers[1].stop() == 0
    count = finish(stage, report)
    assert count.duplicates <= 2 * BATCH


def test_in_order_one_after_the_other(make: Make, report: Callable[[Count], None]) -> None:
    """Of two workers one is active; it is stopped, killed, and stopped again, and the next goes on where it was."""
    stage = make(10_000, alone=True)
    first = stage.worker(pause=2 * PAUSE, batch_size=BATCH, **IN_ORDER)
    stage.working(first)
    second = stage.worker(pause=2 * PAUSE, batch_size=BATCH, **IN_ORDER)
    stage.until(lambda: "write: connected" in second.told())
    assert first.stop() == 0, stage.story()
    stage.working(second)
    third = stage.worker(pause=2 * PAUSE, batch_size=BATCH, **IN_ORDER)
    stage.until(lambda: "write: connected" in third.told())
    second.kill()
    stage.working(third)
    assert third.stop() == 0, stage.story()
    count = finish(stage, report, **IN_ORDER)
    count.in_order_and_complete()
    assert count.duplicates <= 2 * BATCH


@ALL
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_restarts(make: Make, report: Callable[[Count], None], how: str) -> None:
    """The worker comes back by itself, in order."""
    stage = make(3_000)
    stage.worker(pause=PAUSE, batch_size=BATCH, **IN_ORDER)
    stage.handled(500)
    try:
        (stage.broker.stop_broker if how == "stop" else stage.broker.kill_broker)()
    finally:
        stage.broker.start_broker()
    count = finish(stage, report)
    count.in_order_and_complete()
    if not (how == "kill" and stage.kind == "classic"):  # which keeps acks in memory for a while
        assert count.duplicates <= 2 * BATCH


@pytest.mark.parametrize("how", ["cut", "silence"])
def test_a_connection_that_breaks(make: Make, report: Callable[[Count], None], toxiproxy: ToxiproxyContainer, how: str) -> None:
    stage = make(3_000)
    proxy = toxiproxy.proxy(stage.broker.address)
    stage.address, stage.options = proxy.address, "?heartbeat=2" if how == "silence" else ""
    worker = stage.worker(pause=PAUSE, batch_size=BATCH, **IN_ORDER)
    for enough in (500, 1_000):
        stage.handled(enough)
        getattr(proxy, how)()
        told = worker.told().count("trying again in")
        stage.until(lambda told=told: worker.told().count("trying again in") > told)
        proxy.restore()
    count = finish(stage, report)
    count.in_order_and_complete()
    assert count.duplicates <= 2 * 2 * BATCH


def test_a_handler_slower_than_the_heartbeats(make: Make, report: Callable[[Count], None]) -> None:
    stage = make(30)
    stage.options = "?heartbeat=2"
    stage.worker(pause=6, batch_size=10)
    count = finish(stage, report)
    assert count.duplicates == 0
    assert "trying again" not in stage.workers[0].told()
