"""Headers that a publisher may write and pika cannot read or write are kept, and none stops a worker."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pika import spec

from worker.connectors.rabbitmq_batch import RabbitMQBatch
from worker.connectors.rabbitmq_message import properties
from worker.interface import KEY_HEADER, LEFT_OUT_HEADER, DeadLetter, Partition, Record


def record(*fields: bytes) -> Record[bytes]:
    """What a message with these fields in its header table, and a content type in front of it, is handed out as."""
    table = b"".join(fields)
    raw = b"\xa0\x00\x04text" + struct.pack(">I", len(table)) + table
    return RabbitMQBatch(Partition("q", 0), [(1, 0, b"\x00\x01q", raw, b"v")]).record(0)


def double(value: float, name: bytes = b"h") -> bytes:
    return bytes([len(name)]) + name + b"d" + struct.pack(">d", value)


def table(name: bytes, *fields: bytes) -> bytes:
    return bytes([len(name)]) + name + b"F" + struct.pack(">I", len(b"".join(fields))) + b"".join(fields)


LATE = b"\x01hT" + (1_700_000_000_000).to_bytes(8, "big")
"""Milliseconds where seconds are meant: no date that Python has."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (double(1.5), b"1.5"),
        (b"\x01hf" + struct.pack(">f", 0.25), b"0.25"),
        (double(1e300), b"1e+300"),
        (double(float("nan")), b"nan"),
        (LATE, b"1700000000000"),
        (table(b"h", double(1.5, b"\xff")), b'{"\\\\xff": 1.5}'),
        (table(b"h", b"\x01bx\x00\x00\x00\x02\xfe!"), b'{"b": "\\\\xfe!"}'),
        (b"\x01hs\xff\xfb", b"-5"),
        (b"\x01hb\xfb", b"-5"),
        (b"\x01hi\xff\xff\xff\xfb", b"4294967291"),
        (table(b"h", double(1.5), b"\x01mD\x02\x00\x00\x04\xd2"), b'{"h": 1.5, "m": "12.34"}'),
    ],
)
def test_what_was_written_is_read_and_goes_along_with_a_letter(field: bytes, value: bytes) -> None:
    one = record(field, b"\x05otherS\x00\x00\x00\x01x")
    assert one.headers == (("h", value), ("other", b"x"))
    assert one.properties["content_type"] == "text"
    assert field in raw_letter(one)


def raw_letter(one: Record[bytes], longest: int = 131_064) -> bytes:
    """The properties that its dead letter is written with."""
    made, _ = properties(DeadLetter(one, ValueError(), 1, one.headers), "dead", longest)
    return b"".join(made.encode())


def letter(one: Record[bytes]) -> Record[bytes]:
    """Its dead letter, read back."""
    return RabbitMQBatch(Partition("dead", 0), [(1, 0, b"\x00\x04dead", raw_letter(one), one.value or b"")]).record(0)


def test_a_name_that_is_no_text() -> None:
    assert record(double(2.0, b"\xff")).headers == (("\\xff", b"2.0"),)


def test_a_message_id_that_is_no_text() -> None:
    one = RabbitMQBatch(Partition("q", 0), [(7, 0, b"\x00\x01q", b"\x00\x80\x02\xff\xfe", b"v")]).record(0)
    assert one.id == "\\xff\\xfe"
    assert letter(one).properties["message_id"] == b"\xff\xfe"


HEADERS: dict[str, Any] = {
    "text": "é",
    "bytes": b"\xff",
    "flag": True,
    "small": -5,
    "large": 1 << 40,
    "money": Decimal("12.34"),
    "date": datetime(2026, 1, 2, tzinfo=UTC),
    "none": None,
    "list": [1, "two", [b"\x00\xff"]],
    "table": {"a": {"b": 1}},
}


def test_everything_else_is_read_as_pika_reads_it() -> None:
    raw = b"".join(spec.BasicProperties("text/plain", "gzip", HEADERS, priority=3, message_id="id").encode())
    one = RabbitMQBatch(Partition("q", 0), [(1, 0, b"\x00\x01q", raw, b"v")]).record(0)
    assert one.properties["headers"] == HEADERS
    assert letter(one).properties["headers"] == HEADERS | {KEY_HEADER: "q"}
    assert (one.id, one.properties["priority"], one.properties["content_encoding"]) == ("id", 3, "gzip")


def test_a_share_that_is_redriven_is_a_number_still() -> None:
    """As a letter it was a text, and `share * 2` was 0.250.25."""
    again = letter(letter(record(double(0.25, b"share"))))
    assert again.properties["headers"]["share"] * 2 == 0.5


def test_headers_that_do_not_fit_into_a_frame_are_left_out_and_named() -> None:
    def text(name: bytes, size: int) -> bytes:
        return bytes([len(name)]) + name + b"S" + struct.pack(">I", size) + b"x" * size

    large = record(text(b"a", 10), text(b"b", 3_000), text(b"c", 900), text(b"d", 2_000))
    assert len(raw_letter(large, 6_000)) < 6_000
    assert dict(letter(large).headers).keys() == {"a", "b", "c", "d"}
    made = raw_letter(large, 5_000)
    assert len(made) <= 5_000
    back = RabbitMQBatch(Partition("dead", 0), [(1, 0, b"\x00\x04dead", made, b"v")]).record(0)
    assert dict(back.headers) == {"a": b"x" * 10, "c": b"x" * 900, LEFT_OUT_HEADER: b"b, d"}


def test_a_name_that_only_another_broker_can_have_is_left_out() -> None:
    one = record()._replace(headers=(("h" * 256, b"1"), ("\ud800", b"2"), ("own", b"3")))
    assert dict(letter(one).headers) == {"\\ud800": b"2", "own": b"3", LEFT_OUT_HEADER: b"h" * 100}


def test_a_time_that_no_other_broker_can_have_is_none() -> None:
    raw = b"\x00\x40" + b"\xff" * 8
    assert RabbitMQBatch(Partition("q", 0), [(1, 0, b"\x00\x01q", raw, b"v")]).record(0).timestamp is None
