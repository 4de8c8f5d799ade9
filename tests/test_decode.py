"""What a handler's annotation gives it."""

from __future__ import annotations

import functools
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NewType

import pytest
from pydantic import BaseModel, Field, JsonValue, field_validator
from typing_extensions import TypedDict

from tests.support import batch
from worker import signature
from worker.decode import Decode, shape
from worker.errors import ConfigError, Invalid, Stopped
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


class Lines(BaseModel):
    lines: list[Line]


def test_of_many_problems_the_first_are_named_and_the_value_is_not_kept() -> None:
    def typed(orders: list[Lines]) -> None: ...

    value = b'{"lines": [' + b",".join([b"1"] * 10_000) + b"]}"
    tracemalloc.start()
    try:
        got = arguments(typed, *[value] * 5)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    told = str(got.bad[0])
    assert told.startswith("lines.0: Input should be") and told.endswith("; and 9,980 problems more")
    assert told.count("lines.") == 20 and all(error.__cause__ is None and error.__context__ is None for error in got.bad.values())
    assert size < 500_000


def test_a_long_key_that_the_record_chose_is_cut() -> None:
    def typed(orders: list[dict[str, int]]) -> None: ...

    told = str(arguments(typed, b'{"' + b"k" * 10_000 + b'": "x"}').bad[0])
    assert len(told) < 200


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


# What the annotation is made of


class Later(BaseModel):
    line: Line


class Line(BaseModel):
    id: int


class Never(BaseModel):
    total: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclass
class NeverEither:
    never: Never


class NeverTyped(TypedDict):
    total: Nowhere  # type: ignore[name-defined]  # noqa: F821


def takes(annotation: Any) -> Callable[[Any], None]:
    def function(values: Any) -> None: ...

    function.__annotations__ = {"values": annotation}
    return function


