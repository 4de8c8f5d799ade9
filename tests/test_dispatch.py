"""How a handler can end, and what is made of it: design rows that concern the call itself."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from tests.support import batch
from worker.deadletter import DeadLetters, Fuse
from worker.decode import Decode, shape
from worker.dispatch import Dispatch
from worker.errors import Expired, Failed, Invalid, Reject, Retry, Stopped
from worker.interface import Batch, Record
from worker.lane import Lane, Shape, Work
from worker.logs import running
from worker.retry import Backoff, Policy
from worker.testing.fake import FakeSink
from worker.work import Verdict


class Order(BaseModel):
    id: int


def dispatch_of(function: Callable[..., Any], *, ordered: bool = True, retries: int = 1, **options: Any) -> Dispatch:
    policy = Policy.of(retries, None, Backoff(0.0), True, ordered)
    letters = DeadLetters("app.handler", None, discard=True, fuse=Fuse(0.5))
    return Dispatch("handler", function, shape(function), policy, letters, **options)


def verdict_of(function: Callable[..., Any], *values: bytes | None, **options: Any) -> Verdict:
    made = dispatch_of(function, **options)
    work = work_of(*values)
    result = asyncio.run(made.asynchronous(work, made.prepare(work))) if made.shape.is_async else made(work)
    assert isinstance(result, Verdict), result
    return result


def work_of(*values: bytes | None, timestamp: int | None = None) -> Work:
    one = batch(*values, timestamp=timestamp)
    return Work(Lane(one.partition, Shape()), one, range(len(one)), 0.0)


def fates(verdict: Verdict) -> tuple[list[int], list[int], list[int]]:
    again = [i for part in verdict.again for i in part.indices]
    return list(verdict.finished), again, [one.index for one in verdict.given_up]


def both(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The handler as it is, and as an async one."""

    async def asynchronous(argument: Any) -> Any:
        return function(argument)

    asynchronous.__annotations__ = dict(zip(["argument"], function.__annotations__.values(), strict=False))
    return [function, asynchronous]


def test_returning_none_finishes_everything() -> None:
    def handle(b: Batch) -> None: ...

    for function in both(handle):
        assert fates(verdict_of(function, b"a", b"b")) == ([0, 1], [], [])


def test_named_failures() -> None:
    def handle(b: Batch) -> dict[int, Exception]:
        return {1: ValueError("x"), 2: Reject("never")}

    for function in both(handle):
        assert fates(verdict_of(function, b"a", b"b", b"c")) == ([0], [1], [2])


def test_failed_and_its_cause() -> None:
    def handle(b: Batch) -> None:
        raise Failed(1) from ValueError("the cause")

    for function in both(handle):
        verdict = verdict_of(function, b"a", b"b", b"c")
        assert fates(verdict) == ([0], [1, 2], [])
        assert isinstance(verdict.error, ValueError)


def test_any_other_exception_is_the_whole_batch_and_a_cancellation_is_one() -> None:
    def boom(b: Batch) -> None:
        raise ValueError

    def cancelled(b: Batch) -> None:
        raise asyncio.CancelledError

    for function in [*both(boom), *both(cancelled)]:
        assert fates(verdict_of(function, b"a", b"b")) == ([], [0, 1], [])


def stop_of(function: Callable[..., Any], *values: bytes | None, **options: Any) -> Stopped:
    """Of a handler that is wrong whatever the record is."""
    made = dispatch_of(function, retries=0, **options)
    work = work_of(*values)
    result = asyncio.run(made.asynchronous(work, made.prepare(work))) if made.shape.is_async else made(work)
    assert isinstance(result, Stopped), result
    assert result.exit_code == 1 and len(str(result).splitlines()) == 1 and "handler" in str(result)
    return result


@pytest.mark.parametrize(
    "returned",
    [
        *(True, 7, "x", [1], {5: ValueError()}, {-1: ValueError()}, {0: "text"}, {0: ValueError}, {"0": ValueError()}),
        *({True: ValueError()}, Reject("no")),
    ],
)
def test_a_wrong_return_stops_the_handler(returned: object) -> None:
    def handle(b: Batch) -> Any:
        return returned

    for function in both(handle):
        stop_of(function, b"a", b"b")


