"""Every kind of fault with a connection URL that sets nothing: the sessions are as long as the defaults make them.

The other fault tests ask for short sessions and so cannot see what a long one does. These wait most of the time, so each
plays on a topic and a group of its own while the others of this file do the same.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.chaos.stage import advertise
from tests.conftest import need_engine
from tests.integration.harness import Count, KafkaStage, Load, WorkerProcess, reconcile
from tests.waiting import until
from worker.testing import KafkaContainer, ToxiproxyContainer
from worker.testing.toxiproxy import Proxy

pytestmark = [pytest.mark.docker, pytest.mark.timeout(360), pytest.mark.xdist_group("defaults")]

PATIENCE = 200.0


@dataclass
class Play:
    """One fault on a topic of its own, under load."""

    stage: KafkaStage
    load: Load
    route: Proxy
    """Another way to the broker, which a test may cut."""

    def worker(self) -> WorkerProcess:
        return self.stage.worker(WORKER_HANDLERS__WRITE__CONCURRENCY="4")

    def two(self) -> tuple[WorkerProcess, WorkerProcess]:
        first = self.worker()
        self.stage.working(first)
        second = self.worker()
        self.stage.working(first, second)
        return first, second

    def taken_over(self, by: WorkerProcess) -> None:
        """Waits until `by` handles records of each partition."""
        before = len(self.stage.journal.lines())

        def partitions() -> set[int]:
            return {line.partition for line in self.stage.journal.lines()[before:] if line.pid == by.pid}

        self.stage.until(lambda: len(partitions()) == 4, PATIENCE)

    def end(self) -> Count:
        """The workers that live handle the rest and stop."""
        produced = self.load.finish()
        self.stage.until(lambda: {line.number for line in self.stage.journal.lines()} >= produced, PATIENCE)
        until(self.stage.settled, why=self.stage.story)
        for worker in self.stage.workers:
            if worker.running:
                assert worker.stop() == 0, self.stage.story()
        return reconcile(self.stage.journal.lines(), produced)


def kill(play: Play) -> None:
    first, second = play.two()
    first.kill()
    play.taken_over(second)


def freeze(play: Play) -> None:
    """It goes on after the others have taken its partitions, in the middle of a batch."""
    first, second = play.two()
    first.process.send_signal(signal.SIGSTOP)
    play.taken_over(second)
    first.process.send_signal(signal.SIGCONT)
    play.stage.working(first, second)


def cut(play: Play) -> None:
    play.stage.bootstrap, direct = play.route.address, play.stage.bootstrap
    first = play.worker()
    play.stage.working(first)
    play.stage.bootstrap = direct
    second = play.worker()
    play.stage.working(first, second)
    play.route.cut()
    play.taken_over(second)
    play.route.restore()
    play.stage.working(first, second)


def join_and_leave(play: Play) -> None:
    first, second = play.two()
    third = play.worker()
    play.stage.working(first, second, third)
    for worker in (first, second):
        assert worker.stop() == 0, play.stage.story()
    play.taken_over(third)


def stop_after_a_kill(play: Play) -> None:
    first, second = play.two()
    first.kill()
    third = play.worker()
    play.stage.until(lambda: "joining" in third.told())  # before that it does not listen to signals
    for worker in (second, third):
        assert worker.stop() == 0, play.stage.story()
    play.worker()


KINDS: dict[str, Callable[[Play], None]] = {f.__name__: f for f in (kill, freeze, cut, join_and_leave, stop_after_a_kill)}


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, toxiproxy: ToxiproxyContainer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Count]]]:
    """All that this run asked for, at once."""
    need_engine()
    wanted = {item.callspec.params.get("kind") for item in request.session.items if hasattr(item, "callspec")}
    kafka = KafkaContainer()
    route = advertise(kafka, toxiproxy)["a"]

    def run(kind: str) -> Count:
        stage = KafkaStage(kafka, tmp_path_factory.mktemp(kind), options="")
        with closing(stage):
            play = Play(stage, stage.load(pace=0.1), route)
            KINDS[kind](play)
            return play.end()

    with kafka, ThreadPoolExecutor(len(KINDS)) as pool:
        yield {kind: pool.submit(run, kind) for kind in KINDS if kind in wanted}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(plays: dict[str, Future[Count]], report: Callable[[Count], None], kind: str) -> None:
    count = plays[kind].result()
    report(count)
    count.in_order_and_complete()
    if kind == "join_and_leave":
        assert count.duplicates == 0
