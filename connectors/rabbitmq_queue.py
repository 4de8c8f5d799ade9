"""One queue that is consumed: its channel, what was delivered and not yet handed out, and what the broker was told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import pika
from pika import spec

from worker.connectors import rabbitmq_errors
from worker.connectors.rabbitmq_acks import Acks
from worker.connectors.rabbitmq_batch import RabbitMQBatch, properties_of
from worker.connectors.rabbitmq_config import Login
from worker.connectors.rabbitmq_errors import ACCESS_REFUSED
from worker.connectors.rabbitmq_frames import CONSUMER, Delivery, ack, delivery, reject
from worker.connectors.rabbitmq_link import Channel, ChannelClosed, Link
from worker.errors import Refused
from worker.interface import Partition

log = logging.getLogger("worker.rabbitmq")

RETURNS = 15
"""A quorum queue drops a message after 20 returns, unless x-delivery-limit is -1."""
DROPPED = 20
"""One that came back more often shows that its queue has another limit, or none."""
# A stream is declared as it is; of every other queue the broker says what it is instead; and none is ever made by this, as a
# stream has no priorities.
_STREAM = {"x-queue-type": "stream", "x-max-priority": 1}
_ARGUMENTS = {
    # -1: else messages are dropped that workers gave back 20 times, and a worker that stops gives back what it prefetched.
    "quorum": {"x-queue-type": "quorum", "x-delivery-limit": -1},
    "classic": {"x-queue-type": "classic"},
}


def ensure(link: Link, login: Login, queue: str) -> None:
    """The queue exists, declared if that is asked for; `Refused` if not."""
    channel = link.channel()
    try:
        if login.declare:
            channel.ask(channel.pika.queue_declare, queue=queue, durable=True, arguments=_ARGUMENTS[login.declare])
        else:
            channel.ask(channel.pika.queue_declare, queue=queue, passive=True)
    except ChannelClosed as error:
        raise rabbitmq_errors.channel_closed(login.connection, queue, error.reason) from error
    channel.close()


def kind_of(link: Link, queue: str) -> Literal["queue", "stream", "temporary", "unknown"]:
    """Temporary: it is deleted when its last consumer leaves. Unknown: this user may not ask."""
    told = _what_differs(link, queue, durable=True)
    if told is not None and "'durable'" in told:  # only one thing that differs is told, and this is told first
        told = _what_differs(link, queue, durable=False)
    if not told:
        return "stream" if told is None else "unknown"
    return "temporary" if "'auto_delete'" in told else "queue"


def refuse_temporary(link: Link, login: Login, queue: str) -> None:
    if kind_of(link, queue) == "temporary":
        raise temporary(login, queue)


def temporary(login: Login, queue: str) -> Refused:
    return Refused(
        f"connection {login.connection.name}: queue {queue} has auto_delete: it is deleted, with the dead letters in it, when "
        "somebody who looked at it leaves; name one without"
    )


def _what_differs(link: Link, queue: str, durable: bool) -> str | None:
    """What the broker says to a declaration that fits no queue but a stream; None: it fits, "": this user may not ask."""
    channel = link.channel()
    try:
        channel.ask(channel.pika.queue_declare, queue=queue, durable=durable, arguments=_STREAM)
    except ChannelClosed as error:
        return "" if rabbitmq_errors.code(error.reason) == ACCESS_REFUSED else rabbitmq_errors.reason(error.reason)
    channel.close()
    return None


def stream(login: Login, queue: str) -> Refused:
    return Refused(
        f"connection {login.connection.name}: queue {queue} is a stream: over AMQP 0-9-1 it has no position, so a restart "
        "would repeat all of it or skip some; use a quorum queue"
    )


def waiting(link: Link, login: Login, queue: str) -> int:
    """Messages that are delivered to nobody."""
    channel = link.channel()
    try:
        told = channel.ask(channel.pika.queue_declare, queue=queue, passive=True)
    except ChannelClosed as error:
        raise rabbitmq_errors.channel_closed(login.connection, queue, error.reason) from error
    channel.close()
    return int(told.method.message_count)


def returns(one: Delivery) -> int:
    """How often it was delivered and came back, as far as the broker counts."""
    if b"x-delivery-count" not in one[3]:
        return 0
    count = (properties_of(one).headers or {}).get("x-delivery-count")
    return count if isinstance(count, int) else 0


class Consumer:
    """Consumes one queue, on a channel of its own; a new one when the broker ended it or it was given back."""

    def __init__(self, login: Login, partition: Partition, prefetch: int, *, letters: bool = False) -> None:
        """`letters`: somebody looks at dead letters, and wants to find them again."""
        self.partition = partition
        self.paused = False
        self.lost: str | None = None
        """Why the broker ended it."""
        self.inbox: list[Delivery] = []
        self.acks = Acks()
        self._unflushed = False
        """The broker was told something, and may not have it yet."""
        self._login = login
        self._prefetch = prefetch
        self._letters = letters
        self._warned = self._warned_temporary = False
        self._perhaps_stream = False
        self._link: Link
        self._channel: Channel | None = None

    @property
    def consuming(self) -> bool:
        return self._channel is not None

    def consume(self, link: Link) -> None:
        """From the first message that is not settled."""
        queue = self.partition.stream
        ensure(link, self._login, queue)
        self._look_at_kind(kind_of(link, queue))
        channel = link.channel()
        self._link, self._channel = link, channel
        self.lost, self.inbox, self.acks, self._unflushed = None, [], Acks(), False
        link.connection.inboxes[channel.number] = self.inbox
        channel.pika.add_on_cancel_callback(self._on_cancel)
        channel.pika.add_on_close_callback(self._on_close)
        try:
            channel.ask(channel.pika.basic_qos, prefetch_count=self._prefetch)
            channel.ask(
                channel.pika.basic_consume, queue=queue, on_message_callback=self._received(self.inbox), consumer_tag=CONSUMER
            )
        except ChannelClosed as error:
            raise rabbitmq_errors.channel_closed(self._login.connection, queue, error.reason) from error

    def _look_at_kind(self, kind: str) -> None:
        queue = self.partition.stream
        self._perhaps_stream = kind == "unknown"
        if kind == "stream":
            raise stream(self._login, queue)
        if kind == "temporary" and self._letters:
            raise temporary(self._login, queue)
        if kind == "temporary" and not self._warned_temporary:
            self._warned_temporary = True
            log.warning("queue %s has auto_delete: when its last worker stops it is deleted, with the messages in it", queue)

    @staticmethod
    def _received(inbox: list[Delivery]) -> Any:
        """For those that pika took apart: large ones."""

        def received(_: Any, method: spec.Basic.Deliver, properties: spec.BasicProperties, body: bytes) -> None:
            inbox.append(delivery(method, properties, body))

        return received

    def _on_cancel(self, _: Any) -> None:
        self.lost = "the broker cancelled the consumer (the queue was deleted, its node left, or a delivery waited too long)"

    def _on_close(self, channel: pika.channel.Channel, error: BaseException) -> None:
        if (
            self._channel is not None
            and channel is self._channel.pika
            and isinstance(error, pika.exceptions.ChannelClosedByBroker)
        ):
            self.lost = rabbitmq_errors.reason(error)

    def take(self, most: int) -> RabbitMQBatch:
        """Up to `most` of what was delivered; `Refused` if it turns out to be of a stream."""
        if len(self.inbox) <= most:
            taken = self.inbox[:]
            self.inbox.clear()
        else:
            taken = self.inbox[:most]
            del self.inbox[:most]
        batch = RabbitMQBatch(self.partition, taken)
        if self._perhaps_stream and b"x-stream-offset" in taken[0][3]:  # each message of a stream has one
            raise stream(self._login, self.partition.stream)
        if again := batch.redelivered():
            self._look_at_returns(again)
        return batch

    def _look_at_returns(self, again: Sequence[Delivery]) -> None:
        if self._warned:
            return
        count = max(map(returns, again))
        if count >= RETURNS:
            self._warned = True
            log.warning(
                "queue %s: a message came back %d times; a quorum queue drops it after 20, unless it has "
                "x-delivery-limit=-1: set it by a policy (delivery-limit) or declare the queue with it",
                *(self.partition.stream, count),
            )

    def ack(self, tags: Sequence[int]) -> bytes:
        """The frames that tell the broker that these are finished."""
        if self._ended:
            return b""
        self._unflushed = True
        number = self._open.number
        return b"".join(ack(number, tag, multiple) for tag, multiple in self.acks.settle(tags))

    def reject(self, tags: Sequence[int]) -> bytes:
        if self._ended:
            return b""
        self._unflushed = True
        self.acks.forget(tags)
        return b"".join(reject(self._open.number, tag) for tag in tags)

    @property
    def _ended(self) -> bool:
        """What was delivered comes again. Its channel's number may be another consumer's by now, whose messages an ack would
        settle: they were lost so, when both channels of a handler were closed at once."""
        return self._open.closed is not None

    @property
    def _open(self) -> Channel:
        assert self._channel is not None, f"{self.partition.stream} is not consumed"
        return self._channel

    def cancel(self) -> None:
        """Nothing more is delivered; what was stays to be settled. Not pika's own: that would put back into the queue, behind
        others, what is on its way when it is called."""
        if self._channel is not None and self.lost is None:
            answers: list[Any] = []
            self._channel.pika._rpc(spec.Basic.Cancel(consumer_tag=CONSUMER), answers.append, [spec.Basic.CancelOk])
            self._link.wait(lambda: answers or self.lost)

    def flush(self) -> None:
        """Returns once the broker has taken every ack: it answers in order."""
        if self._unflushed and self._channel is not None and self.lost is None:
            self._unflushed = False
            with suppress(ChannelClosed):  # then what was not taken comes again
                self._channel.ask(self._channel.pika.basic_qos, prefetch_count=self._prefetch)

    def close(self) -> None:
        """Gives back what is not settled, in its old places: unless it is the single active consumer and another one waits,
        which would be handed what comes after before what is given back."""
        if self._channel is not None:
            inboxes, number = self._link.connection.inboxes, self._channel.number
            self._channel.close()  # until then its messages come, and some of them pika itself could not read
            if inboxes.get(number) is self.inbox:  # else the number is another consumer's by now
                del inboxes[number]
        self.forget()

    def forget(self) -> None:
        """Its connection is gone."""
        self._channel = None
        self.lost = None
        self.inbox = []
