"""STOMP's frames are the same however their bytes are cut, and what we write is what others read."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.activemq_acks import Cumulative, Individual
from connectors.activemq_batch import ActiveMQBatch, Message
from connectors.activemq_frames import Decoder, Frame, Malformed, encode, escape, header, headers, raw, unescape
from worker.interface import Partition


def taken(*chunks: bytes) -> list[Frame]:
    decoder = Decoder()
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


STREAM = b"".join(
    [
        b"CONNECTED\nserver:ActiveMQ/6.1.7\nheart-beat:0,0\nversion:1.2\n\n\0\n",
        b"MESSAGE\nack:1\nmessage-id:a\\c1\n\ntext\0\n\n\n",
        b"MESSAGE\nack:2\ncontent-length:7\n\n\0by\n\nt\0\0",
        b"MESSAGE\ncontent-length:0\nack:3\n\n\0\r\n",
        b"MESSAGE\nack:4\n\n\0\n",
        b"RECEIPT\nreceipt-id:9\n\n\0\n",
        b"ERROR\nmessage:no\\nway\n\n" + b"trace\n" * 50 + b"\0\n",
    ]
)


def test_a_stream_cut_once_and_twice_at_every_place() -> None:
    whole = taken(STREAM)
    assert [body for _, body in whole[1:5]] == [b"text", b"\0by\n\nt\0", b"", b""]
    for at in range(len(STREAM) + 1):
        assert taken(STREAM[:at], STREAM[at:]) == whole
        assert taken(STREAM[: at // 2], STREAM[at // 2 : at], STREAM[at:]) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_a_stream_in_small_pieces(size: int) -> None:
    assert taken(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == taken(STREAM)


CONNECTED = b"CONNECTED\nserver:ActiveMQ/6.1.7\n\n\0\n"


@pytest.mark.parametrize("body", [b"", b"a", b"a\0b", b"\0", b"a\0\0", b"x\0\ny", b"\0\n\n1", b"\0\nMESSAGES", b"\0\n" * 9])
def test_a_text_with_nul_is_whole(body: bytes) -> None:
    """As Classic sends a JMS text message with U+0000 in it: without a length."""
    stream = b"MESSAGE\nack:1\n\n" + body + b"\0\nMESSAGE\nack:2\n\nnext\0\n\nRECEIPT\nreceipt-id:1\n\n\0\n"
    for at in range(len(stream)):
        assert [found for _, found in taken(CONNECTED, stream[:at], stream[at:])[1:]] == [body, b"next", b""]
    assert [found for _, found in taken(CONNECTED, *(bytes([byte]) for byte in stream))[1:]] == [body, b"next", b""]


def test_the_last_text_is_doubtful_until_something_follows() -> None:
    decoder = Decoder()
    assert len(decoder.feed(CONNECTED + b"MESSAGE\ncontent-length:1\n\n1\0\nMESSAGE\n\nab")) == 2
    assert not decoder.doubtful
    assert decoder.feed(b"c\0\n") == decoder.feed(b"\n") == []
    assert decoder.doubtful
    assert [body for _, body in decoder.feed(b"RECEIPT\n\n\0\n")] == [b"abc", b""]
    assert not decoder.doubtful


def test_frames_without_an_end_of_line_behind_them() -> None:
    assert [body for _, body in taken(b"CONNECTED\n\n\0MESSAGE\n\n1\0MESSAGE\n\n2\0")] == [b"", b"1", b"2"]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = texts.filter(lambda name: name not in ("", "content-length"))


@given(
    st.lists(st.tuples(st.dictionaries(names, texts, max_size=5), st.binary(max_size=60), st.booleans()), max_size=5),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_what_is_written_is_what_is_read(frames: list[tuple[dict[str, str], bytes, bool]], cuts: list[int]) -> None:
    stream, expected = b"", []
    for told, body, binary in frames:
        if binary or b"\0" in body:
            told = {**told, "content-length": str(len(body))}
        stream += encode("MESSAGE", told, body) + b"\n"
        expected.append((told, body))
    stream += b"RECEIPT\n\n\0\n"
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    found = taken(*(stream[a:b] for a, b in pairwise(places)))
    assert [(headers(head), body) for head, body in found[:-1]] == expected
    for (head, _), (told, _) in zip(found[:-1], expected, strict=True):
        for name, value in told.items():
            if name.encode() == escape(name.encode()):
                assert header(head, name.encode()) == value.encode()


@given(st.binary(max_size=40) | st.lists(st.sampled_from([b"\\", b"n", b"c", b"\0", b":", b"\n"])).map(b"".join))
def test_escapes_come_back(value: bytes) -> None:
    assert unescape(escape(value)) == value
    assert b"\n" not in escape(value) and b":" not in escape(value)


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (rb"\\n", rb"\n"),
        (rb"\\\n", b"\\\n"),
        (rb"\\\\c", rb"\\c"),
        (rb"\t\c", rb"\t:"),
        (b"\0n\\c", b"\0n:"),
        (b"end\\", b"end\\"),
    ],
)
def test_each_escape_is_read_once_from_the_left(escaped: bytes, plain: bytes) -> None:
    assert unescape(escaped) == plain


def test_what_another_client_writes_and_reads() -> None:
    stomp = pytest.importorskip("stomp.utils")
    told = {"destination": "/queue/q", "odd": "a:b\\\nc"}
    # Its own writer escapes nothing, so only its reader can be asked.
    frame = stomp.parse_frame(encode("MESSAGE", told, b"body")[:-1])
    assert (frame.cmd, frame.body) == ("MESSAGE", b"body")
    assert frame.headers == told


def test_the_first_of_a_repeated_header_counts() -> None:
    head = b"MESSAGE\nfoo:1\nfoo:2"
    assert headers(head) == {"foo": "1"} and raw(head, b"\nfoo:") == b"1"


@pytest.mark.parametrize(
    "bad", [b"MESSAGE\ncontent-length:x\n\n\0", b"MESSAGE\ncontent-length:2\n\nabc\0", b"M\ncontent-length:-1\n\n\0"]
)
def test_what_is_no_stomp(bad: bytes) -> None:
    with pytest.raises(Malformed):
        taken(bad)


@pytest.mark.parametrize("head", [b"MESSAGE\ncontent-length:50000000\n\n", b"MESSAGE\n\n", b"MESSAGE\n\n\0\n"])
def test_large_frames_take_linear_time(head: bytes) -> None:
    decoder = Decoder()
    decoder.feed(CONNECTED)
    chunk = b"x" * 50_000
    began = time.process_time()
    decoder.feed(head)
    for _ in range(1_000):
        assert decoder.feed(chunk) == []
    (_, body), *_ = decoder.feed(b"\0\n") or decoder.feed(b"RECEIPT\n\n\0\n")
    assert len(body) in (50_000_000, 50_000_002)
    assert time.process_time() - began < 2


# Acknowledgements


def message(number: int) -> Message:
    return number, b"MESSAGE\nack:%d" % number, b""


class Broker:
    """A subscription of `ack:client`: an ACK settles everything up to it; what it does not know it ignores, and we must not."""

    def __init__(self, count: int) -> None:
        self.open = set(range(count))

    def take(self, frames: bytes) -> None:
        for head, _ in taken(frames):
            number = int(raw(head, b"\nid:") or b"-1")
            assert number in self.open, f"{number} was settled before"
            self.open -= {one for one in self.open if one <= number}


@given(st.permutations(range(20)), st.lists(st.integers(1, 6), min_size=20, max_size=20), st.sets(st.integers(0, 19)))
def test_cumulative_acks_settle_only_what_is_finished(order: list[int], sizes: list[int], skipped: set[int]) -> None:
    acks, broker, finished = Cumulative(), Broker(20), set[int]()
    for step, size in enumerate(sizes):
        chosen, order = order[:size], order[size:]
        if not chosen:
            break
        if step in skipped:
            broker.open -= set(chosen)  # by a NACK
            broker.take(acks.skip([message(number) for number in chosen]))
        else:
            broker.take(acks.settle([message(number) for number in chosen]))
        finished |= set(chosen)
        assert not (set(range(20)) - finished) - broker.open, "settled what is not finished"
    assert not broker.open


def test_each_is_acknowledged_alone() -> None:
    assert Individual().settle([message(3), message(1)]) == b"ACK\nid:3\n\n\0ACK\nid:1\n\n\0"


def test_headers_that_make_no_sense_stop_nothing() -> None:
    head = b"MESSAGE\nack:1\ntimestamp:soon\nbad\\x:\xff\n:empty\nno colon\npriority:high"
    [record] = ActiveMQBatch(Partition("q", 0), [(0, head, b"1")])
    assert (record.value, record.timestamp, record.properties["priority"]) == (b"1", None, None)