def test_an_index_may_be_of_any_integer_type() -> None:
    class Number:
        def __index__(self) -> int:
            return 1

    def handle(b: Batch) -> Any:
        return {Number(): ValueError()}

    def fail(b: Batch) -> Any:
        raise Failed(Number())  # type: ignore[arg-type]

    for function in (handle, fail):
        assert fates(verdict_of(function, b"a", b"b")) == ([0], [1], [])


def test_an_unknown_index_of_failed_stops_the_handler() -> None:
    def handle(b: Batch) -> None:
        raise Failed(2)

    for function in both(handle):
        assert "Failed(2)" in str(stop_of(function, b"a", b"b"))


def test_a_returned_error_of_one_record_is_as_good_as_a_raised_one() -> None:
    def each(value: bytes) -> Any:
        return Reject("no") if value == b"b" else None

    for function in both(each):
        assert fates(verdict_of(function, b"a", b"b", ordered=False)) == ([0], [], [1])


class Unfinished(BaseModel):
    total: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_a_type_that_pydantic_cannot_finish_is_no_fault_of_a_record() -> None:
    def many(values: list[bytes]) -> None:
        Unfinished.model_validate_json(values[0])

    def each(value: bytes) -> None:
        Unfinished.model_validate_json(value)

    def decoded(values: Annotated[Any, Decode(Unfinished.model_validate_json)]) -> None: ...

    for function in (*both(many), *both(each), *both(decoded)):
        assert "not fully defined" in str(stop_of(function, b'{"total": 1}'))


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_finishes_nothing_and_stops(raised: BaseException) -> None:
    def handle(b: Batch) -> None:
        raise raised

    def each(value: bytes) -> None:
        raise raised

    for function in (handle, each):
        result = dispatch_of(function)(work_of(b"a"))
        assert isinstance(result, Stopped) and result.exit_code == 1


def test_one_at_a_time_stops_at_the_first_failure_in_order_and_goes_on_out_of_order() -> None:
    seen: list[bytes] = []

    def each(value: bytes) -> None:
        seen.append(value)
        if value == b"b":
            raise ValueError

    for function in both(each):
        seen.clear()
        assert fates(verdict_of(function, b"a", b"b", b"c")) == ([0], [1, 2], [])
        assert seen == [b"a", b"b"]
        assert fates(verdict_of(function, b"a", b"b", b"c", ordered=False)) == ([0, 2], [1], [])


def test_indices_are_those_of_what_the_handler_got() -> None:
    def handle(orders: list[Order]) -> dict[int, Exception]:
        assert [order.id for order in orders] == [1, 2, 3]
        return {1: ValueError("the second it got")}

    def first_bad(orders: list[Order]) -> None:
        raise Failed(2)

    values = (b'{"id":1}', b"{nope", b'{"id":2}', b'{"id":3}')
    for function in both(handle):
        verdict = verdict_of(function, *values)
        assert fates(verdict) == ([0, 3], [2], [1])
        assert isinstance(verdict.given_up[0].error, Invalid)
    assert fates(verdict_of(first_bad, *values)) == ([0, 2], [3], [1])


def test_a_batch_of_invalid_values_never_reaches_the_handler() -> None:
    def handle(orders: list[Order]) -> None:
        raise AssertionError

    for function in both(handle):
        assert fates(verdict_of(function, b"x", b"y")) == ([], [], [0, 1])


async def _coroutine() -> None: ...


def _generator() -> Iterator[None]:
    yield


async def _asynchronous_generator() -> AsyncIterator[None]:
    yield


POOL = ThreadPoolExecutor(1)
UNRUN: dict[str, Callable[[], Any]] = {
    "coroutine": _coroutine,
    "generator": _generator,
    "async_generator": _asynchronous_generator,
    "map": lambda: map(str, [1]),
    "islice": lambda: itertools.islice([1], 1),
    "Future": lambda: Future(),
    "Thread": lambda: threading.Thread(target=str),
    "partial": lambda: functools.partial(str),
    "function": lambda: _coroutine,
    "in a list": lambda: [None, _coroutine()],
    "in a mapping": lambda: {0: _coroutine()},
}


