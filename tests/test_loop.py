"""Single turns of the loop over a fake source, with time that moves only when told: floods, retries that are given back, ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from worker.errors import Flooded, PublishError, Refused, Stopped, Unavailable, WorkerError
from worker.interface import DeadLetter, Partition
from worker.lane import Shape, Work
from worker.loop import PAUSE, Loop
from worker.testing.clock import ManualClock
from worker.testing.fake import FakeSink, FakeSource
from worker.work import Again, GivenUp, Verdict

P0, P1 = Partition("orders", 0), Partition("orders", 1)
BAD = ValueError("bad")


class Turned:
    """A loop whose turns and handlers are the test's."""

    def __init__(self, records: Sequence[int] = (10,), *, batch_size: int = 10, shape: Any = (), **made: Any) -> None:
        self.clock = ManualClock()
        loop_options = {name: made.pop(name) for name in ("pauses", "wait", "sink", "threads", "drain") if name in made}
        self.source = FakeSource(idle=self.clock.advance, **made)
        for partition, count in enumerate(records):
            for number in range(count):
                self.source.put(b"%d" % number, partition=partition)
        self.told: list[bool] = []
        options = {"threads": 4, "tell_flooded": self.told.append, **loop_options}
        shape = Shape(batch_size, 0.0, positioned=self.source.ordered, **dict(shape))
        self.loop = Loop("handler", self.source, shape, clock=self.clock, **options)

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.loop.turn(0.0)

    def works(self) -> dict[Partition, Work]:
        """What may start now, claimed as a handler's thread does."""
        self.turn()
        found = {}
        while (work := self.loop.assignment.claim()) is not None:
            found[work.lane.partition] = work
        return found

    def end(self, work: Work, result: Verdict | WorkerError | None = None) -> None:
        self.loop.settle(work, Verdict(range(len(work.numbers))) if result is None else result)
        self.turn()

    def durable(self, partition: Partition = P0) -> list[int | str]:
        self.turn()
        return sorted(self.source.durable.get(partition, ()))


def again(work: Work, wait: float) -> Verdict:
    return Verdict([], again=[Again(range(len(work.numbers)), 2, 2, wait)])


def letter(work: Work, index: int) -> DeadLetter:
    return DeadLetter(work.batch.record(index), BAD, 1, ())


# Floods


def test_only_the_probes_own_success_ends_a_flood() -> None:
    """What was in flight before it says nothing about now."""
    run = Turned([30, 30], pauses=True)
    works = run.works()
    run.end(works[P0], Flooded("too many"))
    assert run.loop.probing and run.source.flooded and run.told == [True]
    run.end(works[P1])
    assert run.loop.probing and run.source.flooded and run.works() == {}
    run.clock.advance(PAUSE.limit)
    [probe] = run.works().values()
    assert len(probe.batch) == 1 and probe.probe
    run.end(probe)
    assert not run.loop.probing and not run.source.flooded and run.told == [True, False]
    assert max(len(work.batch) for work in run.works().values()) > 1


def test_a_probe_that_fails_by_name_ends_no_flood() -> None:
    run = Turned([3], pauses=True)
    [work] = run.works().values()
    run.end(work, Flooded("too many"))
    run.clock.advance(PAUSE.limit)
    [probe] = run.works().values()
    run.end(probe, again(probe, 0.0))
    assert run.loop.probing and run.source.flooded


def test_each_flood_in_a_row_pauses_longer() -> None:
    run = Turned([5], pauses=True)
    [work] = run.works().values()
    pauses = []
    for _ in range(4):
        begun = run.clock()
        run.end(work, Flooded("too many"))
        while not (found := run.works()):
            run.clock.advance(0.5)
        [work] = found.values()
        pauses.append(run.clock() - begun)
    for pause, most in zip(pauses, (5, 10, 20, 40), strict=True):
        assert most / 2 <= pause <= most + 1


def test_a_flood_that_stops_leaves_the_note_and_commits_nothing_of_it() -> None:
    run = Turned([10])
    [work] = run.works().values()
    run.end(work, Flooded("too many"))
    assert run.source.flooded and run.durable() == []
    assert run.loop.closed and run.loop.failure is not None and run.loop.failure.exit_code == 4


def test_after_a_note_of_a_flood_one_record_is_tried() -> None:
    run = Turned([10, 10])
    run.source.flooded = True
    [probe] = run.works().values()
    assert len(probe.batch) == 1 and probe.probe


# Retries that a source does not wait for


