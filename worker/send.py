"""Lines to a stream: each is one record, published and confirmed as a dead letter is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from worker.errors import PublishError, Refused, Unavailable, count
from worker.interface import Connection, DeadLetter, Partition, Record, Sink, SinkOptions
from worker.plugins import connector

log = logging.getLogger("worker")

PATIENCE = 30.0
"""Seconds."""
PAUSE = 0.5
AT_ONCE = 1 << 18
"""Bytes that are read at once; of what others write meanwhile it is what is there, so that it need not wait."""


@dataclass
class Sent:
    confirmed: int = 0
    empty: int = 0
    """Lines that were left out."""


def send(connection: Connection, stream: str, file: BinaryIO, key: bytes | None, sent: Sent) -> None:
    """Counts in `sent`, also of what goes wrong; raises ConnectorError."""
    # A place to go back to, which there is none: the key decides, and a queue may be one that is not for letters.
    sink = connector(connection.scheme).sink(SinkOptions(connection, stream, partitions=True))
    where = Partition(stream, "")
    try:
        _open(sink)
        for lines in portions(file):
            values = [line for line in lines if line]
            sent.empty += len(lines) - len(values)
            letters = [DeadLetter(Record(value, key, (), None, "", where), Exception(), 0, ()) for value in values]
            try:
                if letters:
                    sink.publish(letters)
            except PublishError as error:
                sent.confirmed += len(letters) - len(error.refused) if error.refused is not None else 0
                unsure = len(letters) if error.refused is None else len(error.refused)
                raise Refused(f"{count(unsure, 'record')} not confirmed, nothing behind them is sent: {error}") from error
            sent.confirmed += len(letters)
    finally:
        sink.close()


def _open(sink: Sink) -> None:
    """A broker that was started a moment ago is waited for."""
    deadline = time.monotonic() + PATIENCE
    told = False
    while True:
        try:
            return sink.open()
        except Unavailable as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.warning("%s; trying again for %.0f s", error, PATIENCE)
            told = True
            time.sleep(PAUSE)


def portions(file: BinaryIO) -> Iterator[list[bytes]]:
    """Whole lines without their ends, as many as are there."""
    read = getattr(file, "read1", file.read)
    parts: list[bytes] = []
    while chunk := read(AT_ONCE):
        whole, end, rest = chunk.rpartition(b"\n")
        if end:
            yield _lines([*parts, whole])
            parts = []
        parts.append(rest)
    if any(parts):
        yield _lines(parts)


def _lines(parts: Sequence[bytes]) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in b"".join(parts).split(b"\n")]
