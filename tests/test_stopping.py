"""What a stop and a rebalance do with what is in flight, and what they say; commits that the broker does not confirm."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from tests.test_threads import P0, running
from tests.waiting import until
from worker import App
from worker.connectors import kafka_group
from worker.connectors.kafka_batch import KafkaBatch
from worker.connectors.kafka_commit import Positions
from worker.connectors.kafka_errors import Explain
from worker.connectors.kafka_group import Waiting
from worker.connectors.kafka_start import places_from
from worker.errors import Unconfirmed
from worker.interface import Batch, Connection, Partition
from worker.run import describe
from worker.settings import load
from worker.testing.fake import FakeSource


def source_of(records: int) -> FakeSource:
    made = FakeSource()
    for number in range(records):
        made.put(b"%d" % number)
    return made


class Step:
    """A handler of one record that goes on when it is told to."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.go = threading.Semaphore(0)

    def handle(self, value: bytes) -> None:
        self.begun.append(value)
        assert self.go.acquire(timeout=10)

    async def asynchronous(self, value: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.handle, value)


def handler_of(step: Step, is_async: bool) -> Callable[..., Any]:
    def one(value: bytes) -> None:
        step.handle(value)

    async def one_async(value: bytes) -> None:
        await step.asynchronous(value)

    return one_async if is_async else one


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("how", ["stop", "revoke", "lose", "disconnect"])
def test_no_further_record_begins_and_the_finished_prefix_is_committed(how: str, is_async: bool) -> None:
    source, step = source_of(10), Step()
    with running(source, handler_of(step, is_async)) as run:
        step.go.release(3)
        until(lambda: len(step.begun) == 4)
        (lane,) = run.loop.lanes.values()
        if how == "stop":
            run.loop.stop(time.monotonic() + 5)
        elif how == "disconnect":
            source.disconnect(failing_opens=1_000)
        else:
            source.revoke([P0], lost=how == "lose")
        until(lambda: lane.closing)
        step.go.release(7)
        until(lambda: not run.loop.running)
        if how in ("stop", "revoke"):
            until(lambda: len(source.durable.get(P0, ())) == 4)
        run.stop()
    assert step.begun == [b"0", b"1", b"2", b"3"]
    assert len(source.durable.get(P0, ())) == (4 if how in ("stop", "revoke") else 0)


def test_a_stop_says_what_is_in_flight_and_how_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "worker")
    source, step = source_of(10), Step()
    with running(source, handler_of(step, False)) as run:
        step.go.release(1)
        until(lambda: len(step.begun) == 2)
        run.loop.stop(time.monotonic() + 5)
        run.loop.stop(time.monotonic() + 5)
        until(lambda: all(lane.closing for lane in run.loop.lanes.values()))
        step.go.release(1)
        until(lambda: run.loop.closed)
    said = [re.sub(r"\d\d:\d\d:\d\d", "TIME", one.getMessage()) for one in caplog.records]
    assert said == [
        "handler: stopping: 1 batch with 10 records in flight, at most until TIME",
        "handler: stopped: 2 records finished, all committed; 8 taken and not finished, left for the next worker",
    ]


def test_a_rebalance_says_so_as_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "worker")
    source, step = source_of(10), Step()
    with running(source, handler_of(step, False)) as run:
        until(lambda: step.begun)
        source.revoke([P0])
        until(lambda: all(lane.closing for lane in list(run.loop.lanes.values())))
        step.go.release(1)
        until(lambda: not run.loop.lanes)
    said = [re.sub(r"\d\d:\d\d:\d\d", "TIME", one.getMessage()) for one in caplog.records]
    assert said[:2] == [
        "handler: giving back 1 partition: 1 batch with 10 records in flight, at most until TIME",
        "handler: gave them back: 9 taken and not finished, left for the next worker",
    ]


# Commits that are not confirmed


