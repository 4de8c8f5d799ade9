"""Dead letters read back: what their headers say, which ones are meant, and the record that each of them was."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from worker.deadletter import PASS, REDRIVES, RESERVED
from worker.interface import NULL_HEADER, Batch, DeadLetter, Partition, Record, SourceOptions, shown
from worker.plugins import connector
from worker.settings import HandlerSettings

BATCH = 500
"""Letters that are published, confirmed and only then committed together: what a kill can repeat."""


@dataclass(frozen=True)
class Letter:
    """One record of a stream of dead letters; what its headers do not say, or say wrongly, is "" or None."""

    record: Record[bytes]

    @cached_property
    def headers(self) -> dict[str, str]:
        return {name: (value or b"").decode(errors="replace") for name, value in shown(self.record.headers)}

    def _number(self, name: str) -> int | None:
        text = self.headers.get(name, "")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
        return number if number is None or number < 1 << 63 else None

    @property
    def handler(self) -> str:
        return self.headers.get("dead_letter_handler", "")

    @property
    def error(self) -> str:
        return self.headers.get("dead_letter_error", "")

    @property
    def message(self) -> str:
        return self.headers.get("dead_letter_message", "")

    @property
    def attempts(self) -> int:
        return self._number("dead_letter_attempts") or 0

    @property
    def time(self) -> int | None:
        """When it was given up, in milliseconds since the epoch."""
        return self._number("dead_letter_time")

    @property
    def redrives(self) -> int:
        return self._number(REDRIVES) or 0

    @property
    def partition(self) -> Partition:
        """Where the record was."""
        number = self._number("dead_letter_partition")
        told = self.headers.get("dead_letter_partition", "")
        return Partition(self.headers.get("dead_letter_stream", ""), told if number is None else number)

    @property
    def id(self) -> str:
        return self.headers.get("dead_letter_id", "")

    def original(self) -> Record[bytes]:
        """The record as it was read by the handler that gave it up."""
        value, key, headers, _, number, where, properties = self.record
        own = [header for header in shown(headers) if header[0] not in RESERVED]
        if "routing_key" in properties and key == where.stream.encode():  # that of the letter itself: the record had no key
            key = None
        null = self.headers.get(NULL_HEADER) == "value"
        stamp = self._number("dead_letter_timestamp")
        return Record(None if null else value, key, own, stamp, self.id or number, self.partition, properties)

    def redriven(self) -> DeadLetter:
        """To be published to where it came from."""
        record = self.original()
        return DeadLetter(record, ValueError(self.error), 0, [*record.headers, (REDRIVES, b"%d" % (self.redrives + 1))])

    def put_back(self, run: str) -> DeadLetter:
        """To be published behind the other letters, as it is."""
        kept = [header for header in shown(self.record.headers) if header[0] != PASS]
        return DeadLetter(self.record, ValueError(self.error), 0, [*kept, (PASS, run.encode())])


@dataclass(frozen=True)
class Selection:
    """Which letters of one handler are meant; None: any."""

    handler: str
    error: str | None = None
    partition: str | None = None
    since: float | None = None
    """Given up at that time or later, in seconds since the epoch."""
    id: str | None = None

    def ours(self, letter: Letter) -> bool:
        """Given up by this handler: a stream may hold the letters of many."""
        return letter.handler == self.handler

    def takes(self, letter: Letter) -> bool:
        if not self.ours(letter):
            return False
        if self.error is not None and letter.error != self.error:
            return False
        if self.partition is not None and str(letter.partition.id) != self.partition:
            return False
        if self.since is not None and (letter.time is None or letter.time < self.since * 1000):
            return False
        return self.id is None or letter.id == self.id

    def __str__(self) -> str:
        told = [f"{name} {getattr(self, name)}" for name in ("error", "partition", "id") if getattr(self, name) is not None]
        if self.since is not None:
            told.append(f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}")
        return f"the letters of {self.handler}" + (f" with {', '.join(told)}" if told else "")


@dataclass
class Group:
    """Letters that have error, stream and partition in common."""

    error: str
    stream: str
    partition: str
    letters: int = 0
    first: int | None = None
    last: int | None = None
    redriven: int = 0
    """Those that came back after a redrive."""

    def add(self, letter: Letter) -> None:
        self.letters += 1
        self.redriven += letter.redrives > 0
        if letter.time is not None:
            self.first = letter.time if self.first is None else min(self.first, letter.time)
            self.last = letter.time if self.last is None else max(self.last, letter.time)


@dataclass
class Overview:
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    """Letters of other handlers; "": records that are no letters of ours."""

    @classmethod
    def of(cls, letters: Iterable[Letter], selection: Selection) -> Overview:
        made = cls()
        for letter in letters:
            if selection.takes(letter):
                key = letter.error, letter.partition.stream, str(letter.partition.id)
                made.groups.setdefault(key, Group(*key)).add(letter)
            elif not selection.ours(letter):
                made.others[letter.handler] += 1
        return made

    @property
    def letters(self) -> int:
        return sum(group.letters for group in self.groups.values())

    def sorted(self) -> Sequence[Group]:
        return sorted(self.groups.values(), key=lambda group: (-group.letters, group.error, group.stream, group.partition))


def options(settings: HandlerSettings) -> SourceOptions:
    """How the letters of a handler are read: by a group of its own, so that each handler's letters have their own position."""
    assert isinstance(settings.dead_letter, tuple)
    connection, stream = settings.dead_letter
    group = f"{settings.label}.dead-letters"
    return SourceOptions(
        connection, (stream,), group, batch_size=BATCH, in_flight=2 * BATCH, window=0.0, commit_interval=0.01, letters=True
    )


def browse(settings: HandlerSettings) -> Iterator[Letter]:
    """All that is in the handler's stream of dead letters, without taking any."""
    told = options(settings)
    batches: Iterator[Batch] = connector(told.connection.scheme).browse(told)
    for batch in batches:
        yield from map(Letter, batch)
