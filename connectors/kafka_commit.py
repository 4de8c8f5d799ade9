"""How far each of our partitions is finished, and when the broker hears of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.connectors.kafka_errors import RETRIED, Explain
from worker.interface import Batch, Partition

log = logging.getLogger("worker.kafka")

# Foreign metadata is left unread: other tools keep theirs in the same place.
FLOODED = "stream-worker/1 flooded"

SLACK = 1.0
"""Seconds beyond `commit_interval` that what is finished may be unconfirmed while more is begun."""


class _Position:
    __slots__ = ("committed", "confirmed", "epoch", "finished", "next", "sent")

    def __init__(self, offset: int, committed: int | None) -> None:
        self.next = offset
        """The first record that is not finished; negative while only the client knows where it started."""
        self.committed = committed
        """What the broker has; None: something that has to be written again."""
        self.epoch = -1
        self.finished = self.confirmed = 0
        """Records since it is ours, and how many of them the broker has confirmed. Offsets have gaps, so they are counted."""
        self.sent = (-1, 0)
        """`next` and `finished` as they were in the last request."""


class Positions:
    """The partitions that are ours. An offset here is always the *next* one to read."""

    def __init__(self, interval: float, explain: Explain, clock: Callable[[], float]) -> None:
        self.flooded = False
        self._interval = interval
        self._explain = explain
        self._clock = clock
        self._owned: dict[Partition, _Position] = {}
        self._due = 0.0
        self._since: float | None = None
        """When the first of what is not confirmed was finished."""
        self._later: float | None = None
        """The same, of what was finished after the last request."""
        self._outstanding = False
        self._refused = False
        self._complained = -60.0
        self._failures = 0

    def __contains__(self, partition: object) -> bool:
        return partition in self._owned

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._owned)

    def __len__(self) -> int:
        return len(self._owned)

    def own(self, partition: Partition, offset: int, *, committed: bool) -> None:
        """Not `committed`: to be made durable at once, though nothing was read yet."""
        self._owned[partition] = _Position(offset, offset if committed else None)
        if not committed:
            self._due = 0.0

    def forget(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)
        if not self.unconfirmed:  # else what is finished next would seem to have waited since then
            self._since = self._later = None

    def next(self, partition: Partition) -> int:
        return self._owned[partition].next

    def move(self, partition: Partition, offset: int) -> None:
        """The broker's log moved under us: start again at `offset`."""
        self.own(partition, offset, committed=False)

    def skip(self, partition: Partition, offset: int) -> None:
        """Up to `offset` there is no record that is not finished: only marks of transactions, or what they took back."""
        position = self._owned[partition]
        position.next, position.epoch = offset, -1

    def finish(self, batches: Sequence[Batch]) -> None:
        if self._later is None:
            self._later = self._clock()
            self._since = self._later if self._since is None else self._since
        for batch in batches:
            position = self._owned.get(batch.partition)
            if position is not None:
                last = batch.native[-1]
                position.next = last.offset() + 1
                position.finished += len(batch)
                position.epoch = -1 if (epoch := last.leader_epoch()) is None else epoch

    @property
    def unconfirmed(self) -> int:
        """Records that are finished and would come again: none where the broker has the position, whichever answer said so."""
        return sum(
            position.finished - position.confirmed for position in self._owned.values() if position.next != position.committed
        )

    @property
    def waited(self) -> float:
        """Seconds since the first of what is not confirmed was finished."""
        return 0.0 if self._since is None else self._clock() - self._since

    @property
    def stalled(self) -> bool:
        """A kill would repeat more than `commit_interval` promises. A rebalance is what keeps commits waiting so long: the broker
        answers them after the request to join, and that when every member has joined or has lost its session."""
        return self.waited > self._interval + SLACK and self.unconfirmed > 0

    def flood(self, flooded: bool) -> None:
        """Kept with every position, also those that did not move."""
        if flooded != self.flooded:
            self.flooded = flooded
            for position in self._owned.values():
                position.committed = None
            self._due = 0.0

    def pending(self, partitions: Collection[Partition] | None = None) -> list[TopicPartition]:
        metadata = FLOODED if self.flooded else ""
        return [
            TopicPartition(partition.stream, int(partition.id), position.next, metadata, position.epoch)
            for partition, position in self._owned.items()
            if position.next != position.committed and position.next >= 0 and (partitions is None or partition in partitions)
        ]

    def _asking(self, offsets: Sequence[TopicPartition]) -> None:
        for offset in offsets:
            position = self._owned[Partition(offset.topic, offset.partition)]
            position.sent = (position.next, position.finished)

    def send(self, consumer: Consumer) -> None:
        """Commits what is due without waiting; one request at a time, `answered` hears what became of it."""
        now = self._clock()
        if self._outstanding or now < self._due:
            return
        self._due = now + self._interval
        if offsets := self.pending():
            self._asking(offsets)
            self._later = None
            try:
                consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                self._failed(error.args[0])
            else:
                self._outstanding = True

    def answered(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        """What failed stays pending, and goes again as long as the partition is ours."""
        self._outstanding = False
        first = self._note(error, offsets)
        if first is None:
            self._since = self._later
        elif self.pending():
            self._refused = self._explain.known(first)
            self._failed(first)
            self._due = self._clock() + min(self._interval, 1.0)

    def flush(self, consumer: Consumer, partitions: Collection[Partition], bound: float) -> KafkaError | None:
        """Inside a rebalance, where the client may not be polled: commits and waits for it, for about `bound` seconds."""
        deadline = self._clock() + bound
        while offsets := self.pending(partitions):
            self._asking(offsets)
            try:
                error = self._note(None, consumer.commit(offsets=offsets, asynchronous=False) or ())
            except KafkaException as raised:
                error = raised.args[0]
            if error is None:
                if not self.unconfirmed:
                    self._since = self._later = None
                return None
            if error.code() not in RETRIED or self._clock() >= deadline:
                self._failed(error, at_last=True)
                return error
            time.sleep(0.1)
        return None

    def settle(self, consumer: Consumer, remaining: Callable[[], float], waiting: Callable[[], None]) -> bool:
        """Commits everything at a close: a rebalance under way refuses commits, and polled through it takes them. `waiting` is
        called now and then meanwhile.

        Not `flush`: without a broker that waits for a whole session. What polling pops is not ours to handle any more.
        """
        self._refused = False
        while self._outstanding or self.pending():
            if self._refused:
                return True
            if remaining() <= 0:
                return False
            self._due = min(self._due, self._clock())
            self.send(consumer)
            waiting()
            consumer.poll(0.1)
        return True

    def _note(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> KafkaError | None:
        for offset in offsets:
            if offset.error is not None or error is not None:
                error = error or offset.error
                continue
            self._failures = 0
            position = self._owned.get(Partition(offset.topic, offset.partition))
            if position is not None:
                position.committed = offset.offset
                if offset.offset == position.sent[0]:
                    position.confirmed = position.sent[1]
        return error

    def _failed(self, error: KafkaError, at_last: bool = False) -> None:
        now = self._clock()
        self._failures += 1
        # Every rebalance refuses one or two.
        unusual = error.code() not in RETRIED or self._failures >= 3
        if at_last or (unusual and now - self._complained >= 60):
            self._complained = now
            then = "these records come again" if at_last else "trying again"
            log.warning("commit failed: %s: %s", self._explain.text(error), then)
