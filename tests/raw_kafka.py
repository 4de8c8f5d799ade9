"""Writes Kafka records byte by byte, as no client of ours would: names of headers that are no text, times below 0.

Produce version 7 and record batches of version 2, for one partition of one broker: `kafka://embedded` or a real one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import Producer


class Raw(NamedTuple):
    value: bytes | None = None
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    timestamp: int = 1_700_000_000_000


def write(bootstrap: str, topic: str, records: Sequence[Raw], partition: int = 0) -> int:
    """Returns the offset of the first of them."""
    metadata = Producer({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=10)
    leader = metadata.brokers[metadata.topics[topic].partitions[partition].leader]
    batch = _batch(records)
    where = struct.pack(">i", 1) + _string(topic) + struct.pack(">iii", 1, partition, len(batch))
    body = struct.pack(">hhihhhi", 0, 7, 1, -1, -1, -1, 10_000) + where + batch
    with socket.create_connection((leader.host, leader.port), 10) as broker:
        broker.sendall(struct.pack(">i", len(body)) + body)
        size = struct.unpack(">i", broker.recv(4, socket.MSG_WAITALL))[0]
        answer = broker.recv(size, socket.MSG_WAITALL)
    error, offset = struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, f"the broker answered with error {error}"
    return int(offset)


def _batch(records: Sequence[Raw]) -> bytes:
    first = records[0].timestamp
    body = b"".join(_record(number, record, first) for number, record in enumerate(records))
    last = len(records) - 1
    times = struct.pack(">qq", first, max(record.timestamp for record in records))
    checked = struct.pack(">hi", 0, last) + times + struct.pack(">qhii", -1, -1, -1, len(records)) + body
    behind = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(behind)) + behind


def _record(number: int, record: Raw, first: int) -> bytes:
    headers = b"".join(_varint(len(name)) + name + _bytes(value) for name, value in record.headers)
    times = b"\0" + _varint(record.timestamp - first) + _varint(number)
    body = times + _bytes(record.key) + _bytes(record.value) + _varint(len(record.headers)) + headers
    return _varint(len(body)) + body


def _bytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _varint(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    told = bytearray()
    while rest > 0x7F:
        told.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*told, rest])


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC32C = [_entry(number) for number in range(256)]


def _crc32c(data: bytes) -> int:
    found = 0xFFFFFFFF
    for byte in data:
        found = found >> 8 ^ _CRC32C[(found ^ byte) & 0xFF]
    return found ^ 0xFFFFFFFF
