"""Consumes ActiveMQ's queues and durable topics over STOMP: one connection, a subscription each."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Collection, Sequence

from worker.connectors.activemq_batch import ActiveMQBatch
from worker.connectors.activemq_config import WILD, Login
from worker.connectors.activemq_errors import InUse
from worker.connectors.activemq_link import Link
from worker.connectors.activemq_subscription import Subscription
from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Batch, OnRevoke, Partition, SourceOptions

log = logging.getLogger("worker.activemq")

_PATIENCE = 30.0
"""Seconds for the broker to notice the end of a connection with the same client_id: three heartbeats by default."""
CLASSIC = re.compile(r"ActiveMQ/\d")


class ActiveMQSource:
    """Settles messages one by one, or, for a handler in order, all up to one; what it did not settle goes back when it closes."""

    ordered = False
    session = 0.0
    membership = ""
    timestamps = True
    patience = hold = math.inf

    def __init__(self, options: SourceOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._login = Login.of(options.connection)
        self._prefetch = self._login.prefetch or options.in_flight
        self.limit = min(self._prefetch, self._login.limit)
        self.flooded = False
        self.stalled = False
        self._clock = clock
        self._link: Link | None = None
        self._on_revoke: OnRevoke | None = None
        self._subscriptions: dict[Partition, Subscription] = {}
        self._warned = False
        self._opened = False
        self._began = math.inf

    def open(self, on_revoke: OnRevoke) -> None:
        self._began = min(self._began, self._clock())
        try:
            self._open(on_revoke)
        except InUse as error:
            # Not right after a start: the worker before this one may have died with its machine.
            if not self._opened and self._clock() - self._began >= max(_PATIENCE, 3 * self._login.heartbeat):
                raise Refused(str(error)) from error
            raise
        self._opened = True

    def _open(self, on_revoke: OnRevoke) -> None:
        options, login = self._options, self._login
        self._on_revoke = on_revoke
        durable = any(stream.startswith("topic/") for stream in options.streams)
        client_id = login.client_id or (options.group if durable else None)
        self._link = link = Link(login, client_id, clock=self._clock)
        self._warn_of(link.server)
        self._subscriptions = {
            partition: Subscription(login, partition, self._prefetch, options.group, options.ordered)
            for partition in (Partition(stream, 0) for stream in options.streams)
        }
        # Wildcards first: what the broker says against one has no receipt, and counts only where no message lies in front of it.
        for subscription in sorted(self._subscriptions.values(), key=lambda one: not WILD.search(one.partition.stream)):
            subscription.subscribe(link)

    def _warn_of(self, server: str) -> None:
        if not CLASSIC.match(server) and not self._warned:
            self._warned = True
            log.warning(
                "connection %s: the broker is %s, not ActiveMQ Classic: not promised there are the prefetch (bytes on Artemis), "
                "limit, the order of what is given back, and dead_letter=broker",
                *(self._options.connection.name, server),
            )

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
            for subscription in self._subscriptions.values():
                if not subscription.subscribed and not subscription.paused:
                    subscription.subscribe(link)
            if link.gap and self._options.ordered:  # an ACK settles all up to its message
                raise Unavailable(
                    f"connection {self._options.connection.name}: a property's name holds an end of line, which STOMP "
                    "cannot carry, and in order nothing may pass its message: take it out of the queue"
                )
            batches = self._hand_out(max_records) if max_records else []
            if batches or (left := deadline - self._clock()) <= 0:
                return batches
            link.pump(left)

    def _hand_out(self, most: int) -> list[Batch]:
        batches: list[Batch] = []
        for partition, subscription in list(self._subscriptions.items()):
            if subscription.inbox and not subscription.paused and most > 0:
                batches.append(subscription.take(most))
                most -= len(batches[-1])
                if len(self._subscriptions) > 1:  # the others come first next time
                    self._subscriptions[partition] = self._subscriptions.pop(partition)
        return batches

    def commit(self, batches: Sequence[Batch]) -> None:
        frames = []
        for batch in batches:
            assert isinstance(batch, ActiveMQBatch)
            frames.append(self._subscriptions[batch.partition].ack(batch.native))
        self._open_link.write(b"".join(frames))

    def reject(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            assert isinstance(batch, ActiveMQBatch)
            self._subscriptions[batch.partition].reject(self._open_link, batch.native)

    def rewind(self, partition: Partition) -> None:
        self._subscriptions[partition].unsubscribe(self._open_link)

    def finish(self) -> bool:
        return False

    def pause(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._subscriptions[partition].paused = True

    def resume(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._subscriptions[partition].paused = False

    def lag(self) -> int | None:
        return None

    def close(self, remaining: Callable[[], float] | None = None) -> None:
        link = self._link
        if link is None:
            return
        try:
            if link.alive and self._on_revoke is not None:
                self._on_revoke(list(self._subscriptions), lost=False)
        except ConnectorError as error:
            log.debug("closing: %s", error)
        finally:
            self._link = None
            self._subscriptions.clear()
            link.close()
