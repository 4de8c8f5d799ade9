"""Headers that a publisher may write and pika cannot read or write are kept, and none stops a worker."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pika import spec

from connectors import rabbitmq as connector
from connectors.rabbitmq_batch import RabbitMQBatch
from connectors.rabbitmq_frames import publish
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions


def record(*fields: bytes) -> Record[bytes]:
    """What a message with these fields in its header table, and a content type in front of it, is handed out as."""
    table = b"".join(fields)
    properties = b"\xa0\x00\x04text" + struct.pack(">I", len(table)) + table
    return RabbitMQBatch(Partition("q", 0), [(1, 0, b"\x00\x01q", properties, b"v")]).record(0)


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
    ],
)
def test_what_was_written_is_read_and_goes_along_with_a_letter(field: bytes, value: bytes) -> None:
    one = record(field, b"\x05otherS\x00\x00\x00\x01x")
    assert one.headers == (("h", value), ("other", b"x"))
    assert one.properties["content_type"] == "text"
    assert letter(one).headers["h"] in (value.decode(), one.properties["headers"]["h"])


def letter(one: Record[bytes]) -> spec.BasicProperties:
    sink = connector.sink(SinkOptions(Connection("shop", "rabbitmq", "localhost"), "q"))
    made = sink._properties(DeadLetter(one, ValueError(), 1, one.headers))
    publish(1, "q", [(made, b"")], 1000)
    return made


def test_a_name_that_is_no_text() -> None:
    assert record(double(2.0, b"\xff")).headers == (("\\xff", b"2.0"),)


def test_a_message_id_that_is_no_text() -> None:
    one = RabbitMQBatch(Partition("q", 0), [(7, 0, b"\x00\x01q", b"\x00\x80\x02\xff\xfe", b"v")]).record(0)
    assert one.id == "\\xff\\xfe"
    assert letter(one).message_id == b"\xff\xfe"


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
    assert one.properties["headers"] == HEADERS == letter(one).headers
    assert (one.id, one.properties["priority"], one.properties["content_encoding"]) == ("id", 3, "gzip")