@pytest.mark.parametrize("kind", UNRUN)
def test_what_has_not_run_is_never_committed(kind: str) -> None:
    def each(value: bytes) -> Any:
        return UNRUN[kind]()

    def handle(b: Batch) -> Any:
        return UNRUN[kind]()

    for function in (*both(each), *both(handle)):
        told = str(stop_of(function, b"a"))
        assert "has not ended" in told and (kind.startswith("in ") or kind in told)


def test_one_record_may_return_anything_else() -> None:
    class Cursor:
        """Of a database: what it stands for has run."""

        def __iter__(self) -> Cursor:
            return self

        def __next__(self) -> int:
            raise StopIteration

    for made in (1, "x", [1], {1: 2}, Cursor(), object()):

        def each(value: bytes, made: Any = made) -> Any:
            return made

        assert fates(verdict_of(each, b"a")) == ([0], [], [])


def test_what_the_handler_has_waited_for_has_run() -> None:
    def waited(value: bytes) -> Any:
        futures = [POOL.submit(str)]
        wait(futures)
        return futures

    def joined(value: bytes) -> Any:
        thread = threading.Thread(target=str)
        thread.start()
        thread.join()
        return thread

    async def gathered(value: bytes) -> Any:
        done, _ = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        return done

    for function in (waited, joined, gathered):
        assert fates(verdict_of(function, b"a")) == ([0], [], [])


def test_a_future_that_failed_unseen_finishes_nothing() -> None:
    def each(value: bytes) -> Any:
        future = POOL.submit(int, "x")
        wait([future])
        return future

    assert "has not ended" in str(stop_of(each, b"a"))


def test_max_age_gives_up_without_a_try() -> None:
    def handle(b: Batch) -> None:
        raise AssertionError

    work = work_of(b"a", b"b", timestamp=1_000)
    result = dispatch_of(handle, max_age=5.0, wall=lambda: 7.0)(work)
    assert isinstance(result, Verdict)
    assert [type(one.error) for one in result.given_up] == [Expired, Expired]
    by_arrival = dispatch_of(handle, max_age=5.0, max_age_from="arrival", clock=lambda: 6.0)(work)
    assert isinstance(by_arrival, Verdict) and len(by_arrival.given_up) == 2


def test_max_age_leaves_the_young_ones_to_the_handler() -> None:
    got: list[bytes | None] = []

    def handle(values: list[bytes]) -> None:
        got.extend(values)

    made = dispatch_of(handle, max_age=5.0, wall=lambda: 7.0)
    work = work_of(b"old", b"young")
    work.batch.native[1:] = [(b"young", None, 6_000, 1)]  # type: ignore[index]
    work.batch.native[0:1] = [(b"old", None, 1_000, 0)]  # type: ignore[index]
    result = made(work)
    assert isinstance(result, Verdict)
    assert (got, fates(result)) == ([b"young"], ([1], [], [0]))


def test_each_call_has_a_context_of_its_own_that_says_which_records() -> None:
    seen = []

    def handle(b: Batch) -> None:
        seen.append(running.get())

    verdict_of(handle, b"a")
    assert seen[0] is not None and seen[0][0] == "handler" and seen[0][1].partition.stream == "orders"
    assert running.get() is None


def logged(function: Callable[..., Any], size: int, retries: int | None, calls: int = 100) -> list[str]:
    """What the log says until everything has ended, or for so many calls."""
    one = batch(*[b"%d" % i for i in range(size)])
    lane = Lane(one.partition, Shape(window=0.0))
    lane.waiting.add(one, 0.0)
    letters = DeadLetters("app.handler", None, discard=True, fuse=Fuse(1))
    policy = Policy.of(retries, None if retries is None else "discard", Backoff(0.0), True, True)
    dispatch = Dispatch("handler", function, shape(function), policy, letters)
    with capture_logs() as lines:
        while calls and (work := next(lane.start(math.inf), None)):
            verdict = dispatch(work)
            assert isinstance(verdict, Verdict)
            lane.settle(work, verdict, 0.0)
            calls -= 1
    return lines


