"""`worker.testing.call` and `worker.testing.running`: what a user's test sees of a handler and of a whole app."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from worker import App, Batch, ConfigError, Failed, Record, Reject, Retry
from worker.errors import Invalid, Misused, Stopped
from worker.interface import SinkOptions, SourceOptions
from worker.testing import FakeSink, FakeSource, batch, call, running


class Order(BaseModel):
    id: int
    total: float


VALUES = [b'{"id": 1, "total": 9.5}', b'{"id": 2, "total": -1}', b'{"id": "x"}', b'{"id": 4, "total": 3}']


def app() -> App:
    return App("shop", connections={"kafka": "kafka://fake"})


def test_a_call_decodes_and_says_what_became_of_each_value() -> None:
    shop = app()

    @shop.handler("kafka:orders", dead_letter="kafka:orders.dead", retries=1)
    def charge(orders: list[Order]) -> dict[int, Exception]:
        return {i: ValueError("negative") for i, order in enumerate(orders) if order.total < 0}

    ended = call(charge, VALUES)
    assert ended.finished == [0, 3]
    told = [(one.id, type(one.error), one.attempts, one.then) for one in ended.given_up]
    assert told == [(2, Invalid, 1, "dead letter"), (1, ValueError, 2, "dead letter")]
    assert [str(error) for error in ended.errors] == ["negative", "negative"]


def test_a_batch_that_raises_is_tried_and_halved_as_a_worker_does() -> None:
    shop, seen = app(), list[list[int]]()

    @shop.handler("kafka:orders", dead_letter="discard", retries=2)
    def charge(orders: list[int]) -> None:
        seen.append(orders)
        if 2 in orders:
            raise ConnectionError("no")

    ended = call(charge, [b"0", b"1", b"2"])
    assert seen == [[0, 1, 2]] * 3 + [[0, 1], [2]]
    assert (ended.finished, ended.calls, len(ended.errors)) == ([0, 1], 5, 4)
    [bad] = ended.given_up
    assert (bad.id, bad.then) == (2, "discarded")


def test_a_try_that_fails_and_a_later_one_that_passes() -> None:
    shop, failures = app(), [ConnectionError("away"), Retry(3600.0)]

    @shop.handler("kafka:orders")
    async def charge(order: Order) -> None:
        if failures:
            raise failures.pop(0)

    ended = call(charge, VALUES[:1])
    assert (ended.finished, ended.given_up, list(map(type, ended.errors))) == ([0], [], [ConnectionError, Retry])


def test_what_a_worker_would_stop_for() -> None:
    shop = app()

    @shop.handler("kafka:orders")
    def charge(order: int) -> None:
        raise Reject("never")

    assert [(one.id, one.then) for one in call(charge, [b"1", b"2"]).given_up] == [(0, "stops the handler")]

    def wrong(orders: list[int]) -> Any:
        return 5

    with pytest.raises(Misused, match="handler wrong returned an int"):
        call(wrong, [b"1"])


def test_options_of_the_call_change_those_of_the_decorator() -> None:
    shop = app()

    @shop.handler("kafka:orders", dead_letter="kafka:dead")
    def charge(orders: list[bytes]) -> None:
        raise Failed(0)

    assert call(charge, [b"1"], retries=0).calls == 1
    assert call(charge, [b"1", b"2"], retries=0, dead_letter="discard").given_up[0].then == "discarded"


def test_order_is_a_partitions_unless_said_otherwise() -> None:
    def charge(order: bytes) -> None:
        seen.append(order)
        if order == b"0":
            raise ValueError

    seen: list[bytes] = []
    call(charge, [b"0", b"1"], retries=1, dead_letter="discard")
    assert seen == [b"0", b"0", b"1"]
    seen = []
    call(charge, [b"0", b"1"], retries=1, dead_letter="discard", ordered=False)
    assert seen == [b"0", b"1", b"0"]


def test_a_batch_has_keys_and_tombstones_are_none() -> None:
    def charge(orders: list[Record[int]]) -> None:
        seen.extend((one.key, one.value) for one in orders)

    seen: list[Any] = []
    assert call(charge, batch(b"1", None, key=b"k", start=7)).finished == [7, 8]
    assert seen == [(b"k", 1), (b"k", None)]
    assert call(charge, []).calls == 0


@pytest.mark.parametrize("values", [b"1", "1", ["1"], [1]])
def test_values_that_no_broker_sends(values: Any) -> None:
    with pytest.raises(TypeError, match="bytes"):
        call(lambda one: None, values)


def test_a_function_of_several_apps() -> None:
    one, other = app(), app()

    def charge(orders: list[bytes]) -> None:
        raise ValueError

    one.handler("kafka:orders", dead_letter="kafka:dead", retries=0)(charge)
    other.handler("kafka:orders", dead_letter="kafka:dead", retries=0)(charge)
    assert call(charge, [b"1"]).calls == 1, "it is the same with both"
    third = app()
    third.handler("kafka:orders", dead_letter="discard", retries=3)(charge)
    with pytest.raises(ConfigError, match="app=APP"):
        call(charge, [b"1"])
    assert call(charge, [b"1"], app=third).calls == 4
    with pytest.raises(ConfigError, match="has no handler"):
        call(charge, [b"1"], app=App("none"))


class Brokers:
    """One fake source and sink for every stream."""

    def __init__(self) -> None:
        self.records, self.letters = FakeSource(), FakeSink()

    def source(self, options: SourceOptions) -> FakeSource:
        return self.records

    def sink(self, options: SinkOptions) -> FakeSink:
        return self.letters


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    made = Brokers()
    monkeypatch.setattr("worker.run.connector", lambda scheme: made)
    return made


def shop_of(happened: list[str]) -> App:
    shop = app()

    @shop.lifespan
    def pools() -> Iterator[None]:
        happened.append("opened")
        yield
        happened.append("closed")

    @shop.handler("kafka:orders", window=0.0, dead_letter="kafka:dead")
    def charge(order: bytes) -> None:
        happened.append(order.decode())
        if order == b"bad":
            raise Reject("never")

    return shop


def test_an_app_runs_until_a_condition_and_stops_cleanly(brokers: Brokers) -> None:
    happened: list[str] = []
    with running(shop_of(happened)) as worker:
        brokers.records.put(b"1")
        brokers.records.put(b"bad")
        worker.until(lambda: worker.counters["charge"].handled == 1 and brokers.letters.letters)
    assert happened == ["opened", "1", "bad", "closed"]
    assert brokers.records.finished() and not brokers.records.opened


def test_what_made_it_fail_is_raised_where_the_test_waits(brokers: Brokers) -> None:
    happened: list[str] = []
    with pytest.raises(Stopped, match="never"), running(shop_of(happened), {"handlers.charge.dead_letter": ""}) as worker:
        brokers.records.put(b"bad")
        worker.until(lambda: False)
    assert happened[-1] == "closed"


def test_what_made_it_fail_is_raised_at_the_end_of_the_block(brokers: Brokers) -> None:
    failing = app()

    @failing.lifespan
    def pools() -> Iterator[None]:
        raise OSError("no database")
        yield

    @failing.handler("kafka:orders")
    def charge(b: Batch) -> None: ...

    with pytest.raises(OSError, match="no database"), running(failing):
        pass


def test_a_condition_that_does_not_come_true_says_how_far_it_got(brokers: Brokers) -> None:
    with pytest.raises(TimeoutError, match=r"charge: 1 records received, 1 handled"), running(shop_of([])) as worker:
        brokers.records.put(b"1")
        worker.until(lambda: worker.counters["charge"].handled)
        worker.until(lambda: False, timeout=0)
    assert not brokers.records.opened, "and it was stopped"


def test_what_fails_in_the_block_is_raised_and_not_hidden_by_the_app(brokers: Brokers) -> None:
    with pytest.raises(AssertionError, match="mine"), running(shop_of([]), {"handlers.charge.dead_letter": ""}) as worker:
        brokers.records.put(b"bad")
        with pytest.raises(Stopped):
            worker.until(lambda: False)
        raise AssertionError("mine")


def test_settings_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="batch_size"), running(shop_of([]), {"handlers.charge.batch_size": 0}):
        pass


def test_a_call_that_does_not_return_is_no_clean_stop(brokers: Brokers) -> None:
    shop, begun, end = app(), threading.Event(), threading.Event()

    @shop.handler("kafka:orders", window=0.0, drain=0.01)
    def charge(order: bytes) -> None:
        begun.set()
        end.wait(30)

    brokers.records.put(b"1")
    with pytest.raises(Stopped, match="did not return"), running(shop) as worker:
        worker.until(begun.is_set)
    end.set()
    assert not brokers.records.finished()
