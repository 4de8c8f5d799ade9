"""What the handlers did, in a file that outlives a SIGKILL: one write a call, appended to by all workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from worker.interface import Batch, Partition, Record

BEGUN, HANDLED, NAMED = "begun", "handled", "named"
"""A call began, for so many records; a record was handled; a record was named as failed while the rest of its batch went on."""


class Call(NamedTuple):
    """One call of the handler."""

    pid: int
    number: int


class Event(NamedTuple):
    what: str
    time: float
    call: Call
    place: Partition
    name: str
    """Of the record: number.copy. Where a call began, of its first record."""
    size: int = 1


def name_of(record: Record[bytes]) -> str:
    return (record.value or b"").decode().split()[0]


class Pen:
    """Writes what one process does."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, call: int, batch: Batch, records: Iterable[Record[bytes]], size: int = 1) -> None:
        now, where = time.time(), f"{call} {batch.partition.stream} {batch.partition.id}"
        lines = [f"{what} {now:.6f} {os.getpid()} {where} {name_of(record)} {size}\n" for record in records]
        os.write(self._file, "".join(lines).encode())


class Journal:
    """Reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.handled: set[str] = set()
        self.calls: dict[int, int] = {}
        """How many each process has begun."""
        self._read = 0

    def read(self) -> list[Event]:
        """All events so far."""
        for event in self._new():
            self.events.append(event)
            if event.what == HANDLED:
                self.handled.add(event.name)
            elif event.what == BEGUN:
                self.calls[event.call.pid] = self.calls.get(event.call.pid, 0) + 1
        return self.events

    def _new(self) -> Iterator[Event]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            what, at, pid, call, stream, partition, name, size = line.split()
            yield Event(what, float(at), Call(int(pid), int(call)), Partition(stream, int(partition)), name, int(size))
