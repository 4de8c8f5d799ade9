"""Who turns the loop, with real threads over a fake broker: the slow handler, the drain, the fence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.waiting import until
from worker.deadletter import DeadLetters, Fuse
from worker.decode import shape
from worker.dispatch import Dispatch
from worker.errors import PublishError, Reject, Stopped, Stuck, Unavailable
from worker.interface import Batch, DeadLetter, Partition
from worker.lane import Shape
from worker.loop import BUSY, Loop
from worker.rebalance import Assignment
from worker.retry import Backoff, Policy
from worker.testing.fake import FakeSink, FakeSource
from worker.threads import EventLoop, Threads

P0, P1 = Partition("orders", 0), Partition("orders", 1)


class Run:
    def __init__(self, loop: Loop, threads: Threads, closed: threading.Event) -> None:
        self.loop, self.threads, self.closed = loop, threads, closed

    def stop(self, drain: float = 5.0) -> None:
        self.loop.stop(time.monotonic() + drain)
        until(lambda: self.loop.closed)


@contextmanager
def running(
    source: FakeSource,
    handler: Callable[..., Any],
    *,
    concurrency: int = 1,
    sink: FakeSink | None = None,
    drain: float = 5.0,
    timeout: float | None = None,
    joins: bool = True,
    **made: Any,
) -> Iterator[Run]:
    wants = shape(handler)
    events = EventLoop() if wants.is_async else None
    if events:
        events.start()
    retries = made.pop("retries", None)
    lanes = Shape(**{"batch_size": 10, "window": 0.0, **made})
    loop = Loop("handler", source, lanes, clock=time.monotonic, threads=concurrency, drain=drain, sink=sink)
    policy = Policy.of(retries, "x:y" if sink else None, Backoff(0.001), True, True)
    dispatch = Dispatch(
        "handler", handler, wants, policy, DeadLetters("app.handler", sink, discard=False, fuse=Fuse(1)), timeout=timeout
    )
    closed = threading.Event()
    threads = Threads(loop, dispatch, concurrency=concurrency, events=events, on_closed=closed.set)
    threads.start()
    run = Run(loop, threads, closed)
    try:
        yield run
    finally:
        loop.stop(time.monotonic())
        until(lambda: loop.closed)
        assert not joins or threads.join(5.0)
        if events:
            events.stop()
        assert threads.crash is None


def gaps(source: FakeSource, seen: list[float]) -> None:
    poll = source.poll

    def timed(most: int, timeout: float) -> list[Batch]:
        seen.append(time.monotonic())
        result = poll(most, timeout)
        seen.append(time.monotonic())
        return result

    source.poll = timed  # type: ignore[method-assign]


def test_a_slow_handler_does_not_keep_the_source_from_being_polled() -> None:
    source, polls = FakeSource(), []
    gaps(source, polls)
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        began.set()
        release.wait(10)

    source.put(b"x")
    with running(source, handle):
        assert began.wait(5)
        at = len(polls)
        until(lambda: len(polls) > at + 100)
        release.set()
        until(source.finished)
    quiet = [after - before for before, after in zip(polls[at:-1:2], polls[at + 1 :: 2], strict=False)]
    assert max(quiet) < 0.5  # a bound for busy machines; the benchmark measures it


def test_behind_a_slow_handler_no_more_is_taken_than_the_next_batch() -> None:
    source = FakeSource()
    for number in range(100_000):
        source.put(b"%d" % number, partition=number % 2)
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        began.set()
        release.wait(10)

    with running(source, handle):
        assert began.wait(5)
        polls = source.polls
        until(lambda: source.polls > polls + 50)
        assert source.received <= 1_000
        assert source.pauses == 0
        release.set()


def most_waiting(loop: Loop, condition: Callable[[], object]) -> int:
    """Until the condition is true."""
    most = 0

    def look() -> object:
        nonlocal most
        most = max(most, sum(lane.waiting.count for lane in list(loop.lanes.values())))
        return condition()

    until(look)
    return most


def test_async_partitions_that_stand_still_are_paused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.WAITING", 5_000)
    monkeypatch.setattr("worker.loop.SLOW", 0.1)
    source = FakeSource()
    for number in range(40_000):
        source.put(b"%d" % number, partition=number // 10_000)  # a client hands them out in runs, too
    handled, released = [0], asyncio.Event()

    async def handle(b: Batch) -> None:
        if b.partition.id != 3:
            await released.wait()
        handled[0] += len(b)

    with running(source, handle, batch_size=100, concurrency=1_000) as run:
        assert most_waiting(run.loop, lambda: handled[0] == 10_000) <= 5_000 + 4 * 2_000
        assert run.threads._events is not None
        run.threads._events.loop.call_soon_threadsafe(released.set)


def test_partitions_that_retry_for_ever_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has less behind its retry than is too much for one, but together they have."""
    monkeypatch.setattr("worker.loop.SLOW", 0.1)
    source = FakeSource()
    for partition in range(3):
        source.put(b"bad", partition=partition)
        for _ in range(9):
            source.put(bytes(100), partition=partition)
    for _ in range(1_000):
        source.put(b"good", partition=3)
    good = [0]

    def handle(b: Batch) -> None:
        if b.values()[0] == b"bad":
            raise ValueError("never")
        good[0] += b.values().count(b"good")

    with running(source, handle, batch_size=100, max_bytes=1_000):
        until(lambda: good[0] == 1_000)