def test_a_retry_is_given_back_before_the_source_takes_the_record_back() -> None:
    """It counts from the record's arrival: its handler has taken time, too."""
    run = Turned([3, 3], hold=10.0)
    works = run.works()
    run.clock.advance(8.0)
    run.end(works[P0], again(works[P0], 5.0))
    assert sum(run.source.returns.values()) == 3 and run.works() == {}, "given back, and not consumed before it is due"
    run.clock.advance(4.0)
    assert P0 not in run.works()
    run.clock.advance(1.0)
    found = run.works()[P0]
    assert (len(found.batch), found.batch.attempt) == (3, 1)
    run.end(works[P1])
    assert len(run.durable(P1)) == 3


def test_a_retry_that_is_due_in_time_is_kept() -> None:
    run = Turned([3], hold=10.0)
    [work] = run.works().values()
    run.clock.advance(4.0)
    run.end(work, again(work, 5.0))
    assert not run.source.returns
    assert run.works() == {}
    run.clock.advance(5.0)
    [second] = run.works().values()
    assert second.batch.attempt == 2


def test_a_retry_starts_no_earlier_than_its_wait() -> None:
    run = Turned([3])
    [work] = run.works().values()
    run.end(work, again(work, 5.0))
    run.clock.advance(4.9)
    assert run.works() == {}
    run.clock.advance(0.1)
    assert len(run.works()) == 1


# What becomes of results


def test_what_is_left_to_the_broker_is_rejected_and_not_committed() -> None:
    run = Turned([3], ordered=False, shape={"ordered": False, "rejects": True})
    [work] = run.works().values()
    run.end(work, Verdict([0, 2], given_up=[GivenUp(1, BAD, 1)]))
    assert [record.id for record in run.source.rejected] == [1] and run.loop.counters.dead_lettered == 1


def test_what_is_given_up_without_a_sink_is_discarded_and_counted() -> None:
    run = Turned([3])
    [work] = run.works().values()
    run.end(work, Verdict([0, 2], given_up=[GivenUp(1, BAD, 1)]))
    assert run.durable() == [0, 1, 2]
    assert (run.loop.counters.discarded, run.loop.counters.dead_lettered, run.loop.counters.handled) == (1, 0, 2)


@pytest.mark.parametrize("ordered", [True, False])
def test_nothing_of_a_batch_is_committed_before_its_letters_are_durable(ordered: bool) -> None:
    run = Turned([3], sink=FakeSink(), shape={"ordered": ordered})
    [work] = run.works().values()
    verdict = Verdict([0, 2], given_up=[GivenUp(1, BAD, 1)], letters=[letter(work, 1)])
    run.end(work, verdict)
    assert run.durable() == []
    [taken] = run.loop.outbox.take(0.0)
    run.loop.published([(*taken, None)])
    assert run.durable() == [0, 1, 2] and run.loop.counters.dead_lettered == 1


def test_letters_that_cannot_be_published_stop_with_4_uncommitted() -> None:
    run = Turned([3], sink=FakeSink())
    [work] = run.works().values()
    run.end(work, Verdict([0, 2], given_up=[GivenUp(1, BAD, 1)], letters=[letter(work, 1)]))
    [taken] = run.loop.outbox.take(0.0)
    run.loop.published([(*taken, PublishError("nobody answers"))])
    assert run.durable() == []
    assert run.loop.closed and run.loop.failure is not None and run.loop.failure.exit_code == 4


def test_a_late_result_commits_nothing_and_is_counted() -> None:
    run = Turned([3])
    [work] = run.works().values()
    run.source.revoke([P0], lost=True)
    run.turn()
    run.end(work)
    assert run.durable() == [] and run.loop.counters.fenced == 3


def test_a_handler_that_stops_ends_with_its_code_and_what_else_ran_is_committed() -> None:
    run = Turned([3, 3])
    works = run.works()
    run.end(works[P0], Stopped("enough"))
    assert not run.loop.closed, "the other one is still at it"
    run.end(works[P1])
    assert run.loop.closed and run.durable() == [] and len(run.durable(P1)) == 3
    assert isinstance(run.loop.failure, Stopped)


# Ends and outages


def test_a_drain_waits_for_what_is_in_flight_until_its_deadline() -> None:
    run = Turned([30])
    [work] = run.works().values()
    run.loop.stop(run.clock() + 5.0)
    run.turn()
    assert not run.loop.closed and run.works() == {}, "nothing more is started"
    run.clock.advance(4.9)
    run.turn()
    assert not run.loop.closed
    run.clock.advance(0.2)
    run.turn()
    assert run.loop.closed
    run.loop.settle(work, Verdict(range(10)))
    assert not run.source.durable.get(P0)


