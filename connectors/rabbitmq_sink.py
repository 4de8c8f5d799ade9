"""Publishes dead letters to a queue of RabbitMQ: persistent, mandatory, confirmed, many in one write."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pika import exceptions, spec
from pika.data import encode_value

from connectors import rabbitmq_errors
from connectors.rabbitmq_batch import flat
from connectors.rabbitmq_config import Login
from connectors.rabbitmq_frames import publish
from connectors.rabbitmq_link import Channel, ChannelClosed, Link
from connectors.rabbitmq_queue import ensure
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import KEY_HEADER, NULL_HEADER, DeadLetter, SinkOptions

_WINDOW = 1_000
"""Letters on their way at once."""
_BYTES = 4 << 20
"""Written at once, and again when less than that waits to be sent: letters may be large."""
_IDLE = 5.0
"""Seconds without a publish after which the connection is tried before it is trusted; and how long it has to answer."""
_SILENT = 15.0
"""Seconds in which nothing is confirmed and nothing sent, after which the connection is thought dead, unless the broker says that
it blocks us."""
_ROUTING = ("CC", "BCC")
"""By headers of these names the broker routes copies to other queues: a letter has them with `x-` before them."""
_UNWRITABLE = (exceptions.AMQPError, struct.error, ValueError, TypeError, RecursionError)
"""What pika raises over headers and properties that it cannot write."""
_KEPT = ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id", "type", "app_id")
"""Properties of a record that its letter has, too. Not its expiration, which would throw it away, nor the user who wrote it,
as the broker takes only our own."""


class _Confirms:
    """What the broker said of the letters on one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.published = 0
        self.open: set[int] = set()
        self.nacked = 0
        self.returned: str | None = None

    def on_confirm(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        settled = {one for one in self.open if one <= tag} if multiple else {tag}
        self.open -= settled
        if isinstance(frame.method, spec.Basic.Nack):
            self.nacked += len(settled)

    def on_return(self, _channel: Any, method: spec.Basic.Return, _properties: Any, _body: bytes) -> None:
        self.returned = str(method.reply_text)


class RabbitMQSink:
    """One connection, made anew when it is lost. It has no thread, so no heartbeat either: it is tried when it was idle."""

    def __init__(self, options: SinkOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._login = Login.of(options.connection, f"dead letters to {options.stream}", heartbeat=0)
        self._clock = clock
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._confirms: _Confirms | None = None
        self._blocked: str | None = None
        self._used = clock()

    def open(self) -> None:
        with self._lock:
            self._connected()

    def _connected(self) -> tuple[Link, _Confirms]:
        if self._link is not None and self._confirms is not None and self._confirms.channel.closed is None:
            try:
                self._link.pump()
                if self._clock() - self._used > _IDLE and self._blocked is None:
                    channel = self._confirms.channel
                    channel.ask(channel.pika.basic_qos, within=_IDLE, prefetch_count=0)
                return self._link, self._confirms
            except (Unavailable, ChannelClosed):
                pass
        self._disconnect()
        self._link = link = Link(self._login, self._clock)
        self._blocked = None
        link.connection.add_on_connection_blocked_callback(self._on_blocked)
        link.connection.add_on_connection_unblocked_callback(self._on_unblocked)
        ensure(link, self._login, self._options.stream)
        self._confirms = confirms = _Confirms(link.channel())
        channel = confirms.channel
        channel.pika.add_on_return_callback(confirms.on_return)
        channel.ask(channel.pika.confirm_delivery, ack_nack_callback=confirms.on_confirm)
        return link, confirms

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self._blocked = str(frame.method.reason)

    def _on_unblocked(self, _: Any, _frame: Any) -> None:
        self._blocked = None

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        with self._lock:
            try:
                link, confirms = self._connected()
                self._publish(link, confirms, letters)
                self._used = self._clock()
            except ChannelClosed as error:
                raise self._closed(error.reason) from error
            except Refused as error:  # it was there when the worker began, so it may come back
                self._disconnect()
                raise PublishError(str(error)) from error
            except BaseException:
                self._disconnect()  # what is still on its way there must not be counted among the next ones
                raise

    def _publish(self, link: Link, confirms: _Confirms, letters: Sequence[DeadLetter]) -> None:
        begun = heard = self._clock()
        confirms.nacked, confirms.returned = 0, None
        start = left = unsent = 0
        while start < len(letters) or confirms.open:
            while start < len(letters) and len(confirms.open) < _WINDOW and link.unsent < _BYTES:
                start = self._send(link, confirms, letters, start)
            link.pump(0.05)
            if confirms.channel.closed is not None:
                raise ChannelClosed(confirms.channel.closed)
            was, left, unsent = (left, unsent), len(letters) - start + len(confirms.open), link.unsent
            if (left, unsent) != was or self._blocked:
                heard = self._clock()
            if self._clock() - begun >= self._options.timeout or self._clock() - heard >= _SILENT:
                raise PublishError(f"{self._where}: {left} not confirmed in {self._clock() - begun:.0f} s{self._why()}")
        if confirms.returned is not None:
            raise PublishError(f"{self._where}: no queue takes it: {confirms.returned}")
        if confirms.nacked:
            raise PublishError(f"{self._where}: the broker refused {confirms.nacked} (is the queue full?)")

    def _why(self) -> str:
        return f": the broker blocks publishers ({self._blocked})" if self._blocked else ""

    def _send(self, link: Link, confirms: _Confirms, letters: Sequence[DeadLetter], start: int) -> int:
        """Writes some of the letters at once; returns the index of the next one."""
        stop, size = start, 0
        room = _WINDOW - len(confirms.open)
        while stop < len(letters) and stop - start < room and size < _BYTES:
            size += len(letters[stop].record.value or b"")
            stop += 1
        messages = [(self._properties(letter), letter.record.value or b"") for letter in letters[start:stop]]
        try:
            frames = publish(confirms.channel.number, self._options.stream, messages, link.connection._body_max_length)
        except _UNWRITABLE as error:
            told = f"a letter's headers or properties cannot be sent (a name of more than 255 bytes?): {error!r}"
            raise PublishError(f"{self._where}: {told}", permanent=True) from error
        link.write(frames)
        confirms.open.update(range(confirms.published + 1, confirms.published + 1 + len(messages)))
        confirms.published += len(messages)
        return stop

    def _properties(self, letter: DeadLetter) -> spec.BasicProperties:
        record = letter.record
        typed = record.properties.get("headers", {})
        headers: dict[str, Any] = {}
        for name, value in letter.headers:
            shown = f"x-{name}" if name in _ROUTING else name
            headers[shown] = typed[name] if name in typed and flat(typed[name]) == value and _can(typed[name]) else _text(value)
        if record.key is not None and record.key != self._options.stream.encode():
            headers[KEY_HEADER] = _text(record.key)
        if record.value is None:
            headers[NULL_HEADER] = "value"
        kept = {
            name: record.properties[name] for name in _KEPT if name in record.properties and "routing_key" in record.properties
        }
        seconds = None if record.timestamp is None or record.timestamp < 0 else record.timestamp // 1000
        return spec.BasicProperties(headers=headers, delivery_mode=2, timestamp=seconds, **kept)

    @property
    def _where(self) -> str:
        return f"{self._options.connection.name}:{self._options.stream}"

    def _closed(self, reason: BaseException) -> PublishError:
        self._disconnect()
        told = rabbitmq_errors.reason(reason)
        permanent = rabbitmq_errors.code(reason) in (rabbitmq_errors.PRECONDITION_FAILED, rabbitmq_errors.ACCESS_REFUSED)
        return PublishError(f"{self._where}: {told}", permanent=permanent)

    def _disconnect(self) -> None:
        link, self._link, self._confirms = self._link, None, None
        if link is not None:
            link.close()

    def close(self) -> None:
        with self._lock:
            self._disconnect()


def _can(value: Any) -> bool:
    """Pika writes it; not so a fraction, alone or in a table."""
    try:
        encode_value([], value)
    except _UNWRITABLE:
        return False
    return True


def _text(value: bytes | None) -> str | bytes | None:
    """As text where it is text: consoles and other clients show that."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