def test_async_partitions_that_go_on_are_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause throws away what the client has fetched."""
    monkeypatch.setattr("worker.loop.WAITING", 5_000)
    monkeypatch.setattr("worker.loop.SLOW", 60.0)  # a busy machine takes long, too
    source = FakeSource()
    for number in range(20_000):
        source.put(b"%d" % number, partition=number // 10_000)

    async def handle(b: Batch) -> None:
        await asyncio.sleep(0.001)

    with running(source, handle, batch_size=100, concurrency=1_000) as run:
        most = most_waiting(run.loop, source.finished)
    assert source.pauses == 0 and 2_000 < most <= 5_000 + 2_000 + 500


def test_one_thread_runs_every_call_at_concurrency_1() -> None:
    source, seen = FakeSource(), set()

    def handle(b: Batch) -> None:
        seen.add(threading.get_ident())

    for number in range(500):
        source.put(b"x", partition=number % 3)
    with running(source, handle):
        until(source.finished)
    assert len(seen) == 1


def test_concurrency_runs_partitions_at_once_and_never_one_of_them_twice() -> None:
    source, inside, most, lock = FakeSource(), set[Partition](), [0], threading.Lock()
    together = threading.Barrier(3, timeout=10)

    def handle(b: Batch) -> None:
        with lock:
            assert b.partition not in inside
            inside.add(b.partition)
            most[0] = max(most[0], len(inside))
        together.wait()
        with lock:
            inside.discard(b.partition)

    for number in range(30):
        source.put(b"x", partition=number % 3)
    with running(source, handle, concurrency=3):
        until(source.finished)
    assert most[0] == 3


def test_async_handlers_of_several_partitions_overlap() -> None:
    source, inside, most, together = FakeSource(), [0], [0], asyncio.Event()

    async def handle(values: list[bytes]) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if most[0] == 4:
            together.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(together.wait(), 2)
        inside[0] -= 1

    for number in range(40):
        source.put(b"x", partition=number % 4)
    with running(source, handle):
        until(source.finished)
    assert most[0] == 4


def test_a_clean_stop_finishes_what_is_in_flight_and_commits_it() -> None:
    source, handled = FakeSource(), []
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        began.set()
        release.wait(10)
        handled.extend(record.id for record in b)

    for _ in range(100):
        source.put(b"x")
    with running(source, handle) as run:
        assert began.wait(5)
        run.loop.stop(time.monotonic() + 10)
        release.set()
        until(lambda: run.loop.closed)
    assert handled == list(range(10))
    assert source.durable[P0] == set(handled)


def test_a_stop_does_not_wait_past_its_deadline_and_then_nothing_counts() -> None:
    source = FakeSource()
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        began.set()
        release.wait(10)

    source.put(b"x")
    with running(source, handle) as run:
        assert began.wait(5)
        run.stop(drain=0.0)
        release.set()
    assert not source.durable.get(P0)


def test_a_revocation_waits_for_the_batch_in_flight_and_commits_it() -> None:
    source = FakeSource()
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        if b.partition == P0 and not release.is_set():
            began.set()
            release.wait(10)

    source.put(b"x", partition=0)
    with running(source, handle):
        assert began.wait(5)
        source.revoke([P0])
        threading.Timer(0.1, release.set).start()
        until(lambda: source.durable.get(P0) == {0})


def test_a_late_result_of_a_lost_partition_is_dropped() -> None:
    source = FakeSource()
    began, release = threading.Event(), threading.Event()

    def handle(b: Batch) -> None:
        began.set()
        release.wait(10)

    source.put(b"x")
    with running(source, handle) as run:
        assert began.wait(5)
        source.revoke([P0], lost=True)
        until(lambda: P0 not in run.loop.lanes)
        release.set()
        until(lambda: run.loop.counters.fenced == 1)
    assert not source.durable.get(P0)


def test_a_handler_that_stops_leaves_its_record_and_commits_the_others() -> None:
    source = FakeSource()

    def handle(b: Batch) -> None:
        if b.partition == P1:
            raise Reject("no")

    source.put(b"x", partition=0)
    with running(source, handle) as run:
        until(source.finished)
        source.put(b"x", partition=1)
        until(lambda: run.loop.closed)
    assert isinstance(run.loop.failure, Stopped)
    assert (source.durable[P0], source.durable.get(P1, set())) == ({0}, set())


def test_an_outage_is_sat_out_and_everything_unfinished_comes_again() -> None:
    source, handled = FakeSource(), []
    source.put(b"x")
    source.disconnect(failing_opens=1)

    def handle(b: Batch) -> None:
        handled.extend(record.id for record in b)

    with running(source, handle):
        source.put(b"y")
        until(source.finished, patience=20)
    assert sorted(set(handled)) == [0, 1]


def test_a_source_that_could_not_be_opened_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a queue that it did open keeps its messages, in a connection that nobody looks after."""
    monkeypatch.setattr("worker.loop.RECONNECT", Backoff(0.01))
    source, told = FakeSource(), []
    opening, closing = source.open, source.close

    def opened(on_revoke: Any) -> None:
        told.append("open")
        opening(on_revoke)
        if len(told) < 5:
            raise Unavailable("its second queue is not there")

    source.open = opened  # type: ignore[method-assign]
    source.close = lambda remaining=None: (told.append("close"), closing())[-1]  # type: ignore[method-assign, func-returns-value]
    source.put(b"x")
    with running(source, lambda b: None):
        until(source.finished)
        assert told == ["open", "close"] * 2 + ["open"]


