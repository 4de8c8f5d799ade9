"""A whole process over fake brokers: several handlers, lifespans, floods, exit codes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pytest

from tests.waiting import until
from worker import App, Batch, ConfigError, Decode, Reject
from worker.interface import Partition, SinkOptions, SourceOptions
from worker.retry import Backoff
from worker.run import GARBAGE, Worker, run_until_signal
from worker.settings import load
from worker.testing import FakeSink, FakeSource


class Brokers:
    """A connector that hands out one fake source a stream, and one fake sink."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sources: dict[str, FakeSource] = {}
        self.asked: list[SourceOptions | SinkOptions] = []
        self.letters = FakeSink()
        monkeypatch.setattr("worker.run.connector", lambda scheme: self)

    def source(self, options: SourceOptions) -> FakeSource:
        self.asked.append(options)
        return self.sources.setdefault(options.streams[0], FakeSource())

    def sink(self, options: SinkOptions) -> FakeSink:
        self.asked.append(options)
        return self.letters

    def stream(self, name: str, records: int) -> FakeSource:
        made = self.sources.setdefault(name, FakeSource())
        for number in range(records):
            made.put(b"%d" % number, stream=name)
        return made


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    return Brokers(monkeypatch)


def worker_of(app: App, *flags: str, wait: float | None = None) -> Worker:
    return Worker(app, load(app, environ={}, flags=flags), wait)


def app() -> App:
    return App("shop", connections={"kafka": "kafka://fake"})


def stop_when(worker: Worker, condition: Any) -> None:
    def look() -> None:
        try:
            until(condition)
        finally:
            worker.stop()

    threading.Thread(target=look, daemon=True).start()


def test_a_handler_that_stops_drains_the_others_and_gives_the_code(brokers: Brokers) -> None:
    shop, began = app(), threading.Event()
    good, bad = brokers.stream("good", 50), brokers.stream("bad", 1)

    @shop.handler("kafka:good", batch_size=10, window=0.0)
    def handle(b: Batch) -> None:
        began.set()

    @shop.handler("kafka:bad", window=0.0)
    def stop(b: Batch) -> None:
        began.wait(10)
        raise Reject("cannot be")

    assert worker_of(shop).run() == 1
    assert not any(bad.durable.values())
    assert not good.opened and not bad.opened


def test_a_system_exit_in_a_handler_ends_with_1_uncommitted(brokers: Brokers) -> None:
    shop, source = app(), brokers.stream("orders", 1)

    @shop.handler("kafka:orders", window=0.0)
    def handle(b: Batch) -> None:
        raise SystemExit(0)

    assert worker_of(shop).run() == 1
    assert not any(source.durable.values())


async def _later(value: bytes) -> int:
    return 1


