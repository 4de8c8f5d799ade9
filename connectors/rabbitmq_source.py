"""Consumes RabbitMQ's queues: one connection, one channel a queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from worker.connectors.rabbitmq_batch import RabbitMQBatch
from worker.connectors.rabbitmq_config import MOST_PREFETCH, Login
from worker.connectors.rabbitmq_link import ChannelClosed, Link
from worker.connectors.rabbitmq_queue import DROPPED, RETURNS, Consumer, returns, waiting
from worker.connectors.rabbitmq_sink import RabbitMQSink
from worker.errors import Refused, Unavailable
from worker.interface import Batch, DeadLetter, OnRevoke, Partition, Record, SinkOptions, SourceOptions

log = logging.getLogger("worker.rabbitmq")

_GIVES_BACK = 1.0
"""Seconds before a queue is consumed again in order. A node that starts again serves consumers of a quorum queue before it gives
back what it held for those of before, which then came behind: 10 of 12 times at once, never after 0.5 s (RabbitMQ 4.0)."""
_OFTEN = 5.0
"""Seconds: a consumer that ends again within them is not made anew at once."""


class RabbitMQSource:
    """Settles each message alone; what it prefetched and did not settle goes back to its place when it closes."""

    ordered = False
    session = 0.0
    membership = ""
    timestamps = False

    def __init__(self, options: SourceOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._login = Login.of(options.connection, options.group)
        self._prefetch = self._login.prefetch or min(options.in_flight, MOST_PREFETCH)
        self.limit = self._prefetch
        self.hold = self.patience = 0.9 * self._login.consumer_timeout
        self.flooded = False
        self.stalled = False
        self._clock = clock
        self._link: Link | None = None
        self._on_revoke: OnRevoke | None = None
        self._consumers: dict[Partition, Consumer] = {}
        self._since: dict[Partition, float] = {}
        """When each was consumed last."""
        self._finishing = False
        self._known = False
        """The queues were there once: if one is missing, it may come back."""

    def open(self, on_revoke: OnRevoke) -> None:
        self._on_revoke = on_revoke
        self._finishing = False
        self._link = link = Link(self._login, self._clock)
        if self._options.ordered and self._known:
            self._wait(link, _GIVES_BACK)
        self._consumers = {
            partition: Consumer(self._login, partition, self._prefetch, letters=self._options.letters)
            for partition in (Partition(name, 0) for name in self._options.streams)
        }
        for consumer in self._consumers.values():
            self._consume(consumer)
        self._known = True

    def _wait(self, link: Link, seconds: float) -> None:
        deadline = self._clock() + seconds
        while (left := deadline - self._clock()) > 0:
            link.pump(left)

    def _consume(self, consumer: Consumer) -> None:
        self._since[consumer.partition] = self._clock()
        try:
            consumer.consume(self._open_link)
        except Refused as error:
            if self._known:
                raise Unavailable(str(error)) from error
            raise

    @property
    def _open_link(self) -> Link:
        if self._link is None:
            raise Unavailable(f"connection {self._options.connection.name}: it is not open")
        return self._link

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        link = self._open_link
        deadline = self._clock() + timeout
        link.pump()
        while True:
            for consumer in self._consumers.values():
                if consumer.lost is not None:
                    self._lose(consumer)
                if not consumer.consuming and not consumer.paused and not self._finishing:
                    self._consume(consumer)
            batches = self._hand_out(max_records) if max_records else []
            if batches or (left := deadline - self._clock()) <= 0:
                return batches
            link.pump(left)

    def _hand_out(self, most: int) -> list[Batch]:
        batches: list[Batch] = []
        for partition, consumer in list(self._consumers.items()):
            if consumer.inbox and not consumer.paused and most > 0:
                batch = consumer.take(most)
                batches.append(batch)
                most -= len(batch)
                if len(self._consumers) > 1:  # the others come first next time
                    self._consumers[partition] = self._consumers.pop(partition)
        return batches

    def _lose(self, consumer: Consumer) -> None:
        """The broker ended it and gave its messages back: they come again, on a new channel."""
        partition = consumer.partition
        assert self._on_revoke is not None
        self._on_revoke({partition}, lost=True)
        told = f"queue {partition.stream}: {consumer.lost}"
        if self._clock() - self._since[partition] < _OFTEN:
            raise Unavailable(f"connection {self._options.connection.name}: {told}")
        log.warning(
            "%s; consuming again. Calls that run are void: what they were given comes again, and their tries do not count. "
            "Where they take longer than the broker's consumer timeout, set timeout= below it, or raise it",
            told,
        )
        consumer.close()

    def commit(self, batches: Sequence[Batch]) -> None:
        self._settle(batches, Consumer.ack)

    def reject(self, batches: Sequence[Batch]) -> None:
        self._settle(batches, Consumer.reject)

    def _settle(self, batches: Sequence[Batch], how: Callable[[Consumer, Sequence[int]], bytes]) -> None:
        frames = []
        for batch in batches:
            assert isinstance(batch, RabbitMQBatch)
            frames.append(how(self._consumers[batch.partition], batch.tags()))
        self._open_link.write(b"".join(frames))

    def rewind(self, partition: Partition) -> None:
        if not self._options.ordered:
            self._consumers[partition].close()
            return
        assert self._on_revoke is not None
        self._drop(self._open_link)
        for consumer in self._consumers.values():
            consumer.forget()
        if others := self._consumers.keys() - {partition}:
            self._on_revoke(others, lost=True)
        self._link = Link(self._login, self._clock)

    def _drop(self, link: Link) -> None:
        """Gives back everything in a way that keeps the order also where another process waits as single active consumer: after
        any farewell it would be handed what comes next first, and what is given back behind that (measured, RabbitMQ 4.0)."""
        for consumer in self._consumers.values():
            consumer.flush()
        link.abort()

    def finish(self) -> bool:
        if self._options.ordered:  # the next single active consumer would begin while this one is at it
            return False
        self._finishing = True
        for consumer in self._consumers.values():
            consumer.cancel()
        return True

    def pause(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._consumers[partition].paused = True

    def resume(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._consumers[partition].paused = False

    def lag(self) -> int | None:
        return None

    def waiting(self) -> int:
        """Messages that are delivered to nobody."""
        return sum(waiting(self._open_link, self._login, queue) for queue in self._options.streams)

    def worn(self, batch: Batch) -> list[Batch]:
        """The letters that a quorum queue would drop when they had been looked at a few times more."""
        assert isinstance(batch, RabbitMQBatch)
        found = [index for index, one in enumerate(batch.native) if RETURNS <= returns(one) <= DROPPED]
        letters = [index for index in found if _is_letter(batch.record(index))]
        if len(letters) < len(found):
            # Each look is a return, and a copy would be another message to whoever owns it.
            raise Refused(
                f"queue {batch.partition.stream}: {len(found) - len(letters)} messages that no worker wrote came back {RETURNS} "
                f"times and more, and the broker drops them after {DROPPED}: set delivery-limit -1 by a policy before you look "
                f"again; with that, the command goes on once they came back more than {DROPPED} times, as each look is one"
            )
        return [batch.pick(letters)] if letters else []

    def renew(self, worn: Sequence[Batch]) -> None:
        """Puts copies in their place, which count from 0 again."""
        for batch in worn:
            sink = RabbitMQSink(SinkOptions(self._options.connection, batch.partition.stream, partitions=True))
            try:
                sink.publish([DeadLetter(record, ValueError(), 1, record.headers) for record in batch])
                self.commit([batch])
            finally:
                sink.close()

    def close(self, remaining: Callable[[], float] | None = None) -> None:
        link = self._link
        if link is None:
            return
        try:
            if link.alive and self._on_revoke is not None:
                self._on_revoke(list(self._consumers), lost=False)
            if link.alive and self._options.ordered:
                self._drop(link)
        except (Unavailable, ChannelClosed) as error:
            log.debug("closing: %s", error)
        finally:
            self._link = None
            self._consumers.clear()
            link.close()


def _is_letter(record: Record[bytes]) -> bool:
    return any(name == "dead_letter_handler" for name, _ in record.headers)
