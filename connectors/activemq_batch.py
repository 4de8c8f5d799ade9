"""ActiveMQ's messages as they came over STOMP; headers are decoded when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from worker.connectors.activemq_config import WILD, matches
from worker.connectors.activemq_frames import header, headers
from worker.connectors.activemq_headers import EXACT, kept, read
from worker.interface import KEY_HEADER, Batch, Partition, Record

Message = tuple[int, bytes, bytes]
"""Its number in the order of its subscription; the head of its frame; the body."""

_body = itemgetter(2)
_GROUP, _KEY, _EXACT = b"JMSXGroupID", KEY_HEADER.encode(), EXACT.encode()

STANDARD = {
    "destination": "destination",
    "priority": "priority",
    "expires": "expires",
    "correlation-id": "correlation_id",
    "type": "type",
    "reply-to": "reply_to",
    "content-type": "content_type",
}
"""Headers of a frame that belong to the message and not to its user, and what they are called in `record.properties`."""
_NOT_OWN = frozenset(
    {
        *(*STANDARD, "ack", "subscription", "message-id", "timestamp", "persistent", "redelivered", "content-length"),
        *("JMSXGroupID", KEY_HEADER, "transformation", "transformation-error"),
    }
)
_NUMBERS = ("priority", "expires")


class ActiveMQBatch(Batch):
    """Messages of one queue or durable subscription; `native` is a list of `Message`."""

    __slots__ = ()

    native: Sequence[Message]

    def values(self) -> list[bytes | None]:
        return list(map(_body, self.native))

    def keys(self) -> list[bytes | None]:
        return [_key(head) for _, head, _ in self.native]

    def timestamps(self) -> list[int | None]:
        return [_number(header(head, b"timestamp")) for _, head, _ in self.native]

    def sizes(self) -> list[int]:
        return [len(body) for _, _, body in self.native]

    def record(self, index: int) -> Record[bytes]:
        number, head, body = self.native[index]
        told = headers(head)
        properties: dict[str, Any] = {name: told[said] for said, name in STANDARD.items() if said in told}
        properties |= {name: _number(str(properties[name]).encode()) for name in _NUMBERS if name in properties}
        properties |= {flag: told.get(flag) == "true" for flag in ("persistent", "redelivered")}
        properties["text"] = "content-length" not in told
        return Record(
            body,
            _key(head),
            read(head, _NOT_OWN),
            _number(header(head, b"timestamp")),
            told.get("message-id", number),
            self._partition(told),
            properties,
        )

    def _partition(self, told: Mapping[str, str]) -> Partition:
        """Of a subscription with a wildcard, the queue that the message was in."""
        stream = told.get("destination", "").removeprefix("/queue/").removeprefix("/")
        if stream != self.partition.stream and WILD.search(self.partition.stream) and matches(self.partition.stream, stream):
            return Partition(stream, self.partition.id)
        return self.partition


def _key(head: bytes) -> bytes | None:
    """Classic keeps JMSXGroupID for itself over STOMP, so a letter of ours has it twice."""
    if _EXACT in head:
        for name, value in kept(headers(head)):
            if name == KEY_HEADER:
                return value
    found = header(head, _GROUP)
    return header(head, _KEY) if found is None else found


def _number(digits: bytes | None) -> int | None:
    """None also where it is larger than a broker's: a producer's property of that name may stand for it."""
    number = int(digits) if digits is not None and digits.isdigit() and len(digits) < 20 else None
    return number if number is None or number < 1 << 63 else None