@pytest.mark.parametrize("place", ["discard", "dead"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("fault", ["return", "coroutine", "decode"])
def test_a_fault_of_the_handler_costs_no_record(
    brokers: Brokers, caplog: pytest.LogCaptureFixture, fault: str, is_async: bool, place: str
) -> None:
    shop, source = app(), brokers.stream("orders", 5)

    def returns(b: Batch) -> Any:
        return [1]

    def never_awaited(value: bytes) -> Any:
        return _later(value)

    def decoded(value: Annotated[int, Decode(lambda value: _later(value))]) -> None: ...

    sync = {"return": returns, "coroutine": never_awaited, "decode": decoded}[fault]

    async def asynchronous(value: Any) -> Any:
        return sync(value)

    asynchronous.__annotations__ = {"value": next(iter(sync.__annotations__.values()))}
    dead = "discard" if place == "discard" else "kafka:dead"
    options = {"retries": 0, "window": 0.0, "flood": 1.0, "dead_letter": dead}
    shop.handler("kafka:orders", **options)(asynchronous if is_async else sync)  # type: ignore[arg-type]
    assert worker_of(shop).run() == 1
    assert not any(source.durable.values()) and not brokers.letters.letters
    stopped = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(stopped) == 1 and "returned a" in stopped[0] and len(stopped[0].splitlines()) == 1


def test_a_process_that_a_handler_forks_can_be_ended_and_ignores_ctrl_c(brokers: Brokers) -> None:
    shop, ended = app(), list[int]()
    brokers.stream("orders", 1)

    @shop.handler("kafka:orders", window=0.0)
    def handle(b: Batch) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            ready, told = os.pipe()
            if (child := os.fork()) == 0:
                os.write(told, b"x")
                signal.alarm(20)
                if number == signal.SIGINT:
                    os.kill(os.getpid(), number)
                    os._exit(7)
                signal.pause()
            os.read(ready, 1)
            os.kill(child, number)
            ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        worker.stop()

    worker = worker_of(shop)
    before = signal.getsignal(signal.SIGTERM)
    assert run_until_signal(worker) == 0
    assert ended == [7, -signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "numbers", [[signal.SIGHUP], [signal.SIGHUP] * 3, [signal.SIGHUP, signal.SIGTERM], [signal.SIGTERM, signal.SIGHUP]]
)
def test_a_closed_terminal_drains(brokers: Brokers, numbers: list[signal.Signals]) -> None:
    """systemd sends both at the end of a login."""
    shop, source = app(), brokers.stream("orders", 1)

    @shop.handler("kafka:orders", window=0.0)
    def handle(b: Batch) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
        until(lambda: worker.handlers[0].loop.draining)
        polls = source.polls
        until(lambda: source.polls > polls + 3 or worker.handlers[0].loop.closed)

    worker = worker_of(shop)
    assert run_until_signal(worker) == 0 and source.finished()


def test_lifespans_open_before_the_first_batch_and_close_after_the_drain(brokers: Brokers) -> None:
    for kind in ("sync", "async", "sync cm", "async cm"):
        shop, source, said = app(), brokers.stream(kind, 5), list[str]()

        @shop.handler(f"kafka:{kind}", window=0.0)
        async def handle(b: Batch, said: list[str] = said) -> None:
            said.append("batch")

        def sync(said: list[str] = said) -> Iterator[None]:
            said.append("open")
            yield
            said.append("close")

        async def asynchronous(said: list[str] = said) -> AsyncIterator[None]:
            asyncio.get_running_loop()
            said.append("open")
            yield
            said.append("close")

        lifespans: dict[str, Any] = {"sync": sync, "async": asynchronous}
        lifespans |= {"sync cm": contextmanager(sync), "async cm": asynccontextmanager(asynchronous)}
        shop.lifespan(lifespans[kind])
        worker = worker_of(shop)
        stop_when(worker, source.finished)
        assert worker.run() == 0
        assert (said[0], said[-1], set(said[1:-1])) == ("open", "close", {"batch"})


@pytest.mark.parametrize("place", ["kafka:dead", "discard"])
def test_a_flood_stops_with_4_and_the_next_start_probes_with_one_record(brokers: Brokers, place: str) -> None:
    source, sizes, mended = brokers.stream("orders", 3_000), list[int](), [False]

    def made() -> App:
        shop = app()

        @shop.handler("kafka:orders", batch_size=100, window=0.0, retries=0, dead_letter=place)
        def handle(b: Batch) -> None:
            sizes.append(len(b))
            if not mended[0]:
                raise Reject("a bad deploy")

        return shop

    assert worker_of(made()).run() == 4
    published = len(brokers.letters.letters)
    assert published == (0 if place == "discard" else 500) and len(source.durable[next(iter(source.durable))]) == 500
    assert source.flooded
    sizes.clear()
    assert worker_of(made()).run() == 4
    assert (sizes, len(brokers.letters.letters)) == ([1], published)
    sizes.clear()
    mended[0] = True
    worker = worker_of(made())
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert sizes[0] == 1 and max(sizes) == 100 and not source.flooded


def test_a_flood_may_pause_and_go_on_when_one_record_passes(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.loop.PAUSE", Backoff(0.1, 0.3))
    source, sizes, down = brokers.stream("orders", 3_000), list[int](), threading.Event()
    for number in range(300):
        source.put(b"other %d" % number, stream="orders", partition=1)
    down.set()
    shop = app()

    @shop.handler("kafka:orders", batch_size=100, window=0.0, retries=0, dead_letter="kafka:dead", on_flood="probe")
    def handle(b: Batch) -> None:
        sizes.append(len(b))
        if down.is_set():
            if sizes.count(1) == 4:  # three probes failed
                down.clear()
            else:
                raise Reject("what it needs is down")

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    letters = [letter.record for letter in brokers.letters.letters]
    assert len(letters) == 500 and len({(record.partition, record.id) for record in letters}) == 500
    first = sizes.index(1)
    assert sizes[first : first + 4] == [1, 1, 1, 1] and sum(sizes[first + 4 :]) == 3_300 - 500 - 1, "nothing twice, nothing lost"
    assert not source.flooded
    told = [record.getMessage() for record in caplog.records if "Pausing" in record.getMessage()]
    assert len(told) == 4


def test_a_partition_whose_record_never_passes_keeps_no_other_waiting(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.PAUSE", Backoff(0.02, 0.03))
    source = brokers.stream("orders", 2_000)
    good = Partition("orders", 1)
    shop = app()

    @shop.handler("kafka:orders", batch_size=100, window=0.0, retries=0, dead_letter="kafka:dead", on_flood="probe")
    def handle(b: Batch) -> None:
        if b.partition != good:
            if len(b) == 1 and good not in source.logs:  # the first probe
                for _ in range(10):
                    source.put(b"good", partition=1)
            raise Reject("poison")

    worker = worker_of(shop)
    stop_when(worker, lambda: len(source.durable.get(good, ())) == 10)
    assert worker.run() == 0
    assert len(source.durable[good]) == 10


def test_a_probe_of_a_queue_is_one_record_each_time(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.PAUSE", Backoff(0.02, 0.03))
    brokers.sources["orders"] = source = FakeSource(ordered=False)
    brokers.stream("orders", 1_500)
    sizes = list[int]()
    shop = app()

    @shop.handler("kafka:orders", batch_size=100, window=0.0, retries=0, dead_letter="kafka:dead", on_flood="probe")
    def handle(b: Batch) -> None:
        sizes.append(len(b))
        if sizes.count(1) < 5:
            raise Reject("what it needs is down")

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    first = sizes.index(1)
    assert sizes[first : first + 5] == [1] * 5


def test_a_flood_before_a_crash_is_known_to_the_next_process(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_FLOODED", "other handle")
    source, sizes = brokers.stream("orders", 300), list[int]()
    shop = app()

    @shop.handler("kafka:orders", batch_size=100, window=0.0, dead_letter="kafka:dead", on_flood="probe")
    def handle(b: Batch) -> None:
        sizes.append(len(b))

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert sizes[0] == 1 and sum(sizes) == 300


def test_a_drain_as_long_as_the_brokers_patience_is_refused(brokers: Brokers) -> None:
    shop = app()

    @shop.handler("kafka:orders", drain=20.0)
    def handle(b: Batch) -> None: ...

    brokers.stream("orders", 1).patience = 20.0
    with pytest.raises(ConfigError, match="below 20 s"):
        worker_of(shop)


def test_a_broker_that_stays_away_is_given_up_with_3(brokers: Brokers) -> None:
    shop, source = app(), brokers.stream("orders", 1)

    @shop.handler("kafka:orders")
    def handle(b: Batch) -> None: ...

    source.disconnect(failing_opens=1_000)
    assert worker_of(shop, wait=0.0).run() == 3


def test_what_cannot_be_dead_lettered_stops_with_4_uncommitted(brokers: Brokers) -> None:
    shop, source = app(), brokers.stream("orders", 1)

    @shop.handler("kafka:orders", window=0.0, dead_letter="kafka:dead")
    def handle(b: Batch) -> None:
        raise Reject("no")

    brokers.letters.fail(permanent=True)
    assert worker_of(shop).run() == 4
    assert not any(source.durable.values()) and not brokers.letters.letters


def test_a_publish_that_is_not_answered_keeps_nobody_from_ending(brokers: Brokers) -> None:
    """A sink's close waits for its publish, and that for as long as dead letters may take."""
    shop, source, sink, publishing = app(), brokers.stream("orders", 1), brokers.letters, threading.Lock()
    answered, publish, close = threading.Event(), sink.publish, sink.close

    def unanswered(letters: Any) -> None:
        with publishing:
            answered.wait(30)
            publish(letters)

    def closing() -> None:
        with publishing:
            close()

    sink.publish, sink.close = unanswered, closing  # type: ignore[method-assign]

    @shop.handler("kafka:orders", dead_letter="kafka:orders.dead", window=0.0, drain=0.2)
    def handle(b: Batch) -> None:
        raise Reject("cannot be")

    worker = worker_of(shop)
    stop_when(worker, publishing.locked)
    begun = time.monotonic()
    assert worker.run() == 0 and worker.left_behind
    assert time.monotonic() - begun < 10
    answered.set()
    assert not any(source.durable.values())


def test_what_a_handler_is_told_reaches_its_connector(brokers: Brokers) -> None:
    shop = app()

    @shop.handler(
        "kafka:orders",
        batch_size=7,
        window=0.25,
        ordered=True,
        start="latest",
        group="mine",
        commit_interval=3.0,
        dead_letter="kafka:dead",
        dead_letter_timeout=9.0,
    )
    def handle(b: Batch) -> None: ...

    worker_of(shop)
    source, sink = brokers.asked
    assert isinstance(source, SourceOptions) and isinstance(sink, SinkOptions)
    assert (source.streams, source.group, source.start, source.commit_interval) == (("orders",), "mine", "latest", 3.0)
    assert (source.batch_size, source.window, source.ordered, source.in_flight) == (7, 0.25, True, 14)
    assert (sink.stream, sink.timeout, sink.partitions) == ("dead", 9.0, False)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"dead_letter": "broker"}, "has no dead-letter policy"),
        ({"max_age": 5.0, "dead_letter": "discard"}, "max_age_from=arrival"),
    ],
)
def test_what_a_broker_cannot_do_is_refused_before_anything_opens(
    brokers: Brokers, options: dict[str, Any], refused: str
) -> None:
    shop = app()
    source = brokers.stream("orders", 1)
    source.timestamps = False

    @shop.handler("kafka:orders", **options)
    def handle(b: Batch) -> None: ...

    with pytest.raises(ConfigError, match=refused):
        worker_of(shop)
    assert not source.polls


@pytest.mark.parametrize("flag", ["flood=1", "flood=0.9", "flood=0.1"])
def test_the_share_of_a_flood_is_the_handlers(brokers: Brokers, flag: str) -> None:
    source = brokers.stream("orders", 1_000)
    shop = app()

    @shop.handler("kafka:orders", batch_size=50, window=0.0, retries=0, dead_letter="kafka:dead")
    def handle(b: Batch) -> None:
        raise Reject("a bad deploy")

    worker = worker_of(shop, f"handlers.handle.{flag}")
    stop_when(worker, lambda: source.finished() or (not source.opened and source.polls))
    share = float(flag.partition("=")[2])
    assert worker.run() == (0 if share == 1 else 4)
    assert len(brokers.letters.letters) == 1_000 * share


def sizes_of(brokers: Brokers, records: int, size: int, **options: Any) -> list[int]:
    source, seen = brokers.stream("orders", 0), list[int]()
    for _ in range(records):
        source.put(bytes(size))
    shop = app()

    @shop.handler("kafka:orders", **{"window": 0.0, **options})
    def handle(b: Batch) -> None:
        seen.append(len(b))

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    return seen


def test_batches_are_as_large_as_the_handler_wants_them(brokers: Brokers) -> None:
    assert max(sizes_of(brokers, 100, 10, batch_size=7)) == 7


def test_batches_have_no_more_bytes_than_the_handler_wants(brokers: Brokers) -> None:
    assert max(sizes_of(brokers, 100, 100, batch_size=50, max_bytes=1_000)) == 10


def test_a_batch_waits_for_its_window(brokers: Brokers) -> None:
    begun = time.monotonic()
    assert sizes_of(brokers, 3, 10, window=0.4) == [3]
    assert time.monotonic() - begun >= 0.4


@pytest.mark.parametrize("options", [{"concurrency": 2}, {"parallel": 2}])
def test_handlers_run_at_once_if_asked_for(brokers: Brokers, options: dict[str, int]) -> None:
    source, together = brokers.stream("orders", 0), threading.Barrier(2)
    for number in range(20):
        source.put(b"", key=b"%d" % number, partition=number % options.get("concurrency", 1))
    shop = app()

    @shop.handler("kafka:orders", window=0.0, retries=0, bisect=False, dead_letter="discard", **options)  # type: ignore[arg-type]
    def handle(b: Batch) -> None:
        together.wait(10)

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert worker.counters["handle"].handled == 20, "one waits for the other"


def test_without_order_a_failed_record_keeps_nobody_waiting(brokers: Brokers) -> None:
    source, seen = brokers.stream("orders", 4), list[list[bytes | None]]()
    shop = app()

    @shop.handler("kafka:orders", window=0.0, batch_size=2, ordered=False, backoff=0.2)
    def handle(b: Batch) -> dict[int, Exception]:
        seen.append(b.values())
        return {0: ValueError("not yet")} if b.values()[0] == b"0" and b.attempt == 1 else {}

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert seen == [[b"0", b"1"], [b"2", b"3"], [b"0"]]


def test_a_partition_is_given_away_after_the_handlers_drain(brokers: Brokers) -> None:
    source, began, release = brokers.stream("orders", 1), threading.Event(), threading.Event()
    shop = app()

    @shop.handler("kafka:orders", window=0.0, drain=0.2)
    def handle(b: Batch) -> None:
        began.set()
        release.wait(60)

    worker = worker_of(shop)

    def take() -> None:
        began.wait(30)
        source.revoke([Partition("orders", 0)])
        try:
            until(lambda: Partition("orders", 0) in source._away, patience=10)
        finally:
            release.set()
            worker.stop()

    thread = threading.Thread(target=take)
    thread.start()
    assert worker.run() == 0
    thread.join()
    assert not any(source.durable.values()) and Partition("orders", 0) in source._away


def test_a_timeout_is_the_handlers(brokers: Brokers) -> None:
    source, hung = brokers.stream("orders", 1), threading.Event()
    shop = app()

    @shop.handler("kafka:orders", window=0.0, timeout=0.1, retries=1, backoff=0.001, dead_letter="discard")
    def handle(b: Batch) -> None:
        if b.attempt == 1:
            hung.wait(60)

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    hung.set()
    assert source.finished() and worker.left_behind


@pytest.mark.parametrize("counts_from", ["record", "arrival"])
def test_a_greatest_age_is_the_handlers(brokers: Brokers, counts_from: str) -> None:
    source, seen = brokers.stream("orders", 0), list[bytes | None]()
    source.put(b"old", timestamp=int((time.time() - 60) * 1000))
    source.put(b"young", timestamp=int(time.time() * 1000))
    shop = app()

    @shop.handler("kafka:orders", window=0.0, max_age=30.0, max_age_from=counts_from, dead_letter="discard")
    def handle(b: Batch) -> None:
        seen.extend(b.values())

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert seen == ([b"young"] if counts_from == "record" else [b"old", b"young"])
    assert worker.counters["handle"].discarded == (1 if counts_from == "record" else 0)


def test_a_typed_handler_without_a_place_for_letters_stops_at_an_invalid_value(brokers: Brokers) -> None:
    source = brokers.stream("orders", 0)
    source.put(b"1")
    source.put(b"x")
    shop = app()

    @shop.handler("kafka:orders", window=0.0)
    def handle(numbers: list[int]) -> None: ...

    assert worker_of(shop).run() == 1
    assert not any(source.durable.values())


def test_retries_alone_discard_what_fails_and_go_on(brokers: Brokers) -> None:
    source, tries = brokers.stream("orders", 5), list[int]()
    shop = app()

    @shop.handler("kafka:orders", window=0.0, retries=2, backoff=0.001, bisect=False, dead_letter="discard")
    def handle(b: Batch) -> None:
        tries.append(b.attempt)
        raise ValueError("no")

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert tries == [1, 2, 3] and worker.counters["handle"].discarded == 5


def test_a_backoff_is_the_handlers(brokers: Brokers) -> None:
    source, tried = brokers.stream("orders", 1), list[float]()
    shop = app()

    @shop.handler("kafka:orders", window=0.0, retries=3, backoff=0.1, dead_letter="discard")
    def handle(b: Batch) -> None:
        tried.append(time.monotonic())
        if len(tried) < 4:
            raise ValueError("no")

    worker = worker_of(shop)
    stop_when(worker, source.finished)
    assert worker.run() == 0
    waits = [after - before for before, after in pairwise(tried)]
    assert all(wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True)), waits


def test_the_first_signal_drains_and_the_second_one_does_not_wait(brokers: Brokers) -> None:
    source, began, release = brokers.stream("orders", 1), threading.Event(), threading.Event()
    shop, ended = app(), threading.Event()

    @shop.handler("kafka:orders", window=0.0, drain=60.0)
    def handle(b: Batch) -> None:
        began.set()
        release.wait(90)
        ended.set()

    worker = worker_of(shop)
    [running] = worker.handlers
    closed = []

    def signals() -> None:
        try:
            began.wait(30)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: running.loop.draining)
            polls = source.polls
            until(lambda: source.polls > polls + 3)
            closed.append(running.loop.closed)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: running.loop.closed, patience=10)
            closed.append(True)
        finally:
            release.set()

    thread = threading.Thread(target=signals)
    thread.start()
    threshold = gc.get_threshold()
    try:
        assert run_until_signal(worker) == 0
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
        thread.join()
    assert closed == [False, True] and not any(source.durable.values())
    ended.wait(30)