def test_an_earlier_deadline_counts() -> None:
    run = Turned([10])
    assert run.works()
    run.loop.stop(run.clock() + 60.0)
    run.loop.stop(run.clock())
    run.turn()
    assert run.loop.closed


def test_a_queue_that_counts_returns_is_handled_to_its_end_at_a_drain() -> None:
    run = Turned([25], batch_size=10, ordered=False, counts=True, shape={"ordered": False, "limit": 10}, limit=10)
    [work] = run.works().values()
    run.loop.stop(run.clock() + 60.0)
    run.end(work)
    while found := run.works():
        for one in found.values():
            run.end(one)
    run.turn()
    assert run.loop.closed and not run.source.returns


@pytest.mark.parametrize(("wait", "ends"), [(20.0, True), (float("inf"), False)])
def test_a_broker_that_stays_away_is_waited_for_as_long_as_asked(wait: float, ends: bool) -> None:
    run = Turned([1], wait=wait)
    run.turn()
    run.source.disconnect(failing_opens=10_000)
    begun = run.clock()
    while run.clock() - begun < 200 and not run.loop.closed:
        run.clock.advance(0.5)
        run.turn(1)
    assert run.loop.closed is ends
    if ends:
        assert 20 <= run.clock() - begun <= 20 + 31, "not before, and at the next try"
        assert isinstance(run.loop.failure, Unavailable) and run.loop.failure.exit_code == 3


def test_tries_to_reconnect_become_rarer() -> None:
    run = Turned([1])
    run.turn()
    opens, begun = list[float](), run.clock()
    run.source.disconnect(failing_opens=10_000)
    real = run.source.open

    def opening(on_revoke: Any) -> None:
        opens.append(run.clock() - begun)
        real(on_revoke)

    run.source.open = opening  # type: ignore[method-assign]
    while run.clock() - begun < 300:
        run.clock.advance(0.1)
        run.turn(1)
    assert 0.4 <= opens[0] <= 1.2 and 12 <= len(opens) <= 30


def test_a_refusal_stops_at_once_with_3() -> None:
    run = Turned([1], wait=1_000.0)

    def refuse(on_revoke: Any) -> None:
        raise Refused("no such topic")

    run.source.open = refuse  # type: ignore[method-assign]
    run.turn()
    assert run.loop.closed and run.loop.failure is not None and run.loop.failure.exit_code == 3


def test_a_missing_destination_of_dead_letters_is_told_before_anything_is_read() -> None:
    class Missing(FakeSink):
        def open(self) -> None:
            raise Refused("no such topic")

    run = Turned([1], sink=Missing())
    run.turn()
    assert run.loop.closed and isinstance(run.loop.failure, Refused) and run.source.polls == 0


def test_what_finished_before_an_outage_is_committed_no_more() -> None:
    run = Turned([10])
    [work] = run.works().values()
    run.source.disconnect()
    run.turn()
    run.end(work)
    run.clock.advance(60.0)
    [second] = run.works().values()
    assert second.batch.attempt == 1 and run.durable() == []
    run.end(second)
    assert len(run.durable()) == 10


def test_a_partition_that_is_given_back_is_waited_for_no_longer_than_the_drain() -> None:
    run = Turned([10], drain=7.0)
    [work] = run.works().values()
    waited = []

    class Wake:
        def wait(self, seconds: float) -> None:
            waited.append(seconds)
            run.clock.advance(0.5)

        def clear(self) -> None: ...

        def set(self) -> None: ...

        def is_set(self) -> bool:
            return True

    run.loop.assignment.wake = Wake()  # type: ignore[assignment]
    run.source.revoke([P0])
    run.loop.turn(0.0)
    assert 13 <= len(waited) <= 15
    run.end(work)
    assert run.durable() == [] and run.loop.counters.fenced == 10


def test_a_later_deadline_does_not() -> None:
    run = Turned([10])
    assert run.works()
    run.loop.stop(run.clock() + 5.0)
    run.loop.stop(run.clock() + 60.0)
    run.clock.advance(5.1)
    run.turn()
    assert run.loop.closed


@pytest.mark.parametrize(("ordered", "waits"), [(True, True), (False, False)])
def test_in_order_what_comes_back_waits_for_a_call_from_before(ordered: bool, waits: bool) -> None:
    run = Turned([3], shape={"ordered": ordered})
    [late] = run.works().values()
    run.source.revoke([P0], lost=True)
    run.turn()
    run.source.give_back([P0])
    found = run.works()
    assert bool(found) is not waits
    run.end(late)
    found = found or run.works()
    run.end(found[P0])
    assert run.durable() == [0, 1, 2]
