"""The bulk reader sees in a stream of bytes what pika's decoder sees, however the stream is cut."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from pika.channel import ContentFrameAssembler
from pika.exceptions import InvalidFrameError
from pika.frame import Body, Header, Heartbeat, Method, decode_frame

from worker.connectors.rabbitmq_batch import RabbitMQBatch
from worker.connectors.rabbitmq_frames import CONSUMER, Delivery, ack, delivery, publish, reject
from worker.connectors.rabbitmq_link import BulkConnection
from worker.connectors.rabbitmq_message import properties as properties_of_letter
from worker.deadletter import letter as dead_letter
from worker.interface import Partition
from worker.letters import Letter
from worker.work import GivenUp

LONGEST = 64
"""Bytes of body in a frame of these tests."""
FRAME_MAX = 131_072
OURS = {1, 2}
"""Channels that consume."""


class Reader:
    """What became of a stream: the deliveries of each channel, and every other frame."""

    def __init__(self) -> None:
        self.inboxes: dict[int, list[Delivery]] = {channel: [] for channel in OURS}
        self.others: list[bytes] = []
        self._assemblers = {channel: ContentFrameAssembler() for channel in range(4)}

    def take(self, frame: Any) -> None:
        """As pika's channels do it."""
        content = isinstance(frame, Header | Body) or (isinstance(frame, Method) and spec.has_content(frame.method.INDEX))
        whole = self._assemblers[frame.channel_number].process(frame) if content else None
        if not content:
            self.others.append(frame.marshal())
        elif whole is not None:
            method, header, body = whole
            if frame.channel_number in OURS and method.method.consumer_tag == CONSUMER:
                self.inboxes[frame.channel_number].append(delivery(method.method, header.properties, body))
            else:
                self.others.append(body)


