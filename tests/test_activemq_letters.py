"""What a dead letter for ActiveMQ looks like, and that it is read back as what it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.activemq_batch import ActiveMQBatch
from connectors.activemq_frames import Decoder, headers
from connectors.activemq_headers import EXACT, Header
from connectors.activemq_sink import ActiveMQSink
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions


def frame(key: bytes | None, own: list[Header]) -> tuple[bytes, bytes]:
    sink = ActiveMQSink(SinkOptions(Connection("a", "activemq", "localhost:61613"), "dead"))
    record = Record(b"v", key, (), None, 1, Partition("q", 0))
    [(head, body)] = Decoder().feed(sink._frame(DeadLetter(record, ValueError(), 1, own), "receipt-1"))
    return head.replace(b"\nreceipt:receipt-1", b""), body  # the broker keeps that


def read_back(head: bytes, body: bytes = b"v") -> Record[bytes]:
    [record] = ActiveMQBatch(Partition("dead", 0), [(0, head, body)])
    return record


@pytest.mark.parametrize(
    "name",
    [
        *("destination", "receipt", "persistent", "content-length", "content-type", "transaction", "id", "ack", "message-id"),
        *("expires", "timestamp", "priority", "type", "reply-to", "correlation-id", "subscription", "selector", "redelivered"),
        *("transformation", "transformation-error", "amq-msg-type", "browser"),
        *("JMSExpiration", "JMSXGroupID", "JMSXGroupSeq", "JMSXUserID", "AMQ_SCHEDULED_DELAY", "_AMQ_SCHED_DELIVERY"),
    ],
)
def test_a_records_own_header_does_not_tell_the_broker_anything(name: str) -> None:
    head, body = frame(None, [(name, b"1000"), ("plain", b"1")])
    told = headers(head)
    assert told.get(name) != "1000"
    assert (told[f"x-{name}"], told["plain"]) == ("1000", "1")
    assert sorted(read_back(head, body).headers) == sorted([(name, b"1000"), ("plain", b"1")])


def test_a_plain_letter_needs_no_help() -> None:
    head, _ = frame(b"key", [("own", b"text: \xc3\xa4\\\n")])
    assert EXACT not in headers(head)


def test_of_a_doubled_header_the_first_is_shown_and_all_come_back() -> None:
    own: list[Header] = [("h", b"1"), ("h", b"2"), ("x-ack", b"3"), ("ack", b"4")]
    head, _ = frame(None, own)
    assert (headers(head)["h"], headers(head)["x-ack"]) == ("1", "3")
    assert list(read_back(head).headers) == own


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["id", "x-id", "JMSType", "a"])
own_headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=8)), max_size=6)


@given(st.none() | st.binary(max_size=8), own_headers)
def test_any_key_and_headers_come_back(key: bytes | None, own: list[Header]) -> None:
    head, body = frame(key, own)
    record = read_back(head, body)
    assert record.key == key
    assert ActiveMQBatch(Partition("dead", 0), [(0, head, body)]).keys() == [key]
    assert sorted(record.headers, key=repr) == sorted(own, key=repr)


@pytest.mark.parametrize("told", ["no JSON", "7", "{}", '"ab"', '[["a"]]', '[["a", 1]]', '[["a", "?"]]', "[" * 9000])
def test_what_somebody_else_called_exact_stops_nothing(told: str) -> None:
    assert read_back(f"MESSAGE\n{EXACT}:{told}\nown:1".encode()).headers == (("own", b"1"),)
