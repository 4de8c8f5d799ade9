"""STOMP's frames are the same however their bytes are cut, and what we write is what others read."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.connectors.activemq_acks import Cumulative, Individual
from worker.connectors.activemq_batch import ActiveMQBatch, Message
from worker.connectors.activemq_frames import Decoder, Frame, Malformed, encode, escape, header, headers, raw, unescape
from worker.interface import Partition

SECRET = b"0123456789abcdef"
MESSAGE = b"MESSAGE\nsubscription:" + SECRET + b".1\n"
RECEIPT = b"RECEIPT\nreceipt-id:" + SECRET + b".2\n\n\0\n"


def taken(*chunks: bytes) -> list[Frame]:
    decoder = Decoder(SECRET)
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


STREAM = b"".join(
    [
        b"CONNECTED\nserver:ActiveMQ/6.1.7\nheart-beat:0,0\nversion:1.2\n\n\0\n",
        MESSAGE + b"ack:1\nmessage-id:a\\c1\n\ntext\0\n\n\n",
        MESSAGE + b"ack:2\ncontent-length:7\n\n\0by\n\nt\0\0",
        MESSAGE + b"content-length:0\nack:3\n\n\0\r\n",
        MESSAGE + b"ack:4\n\n\0\n",
        RECEIPT,
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
    stream = MESSAGE + b"ack:1\n\n" + body + b"\0\n" + MESSAGE + b"ack:2\n\nnext\0\n\n" + RECEIPT
    for at in range(len(stream)):
        assert [found for _, found in taken(CONNECTED, stream[:at], stream[at:])[1:]] == [body, b"next", b""]
    assert [found for _, found in taken(CONNECTED, *(bytes([byte]) for byte in stream))[1:]] == [body, b"next", b""]


def test_the_last_text_is_doubtful_until_something_follows() -> None:
    decoder = Decoder(SECRET)
    assert len(decoder.feed(CONNECTED + MESSAGE + b"content-length:1\n\n1\0\n" + MESSAGE + b"\nab")) == 2
    assert not decoder.doubtful
    assert decoder.feed(b"c\0\n") == decoder.feed(b"\n") == []
    assert decoder.doubtful
    assert [body for _, body in decoder.feed(RECEIPT)] == [b"abc", b""]
    assert not decoder.doubtful


def test_frames_without_an_end_of_line_behind_them() -> None:
    stream = b"CONNECTED\n\n\0" + MESSAGE + b"\n1\0" + MESSAGE + b"\n2\0" + RECEIPT
    assert [body for _, body in taken(stream)] == [b"", b"1", b"2", b""]


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
        told["subscription"] = f"{SECRET.decode()}.1"
        stream += encode("MESSAGE", told, body) + b"\n"
        expected.append((told, body))
    stream += RECEIPT
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


LARGE = {
    "a text": MESSAGE + b"\n",
    "a text of nothing but frames": MESSAGE + b"\n",
    "bytes": MESSAGE + b"content-length:%d\n\n",
    "a length that is too small": MESSAGE + b"content-length:3\n\n",
    "a length that is no number": MESSAGE + b"content-length:x\n\n",
}
PIECES = {"a text of nothing but frames": b"\0\nMESSAGE\nERROR\n\n\0\n"}


def seconds(kind: str, size: int) -> float:
    """To take a message of about `size` bytes apart that comes in pieces of 16 KiB."""
    decoder = Decoder(SECRET)
    decoder.feed(CONNECTED)
    piece = PIECES.get(kind, b"x") * (16_384 // len(PIECES.get(kind, b"x")))
    count = size // len(piece)
    head = LARGE[kind].replace(b"%d", b"%d" % (count * len(piece)))
    began = time.process_time()
    decoder.feed(head)
    for _ in range(count):
        assert decoder.feed(piece) == []
    (_, body), *_ = decoder.feed(b"\0\n") or decoder.feed(RECEIPT)
    assert len(body) == count * len(piece)
    return time.process_time() - began


@pytest.mark.parametrize("kind", LARGE)
def test_large_frames_take_linear_time(kind: str) -> None:
    small = max(0.002, min(seconds(kind, 1 << 20) for _ in range(3)))
    assert seconds(kind, 1 << 25) < 32 * 5 * small


HEADS = {
    "one header": b"x" * 16_384,
    "many headers": b"own:header\n" * 1_500 + b"x:",
    "headers like commands": b"1\nx:MESSAGE\ny:RECEIPT" * 800,
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_any_length_is_kept_in_part(kind: str) -> None:
    """A JMS property of 32 MiB did arrive, and cost quadratic time."""
    decoder = Decoder(SECRET)
    decoder.feed(CONNECTED + MESSAGE + b"ack:7\nlong:")
    began = time.process_time()
    for _ in range((16 << 20) // len(HEADS[kind])):
        assert decoder.feed(HEADS[kind]) == []
        assert decoder._size <= 3 << 20
    assert time.process_time() - began < 3
    [(head, body), _] = decoder.feed(b"\nmessage-id:1\npriority:4\n\nbody\0\n" + RECEIPT)
    [record] = ActiveMQBatch(Partition("q", 0), [(0, head, body)])
    assert (record.value, record.id, record.properties["priority"], raw(head, b"\nack:")) == (b"body", "1", 4, b"7")
    assert "undecodable" in dict(record.headers)


@pytest.mark.parametrize("endless", [b"x", b"x\n", b":", b"long:" + b"x" * 100])
@pytest.mark.parametrize(
    "begin", [MESSAGE, MESSAGE + b"\n", MESSAGE + b"content-length:99999999999\n\n", RECEIPT[:-3], b"ERROR\n\n"]
)
def test_a_frame_that_does_not_end_is_given_up(begin: bytes, endless: bytes) -> None:
    decoder = Decoder(SECRET, 8 << 20)
    with pytest.raises(Malformed, match="max_frame_size"):
        for _ in range(1_000):
            assert not decoder.feed(begin + endless * (65_536 // len(endless)))
            assert decoder._size < 12 << 20
            begin = b""


FORGED = {
    "error": b"ERROR\nmessage:User name [x] or password is invalid\n\nforged\0\n",
    "receipt": b"RECEIPT\nreceipt-id:2\n\n\0\n",
    "no text": b"RECEIPT\nreceipt-id:\xff\xfe\n\n\0\n",
    "message": b"MESSAGE\nsubscription:1\nack:1\n\nforged\0\n",
    "connected": b"CONNECTED\nserver:other\n\n\0\n",
    "without an end": b"MESSAGE\nmessage-id:forged\ndestination:/queue/other",
    "a receipt without an end": b"RECEIPT\nx:1",
    "an error without an end": b"ERROR\nmessage:x\n",
    "ends of lines": b"\n\n\n\n",
}


@pytest.mark.parametrize(
    "told", [b"", b"content-length:5\n", b"content-length:0\n", b"content-length:9999\n", b"content-length:-1\n"]
)
@pytest.mark.parametrize("kind", FORGED)
def test_no_text_is_taken_for_frames(kind: str, told: bytes) -> None:
    """Nor does it change the frame behind it, whatever the producer says of its length."""
    text = b"hello\0\n" + FORGED[kind]
    following = MESSAGE + b"ack:2\nmessage-id:2\n\nnext\0\n"
    stream = CONNECTED + MESSAGE + told + b"ack:1\n\n" + text + b"\0\n" + following + RECEIPT
    whole = taken(stream)
    assert whole[2:] == [(following[:-8], b"next"), (RECEIPT[:-4], b"")]
    # A length that fits by chance ends the text there, and what is behind it is dropped.
    assert whole[1][1] == (b"hello" if told == b"content-length:5\n" and kind in CHANCE else text)
    for at in range(len(stream)):
        assert taken(stream[:at], stream[at:])[2:] == whole[2:]
    assert taken(*(bytes([byte]) for byte in stream))[2:] == whole[2:]


CHANCE = ("error", "receipt", "no text", "message", "without an end", "a receipt without an end", "an error without an end")


def test_an_error_behind_a_message_is_believed_when_the_connection_ends() -> None:
    decoder = Decoder(SECRET)
    assert len(decoder.feed(CONNECTED + MESSAGE + b"\na\0\nERROR\nmessage:too late\n\ntrace\0\n")) == 1
    assert decoder.doubtful
    assert header(decoder.last_words(), b"message") == b"too late"
    assert len(decoder.feed(RECEIPT)) == 2
    assert not decoder.last_words()
    certain = b"ERROR\nreceipt-id:" + SECRET + b".3\nmessage:no\n\ntrace\0\n"
    assert [head[:5] for head, _ in decoder.feed(MESSAGE + b"\na\0\n" + certain)] == [b"MESSA", b"ERROR"]


def test_an_error_behind_bytes_is_told_when_it_ended_nothing() -> None:
    decoder = Decoder(SECRET)
    assert len(decoder.feed(CONNECTED + MESSAGE + b"content-length:1\n\na\0\nERROR\nmessage:no\n\ntrace\0\n")) == 2
    assert decoder.doubtful and decoder.last_words().startswith(b"ERROR")
    assert len(decoder.feed(RECEIPT)) == 1
    assert decoder.dropped == b"ERROR\nmessage:no\n\ntrace\0\n"


# Acknowledgements


def message(number: int) -> Message:
    return number, b"MESSAGE\nack:%d" % number, b""


class Broker:
    """A subscription of `ack:client`: an ACK settles everything up to it; what it does not know it ignores, and we must not."""

    def __init__(self, count: int) -> None:
        self.open = set(range(count))

    def take(self, frames: bytes) -> None:
        for head, _, _ in (frame.partition(b"\n\n") for frame in frames.split(b"\0") if frame):
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