class Ours(Reader):
    """A connection of ours without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = BulkConnection.__new__(BulkConnection)
        self.connection._frame_buffer, self.connection.bytes_received = b"", 0
        self.connection._body_max_length = LONGEST
        self.connection.inboxes = self.inboxes
        self.connection.connection_state = BulkConnection.CONNECTION_OPEN
        self.connection.params = SimpleNamespace(frame_max=FRAME_MAX)
        self.connection._process_frame = self.take

    def feed(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self.connection._on_data_available(chunk)


def pikas(stream: bytes) -> Reader:
    reader = Reader()
    while stream:
        consumed, frame = decode_frame(stream)
        reader.take(frame)
        stream = stream[consumed:]
    return reader


def same(stream: bytes, chunks: Sequence[bytes]) -> None:
    ours, theirs = Ours(), pikas(stream)
    ours.feed(chunks)
    assert ours.inboxes == theirs.inboxes
    assert ours.others == theirs.others
    assert ours.connection._frame_buffer == b""
    assert ours.connection.bytes_received == len(stream)


def message(
    channel: int, tag: int, body: bytes, consumer: str = CONSUMER, route: tuple[str, str] = ("e", "k"), **properties: Any
) -> bytes:
    deliver = spec.Basic.Deliver(consumer, tag, bool(tag % 2), *route)
    parts = [Method(channel, deliver).marshal(), Header(channel, len(body), spec.BasicProperties(**properties)).marshal()]
    parts += [Body(channel, body[at : at + LONGEST]).marshal() for at in range(0, len(body), LONGEST)]
    return b"".join(parts)


STREAM = b"".join(
    [
        message(1, 1, b"first"),
        message(1, 2, b"", headers={"a": 1}),
        Heartbeat().marshal(),
        message(2, 1, b"x" * LONGEST, route=("", "ö" * 20)),
        message(1, 3, b"large" * 100),
        message(3, 1, b"a channel that does not consume"),
        message(1, 4, b"another consumer", consumer="other!"),
        message(1, 5, b"a longer tag", consumer="worker-2"),
        Method(1, spec.Basic.Cancel(CONSUMER, False)).marshal(),
        message(1, 6, b"\xce\xce\x01\x00\x01", content_type="text/plain", headers={"deep": {"er": [1, None, b"\xff"]}}),
        Method(0, spec.Connection.Blocked("memory")).marshal(),
        message(2, 2, b"last"),
    ]
)


def test_a_stream_cut_once_at_every_place() -> None:
    for at in range(len(STREAM) + 1):
        same(STREAM, [part for part in (STREAM[:at], STREAM[at:]) if part])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 19, 27, 64])
def test_a_stream_in_small_pieces(size: int) -> None:
    same(STREAM, [STREAM[at : at + size] for at in range(0, len(STREAM), size)])


def test_frames_of_another_channel_between_those_of_a_delivery() -> None:
    deliver, header, body = (
        Method(1, spec.Basic.Deliver(CONSUMER, 1, False, "", "q")).marshal(),
        Header(1, 3, spec.BasicProperties()).marshal(),
        Body(1, b"abc").marshal(),
    )
    between = message(2, 1, b"whole")
    for stream in (
        deliver + between + header + body,
        deliver + header + between + body,
        deliver + Heartbeat().marshal() + header + body,
    ):
        for at in range(1, len(stream)):
            same(stream, [stream[:at], stream[at:]])


texts = st.text(max_size=30)
values = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | texts | st.binary(max_size=40)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": texts,
        "headers": st.dictionaries(
            texts, st.none() | st.booleans() | st.integers(-(2**31), 2**31) | texts | st.binary(max_size=40)
        ),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**40),
        "message_id": texts,
    },
)
messages = st.builds(
    lambda channel, tag, body, consumer, route, told: message(channel, tag, body, consumer, route, **told),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.integers(1, 2**63),
    st.binary(max_size=3 * LONGEST),
    st.sampled_from([CONSUMER, CONSUMER, CONSUMER, "other", "elsewhere"]),
    st.tuples(texts, texts),
    properties,
)
streams = st.lists(
    messages | st.just(Heartbeat().marshal()) | st.builds(lambda tag: ack(1, tag, True), st.integers(1, 99)), max_size=8
)


@given(streams, st.lists(st.integers(0, 10_000), max_size=6))
def test_any_stream_cut_anywhere(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    same(stream, [stream[a:b] for a, b in pairwise(places)])


def any_bytes_deliver(channel: int, tag: int, route: tuple[bytes, bytes], properties: bytes, body: bytes) -> bytes:
    """As a broker forwards what a publisher wrote: no field of it need be UTF-8."""
    named = b"".join(bytes([len(part)]) + part for part in route)
    told = struct.pack(">I", spec.Basic.Deliver.INDEX) + b"\x06" + CONSUMER.encode() + struct.pack(">QB", tag, tag % 2) + named
    head = struct.pack(">HHQ", 60, 0, len(body)) + properties
    frames = [(1, told), (2, head), *((3, body[at : at + LONGEST]) for at in range(0, len(body), LONGEST))]
    return b"".join(struct.pack(">BHI", kind, channel, len(part)) + part + b"\xce" for kind, part in frames)


def fields(count: int, chance: random.Random, kinds: str) -> bytes:
    """A table of header fields, some of types that pika cannot read, with names and values of any bytes."""
    made = b""
    for _ in range(count):
        name = chance.randbytes(chance.choice((0, 1, 3, 255)))
        kind = chance.choice(kinds)
        size = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "f": 4, "D": 5, "V": 0}.get(kind, 8)
        value = chance.randbytes(size)
        if kind in "Sx":
            value = chance.randbytes(chance.choice((0, 5, 300)))
        elif kind == "F":
            value = fields(chance.randrange(3), chance, kinds) if count < 50 else b""
        elif kind == "A":
            value = b"I\0\0\0\1" * chance.randrange(3)
        made += bytes([len(name)]) + name + kind.encode() + (struct.pack(">I", len(value)) if kind in "SxFA" else b"") + value
    return made


def any_properties(chance: random.Random, kinds: str = "tbBsuIilLfdDSATFVx", without: Sequence[int] = ()) -> bytes:
    if not without and chance.random() < 0.1:
        return chance.randbytes(chance.randrange(60))  # no broker lets this through
    flags, made = 0, b""
    for bit in range(15, 1, -1):
        if bit not in without and chance.random() < 0.4:
            flags |= 1 << bit
            if bit == 13:
                table = fields(chance.choice((1, 5, 40)), chance, kinds)
                made += struct.pack(">I", len(table)) + table
            elif bit in (12, 11):
                made += chance.randbytes(1)
            elif bit == 6:
                made += chance.randbytes(8)
            else:
                text = chance.randbytes(chance.choice((0, 3, 255)))
                made += bytes([len(text)]) + text
    return struct.pack(">H", flags) + made


@pytest.mark.parametrize("seed", range(8))
def test_whatever_bytes_a_message_carries_it_is_one_record_and_one_letter(seed: int) -> None:
    chance = random.Random(seed)
    sent, parts = [], []
    for tag in range(1, 41):
        route = tuple(chance.randbytes(chance.choice((0, 2, 255))) for _ in range(2))
        body = chance.randbytes(chance.choice((0, 1, LONGEST, LONGEST + 1, 5 * LONGEST, 300_000 if tag == 9 else 2)))
        told = any_properties(chance)
        sent.append((route, told, body))
        parts.append(any_bytes_deliver(1, tag, (route[0], route[1]), told, body))
    stream, cut = b"".join(parts), sorted(chance.randrange(1 << 20) for _ in range(40))
    ours = Ours()
    ours.connection._body_max_length = 131_064 if seed % 2 else LONGEST
    places = sorted({0, len(stream), *(at % len(stream) for at in cut)})
    ours.feed([stream[a:b] for a, b in pairwise(places)])
    assert [one[3] for one in ours.inboxes[1]] == [told for _, told, _ in sent]
    batch = RabbitMQBatch(Partition("q", 0), ours.inboxes[1])
    assert batch.values() == [body for _, _, body in sent]
    batch.keys(), batch.timestamps(), batch.sizes()
    for record, (route, _, body) in zip(batch, sent, strict=True):
        assert record.value == body and record.key == route[1]
        pickle.loads(pickle.dumps(record))
        made = dead_letter(GivenUp(0, ValueError("no"), 1), record, "shop.take", 1.0)
        raw, _ = properties_of_letter(made, "dead", 131_064)
        [again] = RabbitMQBatch(Partition("dead", 0), [(1, 0, b"\0\4dead", b"".join(raw.encode()), body)])
        kept = Letter(again).original()
        assert (kept.value, kept.key) == (record.value, record.key)
        assert repr(kept.headers) == repr([one for one in record.headers if one[0] not in ("CC", "BCC")])
        assert again.properties.get("message_id") == record.properties.get("message_id")


def test_a_frame_longer_than_agreed_is_not_waited_for() -> None:
    """It was kept, and copied at each read: 64 MiB took 4 s."""
    ours = Ours()
    ours.feed([message(1, 1, b"before")])
    with pytest.raises(InvalidFrameError, match=r"2,147,483,648 bytes, and 131,072 were agreed"):
        ours.feed([b"\x03\x00\x01" + (1 << 31).to_bytes(4, "big"), b"x" * 1000])
    assert [one[4] for one in ours.inboxes[1]] == [b"before"]


def test_a_login_that_does_not_end_is_not_kept() -> None:
    connection = Ours().connection
    connection.connection_state = BulkConnection.CONNECTION_PROTOCOL
    with pytest.raises(InvalidFrameError, match="a login does not take"):
        for _ in range(9):
            connection._on_data_available(b"\x01\x00\x00\x7f\xff\xff\xff" + b"x" * 30_000)


def test_settlements_are_what_pika_writes() -> None:
    assert ack(3, 77, True) == Method(3, spec.Basic.Ack(77, True)).marshal()
    assert ack(3, 77, False) == Method(3, spec.Basic.Ack(77, False)).marshal()
    assert reject(3, 2**40) == Method(3, spec.Basic.Reject(2**40, requeue=False)).marshal()


def test_publishes_are_cut_into_frames() -> None:
    properties = spec.BasicProperties(delivery_mode=2, headers={"a": "b"})
    stream = publish(5, "dead", [(properties, b"x" * 150), (properties, b"")], longest=64)
    frames = []
    while stream:
        consumed, frame = decode_frame(stream)
        frames.append(frame)
        stream = stream[consumed:]
    assert [len(frame.fragment) for frame in frames if isinstance(frame, Body)] == [64, 64, 22]
    methods = [frame.method for frame in frames if isinstance(frame, Method)]
    assert [(one.exchange, one.routing_key, one.mandatory) for one in methods] == [("", "dead", True)] * 2
    assert [frame.body_size for frame in frames if isinstance(frame, Header)] == [150, 0]
