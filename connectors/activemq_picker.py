"""Takes some messages out of a queue of ActiveMQ by their ids, and fetches no other: what belongs to others stays as it is."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from connectors.activemq_acks import Individual
from connectors.activemq_batch import ActiveMQBatch, Message
from connectors.activemq_browse import browse
from connectors.activemq_config import Login, destination
from connectors.activemq_frames import Frame
from connectors.activemq_link import Link
from worker.interface import Batch, Partition, Record, SourceOptions

_SELECTOR = 8_000
"""Bytes of the ids that are asked for at once, as they are written: a header may have 10 KiB."""
_MOST = 200
"""So many the broker hands out unsettled."""
_SILENCE = 2.0
"""Seconds after which what was asked for does not come any more: somebody else has it, or the broker cannot find it."""


class Picker:
    """Looks through the queue with a browser first, which takes nothing, and then asks for those that are meant."""

    def __init__(
        self, options: SourceOptions, meant: Callable[[Record[bytes]], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._login = replace(Login.of(options.connection), subscribe={})  # its selector would hide some of them
        self._partition = Partition(options.streams[0], 0)
        self._meant = meant
        self._clock = clock
        self._link: Link | None = None
        self._ids: deque[str] = deque()
        self._asked: set[str] = set()
        self._missing: list[str] = []
        self._inbox: list[Frame] = []
        self._name: str | None = None
        self._heard = 0.0
        self._numbers = itertools.count()

    @property
    def done(self) -> bool:
        return not self._ids and not self._asked

    def open(self) -> None:
        self._ids.extend(str(record.id) for batch in browse(self._options) for record in batch if self._meant(record))
        self._link = Link(self._login, clock=self._clock)

    @property
    def _open_link(self) -> Link:
        assert self._link is not None
        return self._link

    def poll(self, most: int, timeout: float) -> list[Batch]:
        link = self._open_link
        link.pump()
        if not most or self.done:
            return []
        if not self._asked:
            self._ask(most)
        if not self._inbox:
            link.pump(timeout)
        frames, self._inbox[:] = self._inbox[:most], self._inbox[most:]
        if not frames and self._clock() - self._heard > _SILENCE:
            self._missing += self._asked
            self._asked.clear()
        if not frames:
            return []
        self._heard = self._clock()
        batch = ActiveMQBatch(self._partition, list(self._numbered(frames)))
        known = [record.id in self._asked for record in batch]
        self._asked.difference_update(str(record.id) for record in batch)
        return [batch.pick([index for index, one in enumerate(known) if one])]

    def _numbered(self, frames: Iterable[Frame]) -> Iterator[Message]:
        for head, body in frames:
            yield next(self._numbers), head, body

    def _ask(self, most: int) -> None:
        """For the next ones. What came before and was not settled goes back."""
        link = self._open_link
        self._forget()
        room = _SELECTOR
        while self._ids and len(self._asked) < min(most, _MOST) and (room := room - _written(self._ids[0])) > 0:
            self._asked.add(self._ids.popleft())
        self._name, self._heard = link.name(), self._clock()
        self._inbox = link.inboxes[self._name.encode()] = []
        quoted = ",".join("'" + one.replace("'", "''") + "'" for one in sorted(self._asked))
        told = {"id": self._name, "destination": destination(self._partition.stream), "ack": Individual.mode}
        told |= {"activemq.prefetchSize": str(_MOST), "selector": f"JMSMessageID IN ({quoted})"}
        link.ask("SUBSCRIBE", told)

    def _forget(self) -> None:
        if self._name is not None:
            self._open_link.inboxes.pop(self._name.encode(), None)
            self._open_link.ask("UNSUBSCRIBE", {"id": self._name})
            self._name = None

    def commit(self, batch: Batch) -> None:
        assert isinstance(batch, ActiveMQBatch)
        if len(batch):
            self._open_link.write(Individual().settle(batch.native))

    def waiting(self) -> int | None:
        """Of those that were asked for and did not come: some may have been somebody else's meanwhile."""
        if not self._missing and self.done:
            return 0
        self._forget()
        wanted = {*self._missing, *self._asked, *self._ids}
        return sum(record.id in wanted for batch in browse(self._options) for record in batch)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


def _written(one: str) -> int:
    """Bytes of an id in a selector: a colon is two, and quotes and a comma are around it."""
    return len(one.encode()) + one.count(":") + one.count("\\") + one.count("'") + 3
