"""What a handler's annotation gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, field_validator

from tests.support import batch
from worker.decode import Decode, shape
from worker.errors import ConfigError, Invalid
from worker.interface import Batch, Record


class Order(BaseModel):
    id: int
    total: float


GOOD = b'{"id": 1, "total": 1.5}'
TEXT = json.dumps


def arguments(function: Callable[..., Any], *values: bytes | None) -> Any:
    return shape(function).arguments(batch(*values))


def test_batch_or_nothing_gives_the_batch() -> None:
    def annotated(b: Batch) -> None: ...
    def bare(b): ...  # type: ignore[no-untyped-def]

    assert (shape(annotated).takes, shape(bare).takes, shape(bare).typed) == ("batch", "batch", False)


def test_lists_of_bytes_and_text() -> None:
    def raw(values: list[bytes]) -> None: ...
    def text(values: list[str]) -> None: ...

    assert arguments(raw, b"\xff", None).values == [b"\xff", None]
    got = arguments(text, "é".encode(), b"\xff", None)
    assert (got.values, list(got.bad), got.kept) == (["é", None], [1], [0, 2])


def test_every_invalid_value_is_named_and_the_others_reach_the_handler() -> None:
    def typed(orders: list[Order]) -> None: ...

    got = arguments(typed, GOOD, b"{nope", None, b'{"id": "x", "total": 1}', GOOD)
    assert got.values == [Order(id=1, total=1.5), None, Order(id=1, total=1.5)]
    assert got.kept == [0, 2, 4]
    assert all(isinstance(error, Invalid) for error in got.bad.values())
    assert list(got.bad) == [1, 3]
    assert "id: Input should be a valid integer" in str(got.bad[3])


def test_values_that_would_join_into_valid_ones_are_still_invalid() -> None:
    def typed(orders: list[Order]) -> None: ...

    got = arguments(typed, b'{"id":1,"total":1},{"id":2,"total":2}', b'{"id":3,"x":[1', b'2],"total":1}')
    assert (list(got.values), sorted(got.bad)) == ([], [0, 1, 2])


def test_an_error_does_not_repeat_the_value() -> None:
    def typed(orders: list[Order]) -> None: ...

    assert "hunter2" not in str(arguments(typed, b'{"id": "hunter2", "total": 1}').bad[0])


def test_a_validator_that_raises_what_it_likes_fails_its_record_only() -> None:
    class Strict(BaseModel):
        id: int

        @field_validator("id")
        @classmethod
        def known(cls, value: int) -> int:
            return {1: 10}[value]

    def typed(orders: list[Strict]) -> None: ...

    typed.__annotations__ = {"orders": list[Strict]}
    got = arguments(typed, b'{"id": 2}', b'{"id": 1}')
    assert ([order.id for order in got.values], list(got.bad)) == ([10], [0])
    assert "KeyError" in str(got.bad[0])


def test_records_keep_key_and_id() -> None:
    def records(orders: list[Record[Order]]) -> None: ...
    def plain(records: list[Record]) -> None: ...  # type: ignore[type-arg]

    got = shape(records).arguments(batch(b"bad", GOOD, key=b"k"))
    assert [(r.value, r.key, r.id) for r in got.values] == [(Order(id=1, total=1.5), b"k", 1)]
    assert shape(plain).arguments(batch(b"x")).values[0].value == b"x"


def test_one_at_a_time() -> None:
    def one(order: Order) -> None: ...
    def raw(value: bytes) -> None: ...
    def optional(order: Order | None) -> None: ...

    assert (shape(one).takes, shape(one).typed, shape(raw).takes, shape(raw).typed) == ("one", True, "one", False)
    assert arguments(optional, None, GOOD).values == [None, Order(id=1, total=1.5)]


@pytest.mark.parametrize("place", ["list", "record", "one"])
def test_decode_in_any_place(place: str) -> None:
    Number = Annotated[int, Decode(int)]

    def many(values: list[Number]) -> None: ...
    def records(values: list[Record[Number]]) -> None: ...
    def one(value: Number) -> None: ...

    function = {"list": many, "record": records, "one": one}[place]
    function.__annotations__ = {"values": {"list": list[Number], "record": list[Record[Number]]}.get(place), "value": Number}
    got = arguments(function, b"7", b"x", None)
    values = [v.value if isinstance(v, Record) else v for v in got.values]
    assert (values, list(got.bad)) == ([7, None], [1])
    assert "ValueError" in str(got.bad[1])


def test_methods_callables_and_async() -> None:
    class Charge:
        def method(self, orders: list[Order]) -> None: ...
        async def __call__(self, order: Order) -> None: ...

    assert shape(Charge().method).takes == "list"
    called = shape(Charge())
    assert (called.takes, called.is_async) == ("one", True)


def test_what_cannot_be_served_is_refused_by_name() -> None:
    def nothing() -> None: ...
    def two(a: Batch, b: Batch) -> None: ...
    def generator(b: Batch):
        yield  # type: ignore[no-untyped-def]

    def unknown(b: list[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def unserved(b: list[object.__class__.__call__]) -> None: ...  # type: ignore

    for function, told in ((nothing, "one argument"), (two, "one argument"), (generator, "yield"), (unknown, "Nowhere")):
        with pytest.raises(ConfigError, match=told) as caught:
            shape(function)
        assert function.__name__ in str(caught.value)