def test_a_bug_in_a_source_ends_the_threads_and_is_kept() -> None:
    source = FakeSource()

    def poll(most: int, timeout: float) -> list[Batch]:
        raise ZeroDivisionError

    source.poll = poll  # type: ignore[method-assign]
    loop = Loop("handler", source, Shape(), clock=time.monotonic)
    closed = threading.Event()

    def handle(b: Batch) -> None: ...

    dispatch = Dispatch("handler", handle, shape(handle), Policy(), DeadLetters("a.b", None, discard=False, fuse=Fuse(0.5)))
    threads = Threads(loop, dispatch, concurrency=1, events=None, on_closed=closed.set)
    threads.start()
    assert closed.wait(5) and threads.join(5)
    assert isinstance(threads.crash, ZeroDivisionError)


def test_a_call_that_hangs_is_given_up_and_the_partition_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    source, sink, release, seen = FakeSource(), FakeSink(), threading.Event(), []
    for n in range(6):
        source.put(b"%d" % n, partition=n % 2)

    def hang_on_three(value: bytes) -> None:
        if value == b"3":
            release.wait()
        seen.append(value)

    made = running(source, hang_on_three, sink=sink, timeout=0.05, retries=1)
    with made as run:
        until(lambda: len(sink.letters) == 1 and len(source.durable.get(P1, ())) == 3)
        release.set()
        run.stop()
    assert [letter.record.value for letter in sink.letters] == [b"3"]
    assert isinstance(sink.letters[0].error, TimeoutError)
    assert seen.count(b"3") == 4, "the calls returned in the end, and counted for nothing"
    told = next(record.getMessage() for record in caplog.records if "took longer" in record.getMessage())
    assert "release.wait()" in told, "the stack says where"


