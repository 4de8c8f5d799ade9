"""What a dead letter for ActiveMQ looks like, and that it is read back as what it was."""

from __future__ import annotations

import pickle
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.connectors.activemq_batch import ActiveMQBatch
from worker.connectors.activemq_frames import Decoder, escape, headers
from worker.connectors.activemq_headers import EXACT, Header
from worker.connectors.activemq_sink import ActiveMQSink
from worker.deadletter import letter
from worker.interface import LEFT_OUT_HEADER, Connection, DeadLetter, Partition, Record, SinkOptions
from worker.letters import Letter
from worker.work import GivenUp


def frame(key: bytes | None, own: list[Header]) -> tuple[bytes, bytes]:
    sink = ActiveMQSink(SinkOptions(Connection("a", "activemq", "localhost:61613"), "dead"))
    record = Record(b"v", key, (), None, 1, Partition("q", 0))
    [(head, body)] = Decoder(b"secret").feed(sink._frame(DeadLetter(record, ValueError(), 1, own), "receipt-1"))
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


@pytest.mark.parametrize("name", ["plain", "JMSType", ""])
@pytest.mark.parametrize("value", [b"1" * 11_000, b"\xff" * 11_000, b"\n" * 6_000, b"\xff" * 7_000])
def test_a_header_that_the_broker_does_not_take_is_left_out_and_named(name: str, value: bytes) -> None:
    """It ended the connection, and stopped the handler."""
    head, body = frame(b"key", [(name, value), ("own", b"1")])
    record = read_back(head, body)
    assert max(len(line) for line in head.split(b"\n")) < 10_240
    assert (record.value, record.key) == (b"v", b"key")
    found = dict(record.headers)
    assert found["own"] == b"1"
    assert found.get(name) == value or (name or "(of no name)") in str(found[LEFT_OUT_HEADER])


@pytest.mark.parametrize("value", [b"1", b"\xff"])
def test_more_headers_than_the_broker_takes(value: bytes) -> None:
    head, body = frame(None, [(f"h{at}", value) for at in range(2_000)])
    assert head.count(b"\n") < 1_000
    assert dict(read_back(head, body).headers)[LEFT_OUT_HEADER].startswith(b"h9")


@pytest.mark.parametrize("key", [b"1" * 11_000, b"\xff" * 9_000])
def test_a_key_that_the_broker_does_not_take(key: bytes) -> None:
    head, body = frame(key, [("own", b"1")])
    record = read_back(head, body)
    assert (record.key, dict(record.headers)["own"]) == (None, b"1")


def test_names_that_no_broker_takes_are_nobodys() -> None:
    told = EXACT.encode() + b':[["\\\\ud800", "MQ=="]]'
    assert read_back(b"MESSAGE\n" + told + b"\nown:1").headers == (("own", b"1"),)


WORDS = [
    b"timestamp",
    b"priority",
    b"expires",
    b"content-length",
    b"message-id",
    b"redelivered",
    b"persistent",
    b"correlation-id",
]
NAMES = [
    *WORDS,
    b"type",
    b"JMSXGroupID",
    b"dead_letter_key",
    b"dead_letter_null",
    b"dead_letter_redrives",
    EXACT.encode(),
    b"browser",
]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_bytes_a_message_carries_it_is_one_record_and_one_letter(seed: int) -> None:
    """Properties may have any name and any text, and Classic shows those that have a header's name instead of the header."""
    chance = random.Random(seed)
    sent, stream = [], b"CONNECTED\nserver:ActiveMQ/6\n\n\0\n"
    for number in range(40):
        lines = [b"subscription:secret.1", b"ack:%d" % number]
        for _ in range(chance.randrange(12)):
            name = chance.choice(NAMES) if chance.random() < 0.5 else chance.randbytes(chance.choice((0, 1, 4, 300)))
            value = chance.choice(
                [b"9" * 5_000, b"soon", b"\xff", chance.randbytes(chance.choice((0, 3, 12_000))), b"-1", b"true"]
            )
            lines.append(escape(name) + b":" + escape(value))
        body = chance.randbytes(chance.choice((0, 1, 3, 900, 300_000 if number == 9 else 2)))
        if chance.random() < 0.5:
            lines.insert(0, b"content-length:%d" % len(body))
        chance.shuffle(lines)
        sent.append(body)
        stream += b"\n".join([b"MESSAGE", *lines, b"", b""]) + body + b"\0\n"
    stream += b"RECEIPT\nreceipt-id:secret.2\n\n\0\n"
    places = sorted({0, len(stream), *(chance.randrange(len(stream)) for _ in range(40))})
    decoder = Decoder(b"secret")
    [_, *messages, _] = [one for a, b in pairwise(places) for one in decoder.feed(stream[a:b])]
    assert [body for _, body in messages] == sent
    batch = ActiveMQBatch(Partition("q", 0), [(at, head, body) for at, (head, body) in enumerate(messages)])
    assert (len(batch.keys()), len(batch.timestamps()), batch.values()) == (40, 40, sent)
    sink = ActiveMQSink(SinkOptions(Connection("a", "activemq", "localhost:61613"), "dead"))
    for record in batch:
        made = letter(GivenUp(0, ValueError("no"), 1), record, "shop.take", 1.0)
        raw = sink._frame(made, "receipt").removesuffix(b"\0")
        head, _, body = raw.partition(b"\n\n")
        assert body == record.value and all(len(line) < 10_240 for line in head.split(b"\n"))
        again = Letter(read_back(b"MESSAGE\nack:1\n" + head, body))
        assert (again.handler, again.original().value) == ("shop.take", record.value)
        pickle.loads(pickle.dumps(record))


def test_a_letter_of_what_may_have_been_a_map_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = ActiveMQSink(SinkOptions(Connection("a", "activemq", "localhost:61613"), "dead"))
    for body, text in ((b"x", b""), (b"", b"\ncontent-length:0"), (b"", b""), (b"", b"")):
        record = read_back(b"MESSAGE\nack:1" + text, body)
        sink._frame(DeadLetter(record, ValueError(), 1, ()), "receipt")
    assert [one.message.count("a map, object") for one in caplog.records] == [1]
