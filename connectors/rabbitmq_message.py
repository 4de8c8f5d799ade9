"""A record as a message that is sent: its properties, and its headers as they came, as far as they fit."""

from __future__ import annotations

from pika import spec

from worker.connectors import left_out
from worker.connectors.rabbitmq_batch import flat
from worker.connectors.rabbitmq_frames import Properties
from worker.connectors.rabbitmq_headers import Headers, field, with_headers
from worker.interface import KEY_HEADER, LEFT_OUT_HEADER, NULL_HEADER, DeadLetter

_ROUTING = ("CC", "BCC")
"""By headers of these names the broker routes copies to other queues: a letter has them with `x-` before them."""
_KEPT = ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id", "type", "app_id")
"""Properties of a record that its letter has, too. Not its expiration, which would throw it away, nor the user who wrote it,
as the broker takes only our own."""
_AROUND = 16
"""Bytes of a header frame beside the properties: class, weight, sizes of body and headers."""
_NAMES = 2_100
"""Bytes for the header that says what was left out."""

_Field = tuple[bytes, bytes]
"""A header's name; its type and value."""


def properties(letter: DeadLetter, queue: str, longest: int) -> tuple[Properties, str]:
    """For a message to `queue`, and what was left out; all of it must fit into a frame of `longest` bytes."""
    record = letter.record
    own = record.properties if "routing_key" in record.properties else {}
    seconds = None if record.timestamp is None or record.timestamp < 0 else record.timestamp // 1000
    told = spec.BasicProperties(delivery_mode=2, timestamp=seconds, **{name: own[name] for name in _KEPT if name in own})
    fields = _fields(letter, queue)
    without = _too_much(fields, longest - _AROUND - sum(map(len, told.encode())))
    names = left_out.listed(without)
    for name in without:
        del fields[name]
    if names:
        fields[LEFT_OUT_HEADER] = LEFT_OUT_HEADER.encode(), field(names.encode())
    return Properties(with_headers(told, fields.values())), names


def _fields(letter: DeadLetter, queue: str) -> dict[str, _Field]:
    """The letter's headers; those of a message of RabbitMQ as they came, unless somebody changed them."""
    record = letter.record
    typed = record.properties.get("headers")
    fields: dict[str, _Field] = {}
    for name, value in letter.headers:
        raw, coded = name.encode(errors="backslashreplace"), field(value)
        if isinstance(typed, Headers) and name in typed and flat(typed[name]) == value:
            raw, coded = typed.fields[name]
        fields[name] = (b"x-" + raw if name in _ROUTING else raw), coded
    if record.key is not None and record.key != queue.encode():
        fields[KEY_HEADER] = KEY_HEADER.encode(), field(record.key)
    if record.value is None:
        fields[NULL_HEADER] = NULL_HEADER.encode(), field(b"value")
    return fields


def _too_much(fields: dict[str, _Field], room: int) -> list[str]:
    """Names of those that cannot be written, or have no room; ours are short, so it hits the record's own."""
    sizes = [0 if len(raw) > 255 else _size((raw, value)) for raw, value in fields.values()]
    if sum(sizes) <= room and all(sizes):
        return []
    found = left_out.largest(sizes, room - _NAMES)
    return [name for at, name in enumerate(fields) if at in found or not sizes[at]]


def _size(one: _Field) -> int:
    """In a table, with the length of the name."""
    return 1 + len(one[0]) + len(one[1])