def test_while_commits_are_not_confirmed_nothing_more_is_begun_and_then_it_goes_on() -> None:
    source, begun, gate = source_of(50), [], threading.Semaphore(1)

    def handle(b: Batch) -> None:
        assert gate.acquire(timeout=10)
        begun.append(len(b))
        if len(begun) == 1:
            source.stalled = True

    with running(source, handle) as run:
        until(lambda: begun)
        gate.release(100)
        polls = source.polls
        until(lambda: source.polls > polls + 20)  # it stays in its group meanwhile
        assert len(begun) <= 2  # one was chosen already
        source.stalled = False
        until(source.finished)
        run.stop()
    assert sum(begun) == 50


def test_what_could_not_be_committed_is_an_error_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "worker")
    source = source_of(10)
    asked: list[float] = []

    def close(remaining: Callable[[], float] | None = None) -> None:
        assert remaining is not None
        asked.append(remaining())
        FakeSource.close(source, remaining)
        raise Unconfirmed("group g: 7 finished records could not be committed and come again", 7)

    source.close = close  # type: ignore[method-assign]
    with running(source, lambda b: None) as run:
        until(source.finished)
        run.stop(drain=20.0)
        assert run.loop.failure is not None and run.loop.failure.exit_code == 1
    assert 15 < asked[0] <= 20  # what is left of `drain`
    assert "10 records finished, 7 of them not committed" in caplog.text