def refusal(function: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        shape(function)
    assert caught.value.exit_code == 2 and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_class_that_is_defined_further_down_works() -> None:
    def typed(orders: list[Later]) -> None: ...

    assert arguments(typed, b'{"line": {"id": 1}}').values == [Later(line=Line(id=1))]


@pytest.mark.parametrize("value", [Never, NeverEither, NeverTyped, dict[str, Never], Never | None, Annotated[Never, Field()]])
@pytest.mark.parametrize("form", ["list", "one", "record"])
def test_a_type_that_pydantic_cannot_finish_is_refused_with_the_name_that_is_missing(value: Any, form: str) -> None:
    annotation = {"list": list[value], "one": value, "record": list[Record[value]]}[form]
    assert "Nowhere" in refusal(takes(annotation))


Raw = NewType("Raw", bytes)


@pytest.mark.parametrize(
    "value", [bytes, Annotated[bytes, "raw"], bytes | None, Raw, Annotated[Raw, "raw"] | None, Annotated[bytes | None, "raw"]]
)
def test_what_leaves_a_type_what_it_is_changes_nothing(value: Any) -> None:
    noted = Annotated[list[value], "note"], Annotated[list[value], Field(description="note")]
    for annotation in (list[value], *noted, list[value] | None, Sequence[value]):
        made = shape(takes(annotation))
        assert (made.takes, made.records, made.typed) == ("list", False, False)
    made = shape(takes(value))
    assert (made.takes, made.typed) == ("one", False)
    for annotation in (list[Record[value]], list[Record[value] | None], Annotated[list[Annotated[Record[value], "x"]], "note"]):
        made = shape(takes(annotation))
        assert (made.takes, made.records, made.typed) == ("list", True, False)
    assert shape(takes(Annotated[Batch, "note"])).takes == shape(takes(Batch | None)).takes == "batch"


def test_text_is_the_value_as_it_is_wherever_it_stands_for_the_whole() -> None:
    for value in (str, str | None, Annotated[str, "note"], Annotated[str, Field(max_length=3)]):
        got = arguments(takes(list[value]), b"abc", b"\xff")
        assert (list(got.values), list(got.bad)) == (["abc"], [1])
    got = arguments(takes(list[Annotated[str, Field(max_length=2)]]), b"abc", b"ab")
    assert (got.values, list(got.bad)) == (["ab"], [0])
    got = arguments(takes(list[Annotated[bytes, Field(max_length=2)]]), b"\xff\xff\xff", b"\xff")
    assert (got.values, list(got.bad)) == ([b"\xff"], [0])


def test_any_json_is_one_type() -> None:
    for annotation in (list[JsonValue], Sequence[JsonValue | None]):
        got = arguments(takes(annotation), b'{"a": [1]}', b"[1]", b'"s"', b"x")
        assert (got.values, list(got.bad)) == ([{"a": [1]}, [1], "s"], [3])
    assert shape(takes(JsonValue)).takes == shape(takes(Record[JsonValue])).takes == "one"


@pytest.mark.parametrize(
    "annotation",
    [
        *(bytes | str, list[int | str], int | list[int], list[bytes] | list[str], Batch | list[bytes], list[Batch]),
        *(Iterator[int], list[bytearray], Record[Record[int]], Annotated[list[int], Field(max_length=3)], Record[int] | int),
    ],
)
def test_what_may_mean_two_things_is_refused(annotation: Any) -> None:
    refusal(takes(annotation))


def test_a_decode_that_can_never_work_is_refused() -> None:
    async def later(value: bytes) -> int:
        return 1

    def generator(value: bytes) -> Iterator[int]:
        yield 1

    def two(value: bytes, other: int) -> int:
        return 1

    for function in (later, generator, two, lambda: 1, 5, functools.partial(later)):
        assert "Decode" in refusal(takes(list[Annotated[int, Decode(function)]]))  # type: ignore[arg-type]


def test_a_decode_that_returns_what_nobody_awaits_stops_the_handler() -> None:
    async def later(value: bytes) -> int:
        return 1

    with pytest.raises(Stopped, match="nobody awaits"):
        arguments(takes(list[Annotated[int, Decode(lambda value: later(value))]]), b"1")


# What is called, and what gets the values


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return inner


def with_a_database(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(orders: Any) -> Any:
        return function("db", orders)

    return inner


def with_other_names(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(batch: Any) -> Any:
        return function("db", batch)

    return inner


def of_a_database(db: str, orders: list[Order]) -> None: ...


async def later_of_a_database(db: str, orders: list[Order]) -> None: ...


def test_the_type_comes_through_partials_and_wrappers() -> None:
    for function, is_async in (
        (functools.partial(of_a_database, "db"), False),
        (functools.partial(later_of_a_database, "db"), True),
        (timed(functools.partial(of_a_database, "db")), False),
        (with_a_database(of_a_database), False),
        (with_a_database(later_of_a_database), False),
        (functools.lru_cache(with_a_database(of_a_database)), False),
    ):
        made = shape(function)
        assert (made.takes, made.typed, made.is_async) == ("list", True, is_async)


async def yields(orders: list[Order]) -> AsyncIterator[None]:
    yield


def test_a_decorator_that_may_not_run_what_it_wraps_is_doubted() -> None:
    assert "an async function" in str(signature.doubt(timed(later_of_a_database)))
    assert "a generator" in str(signature.doubt(timed(yields)))
    for function in (timed(of_a_database), of_a_database, later_of_a_database, functools.partial(later_of_a_database, "db")):
        assert signature.doubt(function) is None


def test_what_cannot_be_read_is_refused_and_not_taken_for_a_batch() -> None:
    def without_wraps(*arguments: Any) -> None: ...

    without_wraps.__annotations__ = {}

    def only_names(**named: Any) -> None: ...
    def too_many(a: Batch, b: int) -> None: ...
    def broken(orders: list[1 / 0]) -> None: ...  # type: ignore
    def attribute(orders: json.Nothing) -> None: ...  # type: ignore

    class Class:
        def __init__(self, orders: list[Order]) -> None: ...

        @classmethod
        def of_class(cls, orders: list[Order]) -> None: ...

        @property
        def value(self) -> int:
            return 1

    members = vars(Class)
    for function in (without_wraps, only_names, too_many, broken, attribute, Class, members["of_class"], members["value"], 5):
        refusal(function)
    assert "same name" in refusal(with_other_names(of_a_database))


def test_static_methods_are_functions() -> None:
    class Class:
        @staticmethod
        async def charge(orders: list[Order]) -> None: ...

    made = shape(vars(Class)["charge"])
    assert (made.takes, made.typed, made.is_async) == ("list", True, True)
