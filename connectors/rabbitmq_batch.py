"""RabbitMQ's messages as they came over the wire; properties and headers are decoded when somebody looks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from pika import spec

from worker.connectors import rabbitmq_headers
from worker.connectors.rabbitmq_frames import Delivery
from worker.interface import KEY_HEADER, Batch, Record

_tag, _redelivered, _route, _properties, _body = (itemgetter(i) for i in range(5))
_KEY = KEY_HEADER.encode()

BROKERS_OWN = frozenset(
    {
        "x-death",
        "x-delivery-count",
        "x-acquired-count",
        *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
    }
)
"""Headers that the broker writes: among the properties of a record, not among its headers, and never published again."""


class RabbitMQBatch(Batch):
    """Messages of one queue; `native` is a list of `Delivery`."""

    __slots__ = ()

    native: Sequence[Delivery]

    def values(self) -> list[bytes | None]:
        return list(map(_body, self.native))

    def keys(self) -> list[bytes | None]:
        return [_key(one) for one in self.native]

    def timestamps(self) -> list[int | None]:
        return [_timestamp(properties_of(one)) for one in self.native]

    def sizes(self) -> list[int]:
        return [len(one[4]) for one in self.native]

    def tags(self) -> list[int]:
        return list(map(_tag, self.native))

    def redelivered(self) -> list[Delivery]:
        """Those that were delivered before."""
        return list(filter(_redelivered, self.native))

    def record(self, index: int) -> Record[bytes]:
        one = self.native[index]
        tag, redelivered, route, _, body = one
        exchange, routing_key = _split(route)
        properties = properties_of(one)
        typed: Mapping[str, Any] = properties.headers or {}
        told = {name: value for name, value in vars(properties).items() if value is not None and name != "headers"}
        told |= {"exchange": exchange.decode(errors="replace"), "routing_key": routing_key.decode(errors="replace")}
        told |= {"redelivered": bool(redelivered), "headers": typed}
        told |= {name: value for name, value in typed.items() if name in BROKERS_OWN}
        headers = [(name, flat(value)) for name, value in typed.items() if name not in BROKERS_OWN and name != KEY_HEADER]
        return Record(body, _key(one), tuple(headers), _timestamp(properties), _id(properties) or tag, self.partition, told)


def properties_of(one: Delivery) -> spec.BasicProperties:
    """Empty ones if the client cannot decode them: what a publisher wrote must not stop a worker."""
    try:
        return rabbitmq_headers.properties(one[3])
    except Exception as error:
        return spec.BasicProperties(headers={"undecodable": f"{type(error).__name__}: {error}"})


def flat(value: Any) -> bytes | None:
    """A header's value as bytes: text as UTF-8, numbers as digits, tables and lists as JSON."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, dict | list):
        return json.dumps(value, default=_text, ensure_ascii=False).encode()
    return str(value).encode()


def _text(value: Any) -> str:
    """Of what JSON does not have."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _id(properties: spec.BasicProperties) -> str | None:
    """Pika leaves bytes where they are no UTF-8."""
    told: str | bytes | None = properties.message_id
    return told.decode(errors="backslashreplace") if isinstance(told, bytes) else told


def _timestamp(properties: spec.BasicProperties) -> int | None:
    """None where no other broker could have it: publishers write any 64 bits."""
    milliseconds = None if properties.timestamp is None else int(properties.timestamp) * 1000
    return milliseconds if milliseconds is not None and milliseconds < 1 << 63 else None


def _split(route: bytes) -> tuple[bytes, bytes]:
    length = route[0]
    return route[1 : 1 + length], route[2 + length :]


def _key(one: Delivery) -> bytes | None:
    if _KEY in one[3]:
        kept = (properties_of(one).headers or {}).get(KEY_HEADER)
        if kept is not None:
            return flat(kept)
    return _split(one[2])[1]