def test_too_many_stuck_threads_stop_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.threads.STUCK", 3)
    source, release = FakeSource(), threading.Event()
    source.put(b"1")
    with running(source, lambda batch: release.wait() and None, timeout=0.02, joins=False) as run:
        until(lambda: run.loop.closed)
        assert isinstance(run.loop.failure, Stuck)
        release.set()
    assert not source.durable.get(P0)


def test_an_async_call_that_hangs_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    source, sink, ended = FakeSource(), FakeSink(), []
    for n in range(3):
        source.put(b"%d" % n)

    async def hang_on_one(value: bytes) -> None:
        if value == b"1":
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(value)

    with running(source, hang_on_one, sink=sink, timeout=0.05, retries=0):
        until(lambda: len(source.durable.get(P0, ())) == 3)
    assert [letter.record.value for letter in sink.letters] == [b"1"]
    assert ended == [b"1"] * 3, "with its batch, with half of it, alone"
    assert "asyncio.Event().wait()" in caplog.text


def test_an_event_loop_that_is_blocked_stops_the_process() -> None:
    source, release, ended = FakeSource(), threading.Event(), threading.Event()
    source.put(b"1")

    async def block(batch: Batch) -> None:
        release.wait()
        ended.set()

    with running(source, block, timeout=0.05, joins=False) as run:
        until(lambda: run.loop.closed)
        assert isinstance(run.loop.failure, Stuck)
        release.set()
        ended.wait()
        until(lambda: not run.threads._tasks)


def test_a_reconnect_does_not_wait_for_the_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.RECONNECT", Backoff(0.2, 0.2))
    source, seen = FakeSource(), list[bytes]()

    class Away(FakeSink):
        def open(self) -> None:
            super().open()
            if self.opens > 1:
                raise Unavailable("where dead letters go is away")

    def handle(value: bytes) -> None:
        seen.append(value)

    source.put(b"1")
    with running(source, handle, sink=Away()):
        until(lambda: seen == [b"1"])
        source.disconnect()
        until(lambda: not source.opened)
        source.put(b"2")
        until(lambda: b"2" in seen)


def test_an_async_call_that_cancels_itself_at_its_end_is_a_failure() -> None:
    source = FakeSource()
    calls: list[int] = []

    async def handle(batch: Batch) -> None:
        calls.append(len(batch))
        if len(calls) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    source.put(b"1", partition=0)
    with running(source, handle, timeout=5.0) as run:
        until(lambda: len(calls) == 2)
        assert run.threads.crash is None
        run.stop()


# Dead letters on their way


def reject_bad(seen: list[bytes | None]) -> Callable[[Batch], dict[int, Exception]]:
    def handle(b: Batch) -> dict[int, Exception]:
        values = b.values()
        seen.extend(values)
        return {i: Reject("no") for i, value in enumerate(values) if value == b"bad"}

    return handle


