"""Takes some messages out of a queue of ActiveMQ by their ids, and fetches no other: what belongs to others stays as it is."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from worker.connectors.activemq_acks import Individual
from worker.connectors.activemq_batch import ActiveMQBatch, Message
from worker.connectors.activemq_browse import browse
from worker.connectors.activemq_config import Login, destination
from worker.connectors.activemq_frames import Frame
from worker.connectors.activemq_link import Link
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
        self._all = False
        """Nothing else was in the queue, so it needs no selector."""
        self._inbox: list[Frame] = []
        self._name: str | None = None
        self._heard = 0.0
        self._numbers = itertools.count()

    @property
    def done(self) -> bool:
        return not self._ids and not self._asked

    def open(self) -> None:
        others = 0
        for record in itertools.chain.from_iterable(browse(self._options)):
            if self._meant(record):
                self._ids.append(str(record.id))
            else:
                others += 1
        self._all = not others
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
        self._gather(link, min(most, _MOST, len(self._asked)), timeout)
        frames, self._inbox[:] = self._inbox[:most], self._inbox[most:]
        if not frames and self._clock() - self._heard > _SILENCE:
            (self._ids if self._all else self._missing).extend(self._asked)  # others may have come in front
            self._asked.clear()
            self._all = False
        if not frames:
            return []
        self._heard = self._clock()
        batch = ActiveMQBatch(self._partition, list(self._numbered(frames)))
        known = [record.id in self._asked for record in batch]
        self._asked.difference_update(str(record.id) for record in batch)
        return [batch.pick([index for index, one in enumerate(known) if one])]

    def _gather(self, link: Link, wanted: int, timeout: float) -> None:
        """Until so many are here, or no more come: what is handed out together is confirmed together."""
        count = -1
        while len(self._inbox) < wanted and len(self._inbox) != count:
            count = len(self._inbox)
            link.pump(0.02 if count else timeout)

    def _numbered(self, frames: Iterable[Frame]) -> Iterator[Message]:
        for head, body in frames:
            yield next(self._numbers), head, body

    def _ask(self, most: int) -> None:
        """For the next ones. What came before and was not settled goes back."""
        link = self._open_link
        self._forget()
        self._name, self._heard = link.name(), self._clock()
        self._inbox = link.inboxes[self._name.encode()] = []
        told = {"id": self._name, "destination": destination(self._partition.stream), "ack": Individual.mode}
        told["activemq.prefetchSize"] = str(min(_MOST, self._options.in_flight))
        if self._all:  # it costs the broker less
            self._asked.update(self._ids)
            self._ids.clear()
        else:
            told["selector"] = f"JMSMessageID IN ({self._chosen(most)})"
        link.ask("SUBSCRIBE", told)

    def _chosen(self, most: int) -> str:
        room, chosen = _SELECTOR, list[str]()
        while self._ids and len(chosen) < min(most, _MOST) and (room := room - _written(self._ids[0])) > 0:
            chosen.append(self._ids.popleft())
        self._asked.update(chosen)
        return ",".join("'" + one.replace("'", "''") + "'" for one in chosen)

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