@contextmanager
def capture_logs() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("worker")
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


def refuses_two(values: list[int]) -> None:
    if 2 in values:
        raise ValueError("two")


def test_retries_of_2_are_at_most_3_tries_in_the_log_and_splits_are_counted_apart() -> None:
    assert logged(refuses_two, 5, retries=2) == [
        "handler: orders[0]: 5 of 5 records again in 0.0 s, after try 1 of 3: ValueError: two",
        "handler: orders[0]: 5 of 5 records again in 0.0 s, after try 2 of 3: ValueError: two",
        "handler: orders[0]: 5 of 5 records again in smaller batches at once, after try 3 of 3: ValueError: two",
        "handler: orders[0]: 3 of 3 records again in smaller batches at once, after try 3 of 3 and 1 split: ValueError: two",
        "app.handler: 1 record discarded: record 2 of orders[0], after 3 tries and 2 splits: ValueError: two",
    ]


def test_without_a_limit_tries_are_counted_and_none_is_the_last() -> None:
    assert logged(refuses_two, 3, retries=None, calls=7)[3:] == [
        "handler: orders[0]: 3 of 3 records again in 0.0 s, after try 4: ValueError: two",
        "handler: orders[0]: 3 of 3 records again in smaller batches at once, after try 5: ValueError: two",
        "handler: orders[0]: 1 of 1 records again in 0.0 s, after try 6: ValueError: two",
    ]


def test_retry_is_no_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def handle(b: Batch) -> None:
        raise Retry(1.0)

    with caplog.at_level(logging.INFO, "worker"):
        verdict_of(handle, b"a")
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_dead_letters_are_left_to_the_loop(asynchronous: bool) -> None:
    """Publishing blocks: neither an event loop nor the thread of a handler, which other partitions want, waits for it."""

    def handle(b: Batch) -> None:
        raise Reject("no")

    sink = FakeSink()
    function = both(handle)[asynchronous]
    letters = DeadLetters("app.handler", sink, discard=False, fuse=Fuse(0.5))
    made = Dispatch("handler", function, shape(function), Policy(), letters)
    work = work_of(b"a")
    verdict = asyncio.run(made.asynchronous(work, made.prepare(work))) if asynchronous else made(work)
    assert isinstance(verdict, Verdict) and len(verdict.letters) == 1 and not sink.letters
    assert made.publish([(work, verdict)]) == [(work, verdict, None)] and len(sink.letters) == 1


def test_dead_letters_of_an_async_handler_do_not_wait_for_what_it_does_on_threads() -> None:
    released = threading.Event()

    async def handle(b: Batch) -> None:
        for _ in range(100):  # more than asyncio's own pool has
            asyncio.get_running_loop().run_in_executor(None, released.wait)
        raise Reject("no")

    async def main() -> object:
        try:
            return await asyncio.wait_for(made.asynchronous(work, made.prepare(work)), 10)
        finally:
            released.set()

    made, work = dispatch_of(handle), work_of(b"a")
    assert isinstance(asyncio.run(main()), Verdict)


def test_records_of_a_typed_handler() -> None:
    def handle(orders: list[Record[Order]]) -> None:
        assert [(order.value.id, order.id) for order in orders if order.value] == [(4, 0)]

    assert fates(verdict_of(handle, b'{"id":4}')) == ([0], [], [])


def test_an_error_that_cannot_be_shown_is_a_failure_like_any_other() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    def handle(b: Batch) -> None:
        raise Mute

    assert fates(verdict_of(handle, b"a")) == ([], [0], [])
    assert fates(verdict_of(handle, b"a", retries=0)) == ([], [], [0])


def test_a_wrong_wait_or_index_is_an_error_of_the_handlers() -> None:
    for made in (
        *(lambda: Retry("5"), lambda: Retry(-1), lambda: Failed("x"), lambda: Failed(True)),  # type: ignore[arg-type]
        *(lambda: Retry(True), lambda: Retry(math.inf), lambda: Retry(math.nan), lambda: Retry(1e300)),
    ):
        with pytest.raises((TypeError, ValueError)):
            made()
