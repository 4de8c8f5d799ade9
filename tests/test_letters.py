"""Dead letters read back, also those that others wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.deadletter import HEADERS, PASS, REDRIVES, letter
from worker.interface import Partition, Record
from worker.letters import Letter, Overview, Selection
from worker.shown import tell_letter
from worker.work import GivenUp

ORDERS = Partition("orders", 3)
RECORD = Record(b"value", b"key", (("who", b"me"),), 1_700_000_000_000, 42, ORDERS)


def given_up(record: Record[bytes] = RECORD, error: Exception | None = None, at: float = 1_800_000_000.0) -> Letter:
    made = letter(GivenUp(0, error or ValueError("no"), 4), record, "shop.charge", at)
    return Letter(Record(made.record.value, made.record.key, tuple(made.headers), 1, 7, Partition("orders.dead", 0)))


def test_what_a_letter_says() -> None:
    one = given_up()
    assert (one.handler, one.error, one.message, one.attempts) == ("shop.charge", "ValueError", "no", 4)
    assert (one.partition, one.id, one.time, one.redrives) == (ORDERS, "42", 1_800_000_000_000, 0)


def test_the_record_as_it_was() -> None:
    assert given_up().original() == RECORD._replace(id="42", headers=[("who", b"me")])


def test_a_key_that_is_the_name_of_the_stream_of_letters() -> None:
    one = given_up(RECORD._replace(key=b"orders.dead"))
    assert one.original().key == b"orders.dead"
    routed = Letter(one.record._replace(properties={"routing_key": "orders.dead"}))
    assert routed.original().key is None, "RabbitMQ's own of the letter"


def test_a_partition_that_no_broker_has() -> None:
    one = Letter(RECORD._replace(headers=(("dead_letter_partition", b"9" * 5_000),)))
    assert one.partition.id == "9" * 5_000


def test_each_redrive_is_counted() -> None:
    one = given_up()
    for times in (1, 2, 3):
        sent = one.redriven()
        assert [name for name, _ in sent.headers] == ["who", REDRIVES]
        one = given_up(RECORD._replace(headers=tuple(sent.headers)))
        assert one.redrives == times


def test_a_letter_that_is_put_back_is_the_same_but_for_the_run() -> None:
    again = given_up().put_back("run-1").headers
    assert again == [*given_up().record.headers, (PASS, b"run-1")]
    twice = Letter(RECORD._replace(headers=tuple(again))).put_back("run-2").headers
    assert [value for name, value in twice if name == PASS] == [b"run-2"]


@pytest.mark.parametrize(
    ("selection", "takes"),
    [
        (Selection("shop.charge"), True),
        (Selection("shop.other"), False),
        (Selection("shop.charge", error="ValueError", partition="3", since=1_800_000_000.0, id="42"), True),
        (Selection("shop.charge", error="KeyError"), False),
        (Selection("shop.charge", partition="4"), False),
        (Selection("shop.charge", since=1_800_000_001.0), False),
        (Selection("shop.charge", id="43"), False),
    ],
)
def test_a_selection(selection: Selection, takes: bool) -> None:
    assert selection.takes(given_up()) is takes


def test_an_overview() -> None:
    letters = [given_up(at=at) for at in (20.0, 10.0)] + [given_up(error=KeyError("x"), at=30.0)]
    foreign = Letter(Record(b"", None, (), None, 1, Partition("orders.dead", 0)))
    made = Overview.of([*letters, foreign], Selection("shop.charge"))
    assert [(g.error, g.letters, g.first, g.last) for g in made.sorted()] == [
        ("ValueError", 2, 10_000, 20_000),
        ("KeyError", 1, 30_000, 30_000),
    ]
    assert made.others == {"": 1}


anything = st.lists(
    st.tuples(st.sampled_from([*HEADERS, REDRIVES, PASS, "dead_letter_key", "dead_letter_null", "x"]), st.none() | st.binary())
)


@given(anything, st.none() | st.binary(), st.none() | st.binary())
def test_letters_of_others_raise_nothing(headers: list[tuple[str, bytes | None]], value: bytes | None, key: bytes | None) -> None:
    one = Letter(Record(value, key, tuple(headers), None, 1, Partition("orders.dead", 0)))
    Overview.of([one], Selection(one.handler, since=0.0))
    assert one.original().value in (value, None)
    assert sum(name == REDRIVES for name, _ in one.redriven().headers) == 1
    assert one.put_back("run").headers[-1] == (PASS, b"run")


@pytest.mark.parametrize("number", [b"9" * 30, b"-1", "²".encode(), b"1.5", b""])
def test_numbers_that_are_none(number: bytes) -> None:
    one = Letter(RECORD._replace(headers=(("dead_letter_time", number), (REDRIVES, number))))
    assert (one.time, one.redrives) == (None, 0)


SAID = [
    ("dead_letter_null", b"value"),
    ("dead_letter_key", b"other"),
    ("dead_letter_pass", b"run"),
    ("dead_letter_left_out", b"x"),
]


@pytest.mark.parametrize("said", [*SAID, *((name, b"forged") for name in HEADERS), (REDRIVES, b"many"), (REDRIVES, b"9" * 5_000)])
def test_what_a_producer_calls_like_a_header_of_ours_changes_no_letter(said: tuple[str, bytes]) -> None:
    """`dead_letter_null` threw the value away when the letter was redriven."""
    one = given_up(RECORD._replace(headers=(said, ("who", b"me"))))
    assert one.original() == RECORD._replace(id="42", headers=[("who", b"me")])
    assert (one.redrives, one.headers.get(PASS), one.handler) == (0, None, "shop.charge")


def test_ids_and_streams_of_any_length_are_cut() -> None:
    one = given_up(RECORD._replace(id="x" * 1_000_000, partition=Partition("y" * 1_000_000, "z" * 1_000_000)))
    assert sum(len(value or b"") for _, value in one.record.headers) < 4_000


@pytest.mark.parametrize("stamp", [(1 << 63) - 1, 0, -1, None])
def test_any_timestamp_comes_back(stamp: int | None) -> None:
    assert given_up(RECORD._replace(timestamp=stamp)).original().timestamp == (None if stamp == -1 else stamp)


def test_the_tries_of_a_letter_that_came_back_by_itself_add_up() -> None:
    """From a retry queue: they were 1 for ever."""
    again = given_up(RECORD._replace(headers=tuple(given_up().record.headers)))
    assert again.attempts == 8
    other = [(name, b"other" if name == "dead_letter_handler" else value) for name, value in again.record.headers]
    assert given_up(RECORD._replace(headers=tuple(other))).attempts == 4
    assert given_up(given_up().redriven().record._replace(headers=given_up().redriven().headers)).attempts == 4, "a new beginning"


def test_what_often_says_why_a_value_could_not_be_read_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "content_type": "application/json",
        "content_encoding": b"gzip\xff",
        "priority": 0,
        "reply_to": None,
        "type": "\x1b[2J",
    }
    tell_letter(Letter(given_up().record._replace(properties=told)), as_json=False)
    out = capsys.readouterr().out
    assert "  content_type application/json\n  content_encoding gzip\\xff\n  type \\x1b[2J\n  priority 0\n" in out
    assert "reply_to" not in out and "\x1b" not in out