@pytest.mark.parametrize(("before", "within"), [(700, GARBAGE), (0, 0), (50_000, 50_000)])
def test_the_collector_does_not_run_for_every_batch(before: int, within: int) -> None:
    """But one that the app has switched off, or set higher, is left alone."""
    seen = []

    class Noted:
        def run(self) -> int:
            seen.append(gc.get_threshold()[0])
            return 0

    threshold = gc.get_threshold()
    gc.set_threshold(before, *threshold[1:])
    try:
        assert run_until_signal(Noted()) == 0  # type: ignore[arg-type]
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
    assert seen == [within]


def test_failing_batches_are_captured_where_asked_for(brokers: Brokers, tmp_path: Path) -> None:
    source, shop = brokers.stream("orders", 1), app()

    @shop.handler("kafka:orders", window=0.0, retries=1, backoff=0.001, dead_letter="discard")
    def handle(b: Batch) -> None:
        if b.attempt == 1:
            raise ValueError("no")

    worker = Worker(shop, load(shop, environ={}), None, tmp_path / "captured")
    stop_when(worker, source.finished)
    assert worker.run() == 0
    assert len(list((tmp_path / "captured").rglob("*.*"))) == 1


def test_dead_letters_are_tried_as_long_as_the_handler_says(brokers: Brokers) -> None:
    source, shop = brokers.stream("orders", 1), app()

    @shop.handler("kafka:orders", window=0.0, dead_letter="kafka:dead", dead_letter_timeout=0.5)
    def handle(b: Batch) -> None:
        raise Reject("no")

    brokers.letters.fail(1_000)
    begun = time.monotonic()
    assert worker_of(shop).run() == 4
    assert time.monotonic() - begun < 20 and len(brokers.letters.failures) < 999, "tried again, and not for a minute"
    assert not any(source.durable.values())