def turned(run: Run) -> None:
    """Often enough to have begun, or committed, whatever may be."""
    polls = run.loop.counters.polls
    until(lambda: run.loop.counters.polls > polls + 10)


def held_back() -> FakeSink:
    sink = FakeSink()
    sink.gate = threading.Event()
    return sink


@pytest.mark.parametrize("positioned", [True, False])
def test_in_order_the_next_batch_waits_for_letters_and_other_partitions_go_on(positioned: bool) -> None:
    source, sink, seen = FakeSource(ordered=positioned), held_back(), []
    source.put(b"bad")
    with running(source, reject_bad(seen), sink=sink, positioned=positioned) as run:
        until(lambda: seen == [b"bad"])
        source.put(b"2")
        for _ in range(50):
            source.put(b"other", partition=1)
        until(lambda: seen == [b"bad", *[b"other"] * 50])
        until(lambda: len(source.durable.get(P1, ())) == 50)
        turned(run)
        assert len(seen) == 51 and P0 not in source.durable
        sink.gate.set()
        until(source.finished)
    assert seen[-1] == b"2" and [letter.record.value for letter in sink.letters] == [b"bad"]


def test_without_order_the_next_batch_begins_while_letters_are_on_their_way_and_only_the_position_waits() -> None:
    source, sink, seen = FakeSource(), held_back(), []
    for value in (b"1", b"bad", b"3", b"4"):
        source.put(value)
    with running(source, reject_bad(seen), sink=sink, batch_size=1, ordered=False) as run:
        until(lambda: seen == [b"1", b"bad", b"3", b"4"])
        until(lambda: source.durable.get(P0) == {0})
        turned(run)
        assert source.durable[P0] == {0} and not sink.letters
        sink.gate.set()
        until(source.finished)


def test_what_failed_during_one_publish_goes_out_in_the_next_one() -> None:
    source, sink, seen, publishes = FakeSource(), held_back(), [], []
    publish = sink.publish
    sink.publish = lambda letters: (publishes.append(len(letters)), publish(letters))  # type: ignore[method-assign]
    for partition in range(20):
        source.put(b"bad", partition=partition)
    with running(source, reject_bad(seen), sink=sink) as run:
        until(lambda: run.loop.outbox.open == 20)
        sink.gate.set()
        until(source.finished)
    assert len(publishes) <= 3 and sum(publishes) == 20


def test_a_drain_and_a_partition_that_is_given_away_wait_for_letters() -> None:
    source, sink, seen = FakeSource(), held_back(), []
    for partition in (0, 1):
        source.put(b"bad", partition=partition)
    with running(source, reject_bad(seen), sink=sink) as run:
        until(lambda: len(seen) == 2)
        source.revoke([P0])
        threading.Timer(0.1, sink.gate.set).start()
        until(lambda: source.durable.get(P0) == {0})
        sink.gate.clear()
        source.put(b"bad", partition=1)
        until(lambda: len(seen) == 3)
        threading.Timer(0.1, sink.gate.set).start()
        run.stop()
    assert source.durable == {P0: {0}, P1: {0, 1}} and len(sink.letters) == 3


def test_a_source_is_not_closed_before_its_letters_are_durable() -> None:
    """Not every one asks for what is in flight when it closes."""
    source, sink, seen, durable = FakeSource(ordered=False), held_back(), [], []
    close = source.close
    source.close = lambda remaining=None: (durable.append(len(sink.letters)), close())  # type: ignore[method-assign]
    source.put(b"bad")
    with running(source, reject_bad(seen), sink=sink, positioned=False, ordered=False) as run:
        until(lambda: seen == [b"bad"])
        threading.Timer(0.1, sink.gate.set).start()
        run.stop()
    assert durable == [1] and source.durable == {P0: {0}}


