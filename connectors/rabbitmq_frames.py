"""AMQP 0-9-1 in bulk: runs of deliveries are read, and settlements and publishes written, without an object per frame."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pika import spec
from pika.frame import Body, Header, Method, decode_frame

CONSUMER = "worker"
"""The tag of every consumer: each has a channel of its own."""

Delivery = tuple[int, int, bytes, bytes, bytes]
"""As it came over the wire: delivery tag; redelivered; exchange and routing key; flags and properties; body."""

_END = spec.FRAME_END
_DELIVER = struct.Struct(">BHI11sQB")
_DELIVER_TO_US = struct.pack(">I6p", spec.Basic.Deliver.INDEX, b"")[:4] + bytes([len(CONSUMER)]) + CONSUMER.encode()
_HEADER = struct.Struct(">BHIIQ")
_BODY = struct.Struct(">BHI")
_SETTLE = struct.Struct(">BHIIQBB")


def take_deliveries(buffer: bytes, at: int, inboxes: Mapping[int, list[Delivery]], longest: int) -> tuple[int, bool]:
    """Puts the deliveries that lie one behind the other from `at` on into the inbox of their channel.

    Stops at the first thing that is no delivery of ours, one with a body of more than `longest` bytes (it comes in several
    frames), or the end. Returns where, and whether what lies there may yet become a delivery when more has been read.
    """
    end, current, append = len(buffer), -1, None
    while end - at >= 27:
        kind, channel, size, method, tag, redelivered = _DELIVER.unpack_from(buffer, at)
        if kind != 1 or method != _DELIVER_TO_US:
            return at, False
        if channel != current or append is None:
            if channel not in inboxes:
                return at, False
            current, append = channel, inboxes[channel].append
        header = at + 8 + size
        if end - header < 19:
            return at, header >= end or buffer[header] == 2
        kind, same, size, _, length = _HEADER.unpack_from(buffer, header)
        if kind != 2 or same != channel or length > longest:
            return at, False
        body = header + 8 + size
        stop = body + 8 + length if length else body
        if end < stop:
            return at, body >= end or buffer[body] == 3
        if length and _BODY.unpack_from(buffer, body) != (3, channel, length):
            return at, False
        if buffer[header - 1] != _END or buffer[body - 1] != _END or buffer[stop - 1] != _END:
            return at, False
        append((tag, redelivered, buffer[at + 27 : header - 1], buffer[header + 19 : body - 1], buffer[body + 7 : stop - 1]))
        at = stop
    return at, False


def frame_size(buffer: bytes, at: int = 0) -> int:
    """How long the frame at `at` says that it is, without its own header; 0: too little is there to know."""
    return int.from_bytes(buffer[at + 3 : at + 7], "big") if len(buffer) - at >= 7 else 0


def frame_end(buffer: bytes, at: int) -> int:
    """Where the frame at `at` ends; beyond the buffer if it is not all there."""
    return at + 8 + frame_size(buffer, at) if len(buffer) - at >= 7 else len(buffer) + 1


class Properties:
    """As bytes, of what is sent, and of what came in several frames: what pika cannot decode would end the connection, each time
    it comes."""

    INDEX = spec.BasicProperties.INDEX

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def encode(self) -> list[bytes]:
        return [self._raw]


def decode(frame: bytes) -> Any:
    """One frame as an object of pika's; None: it is none."""
    kind, channel, _ = _BODY.unpack_from(frame)
    if kind == 2:
        return Header(channel, _HEADER.unpack_from(frame)[4], Properties(frame[19:-1]))
    return decode_frame(frame)[1]


def delivery(method: spec.Basic.Deliver, properties: spec.BasicProperties | Properties, body: bytes) -> Delivery:
    """What `take_deliveries` would have made of it."""
    exchange, key = _bytes(method.exchange), _bytes(method.routing_key)
    route = bytes([len(exchange)]) + exchange + bytes([len(key)]) + key
    return method.delivery_tag, int(method.redelivered or 0), route, b"".join(properties.encode()), body


def _bytes(text: str | bytes | None) -> bytes:
    """Pika leaves bytes where they are no UTF-8."""
    return text if isinstance(text, bytes) else (text or "").encode()


def ack(channel: int, tag: int, multiple: bool) -> bytes:
    return _SETTLE.pack(1, channel, 13, spec.Basic.Ack.INDEX, tag, multiple, _END)


def reject(channel: int, tag: int) -> bytes:
    """Not put back into its queue: that would change the order."""
    return _SETTLE.pack(1, channel, 13, spec.Basic.Reject.INDEX, tag, 0, _END)


def publish(channel: int, queue: str, messages: Iterable[tuple[spec.BasicProperties | Properties, bytes]], longest: int) -> bytes:
    """Mandatory publishes of the default exchange to `queue`, in frames of at most `longest` bytes, which properties must fit."""
    method = Method(channel, spec.Basic.Publish(exchange="", routing_key=queue, mandatory=True)).marshal()
    parts = []
    for properties, body in messages:
        parts += [method, Header(channel, len(body), properties).marshal()]
        parts += [Body(channel, body[start : start + longest]).marshal() for start in range(0, len(body), longest)]
    return b"".join(parts)
