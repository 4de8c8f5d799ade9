"""The bulk reader sees in a stream of bytes what pika's decoder sees, however the stream is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from pika.channel import ContentFrameAssembler
from pika.frame import Body, Header, Heartbeat, Method, decode_frame

from connectors.rabbitmq_frames import CONSUMER, Delivery, ack, delivery, publish, reject
from connectors.rabbitmq_link import BulkConnection

LONGEST = 64
"""Bytes of body in a frame of these tests."""
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