@pytest.mark.parametrize("ordered", [True, False])
def test_letters_that_cannot_be_published_stop_it_and_nothing_behind_them_is_committed(ordered: bool) -> None:
    source, sink, seen = FakeSource(), held_back(), []
    sink.fail(permanent=True)
    for value in (b"1", b"bad", b"3"):
        source.put(value)
    with running(source, reject_bad(seen), sink=sink, batch_size=1, ordered=ordered) as run:
        until(lambda: len(seen) == (2 if ordered else 3))
        sink.gate.set()
        until(lambda: run.loop.closed)
        assert isinstance(run.loop.failure, PublishError)
    assert source.durable == {P0: {0}} and not sink.letters


def test_letters_that_take_long_do_not_keep_new_partitions_waiting() -> None:
    source, sink, seen = FakeSource(), held_back(), []
    for value in (b"bad", *[b"x"] * 30):
        source.put(value)
    with running(source, reject_bad(seen), sink=sink, batch_size=1) as run:
        until(lambda: seen == [b"bad"])
        turned(run)
        source.put(b"other", partition=1)
        until(lambda: b"other" in seen)
        sink.gate.set()
        until(source.finished)


def test_a_letter_that_is_refused_keeps_no_others_from_ending() -> None:
    class Refusing(FakeSink):
        def publish(self, letters: Sequence[DeadLetter]) -> None:
            super().publish([one for one in letters if one.record.partition != P1])
            if any(one.record.partition == P1 for one in letters):
                raise PublishError("too large", permanent=True)

    source, sink, seen = FakeSource(), Refusing(), []
    sink.gate = threading.Event()
    for partition in range(10):
        source.put(b"bad", partition=partition)
    with running(source, reject_bad(seen), sink=sink) as run:
        until(lambda: len(seen) == 10)
        sink.gate.set()
        until(lambda: run.loop.closed)
    assert {partition.id for partition in source.durable} == {0, *range(2, 10)}


def test_letters_of_a_partition_that_is_lost_meanwhile_are_not_published() -> None:
    source, sink, seen = FakeSource(), held_back(), []
    sink.fail()
    source.put(b"bad")
    with running(source, reject_bad(seen), sink=sink) as run:
        until(lambda: seen == [b"bad"])
        source.revoke([P0], lost=True)
        until(lambda: P0 not in run.loop.lanes)
        sink.gate.set()
        until(lambda: run.loop.idle)
    assert not sink.letters


def test_a_poll_does_not_wait_long_while_letters_are_on_their_way() -> None:
    source, sink, seen, waits = FakeSource(), held_back(), [], []
    poll = source.poll
    source.poll = lambda most, timeout: (waits.append(timeout) if seen else None, poll(most, timeout))[1]  # type: ignore[method-assign]
    source.put(b"bad")
    with running(source, reject_bad(seen), sink=sink):
        until(lambda: len(waits) > 5)
        assert max(waits) <= BUSY
        sink.gate.set()
        until(source.finished)


def test_a_work_that_is_being_claimed_is_never_in_neither_place() -> None:
    """Looked at without the lock: a shutdown that sees it nowhere would close, and the batch would be repeated."""
    assignment = Assignment(True, time.monotonic)
    work: Any = object()

    class Ready(deque[Any]):
        def popleft(self) -> Any:
            assert work in assignment.running
            return super().popleft()

    class Running(set[Any]):
        def __len__(self) -> int:
            before = super().__len__()
            assignment.claim()  # another thread does, after this look at it
            return before

    assignment.ready, assignment.running = Ready([work]), Running()
    assert not assignment.idle
    assert assignment.claim() is work
    assignment.ended(work)
    assert assignment.idle


def test_who_waits_for_a_result_is_woken_also_by_one_that_came_before() -> None:
    assignment = Assignment(True, time.monotonic)
    work: Any = object()
    assert not assignment.wake.is_set()
    for _ in range(2):  # the second finds it set
        assignment.ended(work)
        assert assignment.wake.is_set()
    assignment.wake.clear()
    assignment.ended(work)
    assert assignment.wake.is_set()