@pytest.mark.parametrize(("unconfirmed", "told"), [(2, "2 of them not committed"), (0, "the last of them perhaps not committed")])
def test_a_connection_that_is_lost_while_it_stops_is_not_told_as_all_committed(
    unconfirmed: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker")
    source, step = source_of(1), Step()
    close = source.close
    step.go.release(1)

    def closing(remaining: Callable[[], float] | None = None) -> None:
        lost = source.opened and unconfirmed
        close(remaining)
        if lost:
            raise Unconfirmed(f"group g: {unconfirmed} finished records could not be committed and come again", unconfirmed)

    source.close = closing  # type: ignore[method-assign]
    with running(source, handler_of(step, False)) as run:
        until(source.finished)
        source.put(b"next")
        until(lambda: len(step.begun) == 2)
        run.loop.stop(time.monotonic() + 5.0)
        source.disconnect()
        until(lambda: run.loop.closed)
        step.go.release(10)
        assert (run.loop.failure is None) is (not unconfirmed)
    assert (
        caplog.records[-1].getMessage().endswith(f"1 record finished, {told}; 1 taken and not finished, left for the next worker")
    )


class Client:
    """Takes commits, and answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[list[TopicPartition]] = []
        self.polls = 0

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.sent.append(offsets)
        return offsets

    def poll(self, timeout: float) -> None:
        self.polls += 1


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def positions(now: list[float]) -> Positions:
    made = Positions(1.0, Explain("kafka", {}, stream="orders"), lambda: now[0])
    made.own(P0, 5, committed=True)
    return made


def finished(*offsets: int) -> list[Batch]:
    return [KafkaBatch(P0, [Message(topic="orders", partition=0, offset=offset, value=b"v") for offset in offsets])]


def test_unconfirmed_records_are_counted_across_gaps(positions: Positions, now: list[float]) -> None:
    client: Any = Client()
    positions.finish(finished(5, 9, 20))
    positions.send(client)
    positions.finish(finished(40))
    assert positions.unconfirmed == 4
    positions.answered(None, client.sent[0])
    assert positions.unconfirmed == 1
    now[0] += 1
    positions.send(client)
    positions.answered(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), client.sent[1])
    assert positions.unconfirmed == 1
    positions.forget([P0])
    assert positions.unconfirmed == 0


def test_it_stalls_when_what_is_finished_is_unconfirmed_for_a_second_more_than_the_interval(
    positions: Positions, now: list[float]
) -> None:
    client: Any = Client()
    positions.finish(finished(5))
    positions.send(client)
    now[0] += 1.9
    positions.finish(finished(6))
    assert not positions.stalled
    now[0] += 0.2
    assert positions.stalled
    positions.answered(None, client.sent[0])
    assert not positions.stalled  # what was finished since has its own time
    now[0] += 2
    assert positions.stalled
    positions.forget([P0])
    assert not positions.stalled


def test_what_went_with_its_partition_keeps_nothing_waiting(positions: Positions, now: list[float]) -> None:
    client: Any = Client()
    positions.finish(finished(5))
    positions.send(client)
    positions.forget([P0])
    positions.answered(KafkaError(KafkaError.ILLEGAL_GENERATION), client.sent[0])
    now[0] += 100
    positions.own(P0, 5, committed=True)
    positions.finish(finished(5))
    assert not positions.stalled


def test_the_last_commits_are_waited_for_as_long_as_there_is_time(positions: Positions) -> None:
    client, told = Client(), list[int]()
    positions.finish(finished(5))
    left = iter(range(20, -1, -1))
    assert not positions.settle(client, lambda: next(left), lambda: told.append(1))  # type: ignore[arg-type]
    assert client.polls == len(told) == 20 and positions.unconfirmed == 1
    client.poll = lambda timeout: positions.answered(None, client.sent[-1])  # type: ignore[assignment]
    assert positions.settle(client, lambda: 1.0, lambda: None) and positions.unconfirmed == 0  # type: ignore[arg-type]


# What is said while it waits


@pytest.fixture
def waiting(now: list[float], monkeypatch: pytest.MonkeyPatch) -> Waiting:
    made = Waiting(Connection("kafka", "kafka", "h"), {}, "g", Explain("kafka", {}, stream="s"), lambda: now[0])
    monkeypatch.setattr(kafka_group.threading, "Thread", lambda target, args, **_: SimpleNamespace(start=lambda: target(*args)))
    monkeypatch.setattr(made, "_reason", lambda: "because")
    return made


def test_waiting_is_told_after_2_s_and_every_10_s(waiting: Waiting, now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told = []
    for _ in range(26):
        waiting.look(lambda: "waiting")
        now[0] += 1
        told.append(len(caplog.records))
    assert told == [0, 0, *[1] * 10, *[2] * 10, *[3] * 4]
    assert caplog.messages[0] == "waiting, for 2 s now: because"
    waiting.over()
    waiting.look(lambda: "waiting")
    assert len(caplog.records) == 3


def test_a_worker_that_stands_by_says_so_once(
    waiting: Waiting, now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reason = ["group g is stable, with 1 member"]
    monkeypatch.setattr(waiting, "_reason", lambda: reason[0])
    for _ in range(40):
        waiting.look(lambda: "waiting")
        now[0] += 1
    assert len(caplog.records) == 1
    reason[0] = "group g is stable, with 2 members"
    for _ in range(20):
        waiting.look(lambda: "waiting")
        now[0] += 1
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("PreparingRebalance", "is rebalancing and waits until each of its 1 members has answered"),
        ("Stable", "group g is stable, with 1 member"),
        ("Empty", "group g is empty, with 1 member"),
    ],
)
def test_the_reason_is_what_the_coordinator_says(waiting: Waiting, state: str, reason: str) -> None:
    assert reason in waiting._explained(state, 1)


def test_an_assignment_in_one_line() -> None:
    assert places_from({Partition("b", 0): 7, Partition("a", 1): 0}) == "a[1] from 0, b[0] from 7"
    many = places_from({Partition("a", number): 0 for number in range(100)})
    assert many.endswith("a[19] from 0 and 80 more: a[0..99]")


# Settings


@pytest.mark.parametrize(
    ("options", "warned"), [("", False), ("?session.timeout.ms=24000", True), ("?group.protocol=consumer", False)]
)
def test_check_says_the_protocol_and_warns_where_a_stop_may_not_wait_for_a_session(options: str, warned: bool) -> None:
    app = App("shop", connections={"kafka": f"kafka://broker{options}"})
    app.handler("kafka:orders")(lambda b: None)
    (settings,) = load(app, environ={}).handlers.values()
    told = describe(settings, None)
    assert any("set drain to" in warning for warning in told["warnings"]) == warned
    assert ("KIP-848" in told["membership"]) == ("consumer" in options) and "session timeout" in told["membership"]
