"""Publishes dead letters to a queue of RabbitMQ: persistent, mandatory, confirmed, many in one write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pika import spec

from worker.connectors import left_out, rabbitmq_errors
from worker.connectors.rabbitmq_config import Login
from worker.connectors.rabbitmq_frames import Properties, publish
from worker.connectors.rabbitmq_link import Channel, ChannelClosed, Link
from worker.connectors.rabbitmq_message import properties
from worker.connectors.rabbitmq_queue import ensure, refuse_temporary
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import DeadLetter, SinkOptions

_WINDOW = 1_000
"""Letters on their way at once."""
_BYTES = 4 << 20
"""Written at once, and again when less than that waits to be sent: letters may be large."""
_IDLE = 5.0
"""Seconds without a publish after which the connection is tried before it is trusted; and how long it has to answer."""
_SILENT = 15.0
"""Seconds in which nothing is confirmed and nothing sent, after which the connection is thought dead, unless the broker says that
it blocks us."""


class _Confirms:
    """What the broker said of the letters on one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.published = 0
        self.open: set[int] = set()
        self.refused: set[int] = set()
        self.returned: str | None = None

    def on_confirm(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        settled = {one for one in self.open if one <= tag} if multiple else {tag}
        self.open -= settled
        if isinstance(frame.method, spec.Basic.Nack):
            self.refused |= settled

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
        self._warned = False

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
        if not self._options.partitions:  # those of a command go back to a handler's stream
            refuse_temporary(link, self._login, self._options.stream)
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
        confirms.refused, confirms.returned, first = set(), None, confirms.published + 1
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
        if confirms.refused:
            error = PublishError(f"{self._where}: the broker refused {len(confirms.refused)} (is the queue full?)")
            error.refused = sorted(tag - first for tag in confirms.refused)
            raise error

    def _why(self) -> str:
        return f": the broker blocks publishers ({self._blocked})" if self._blocked else ""

    def _send(self, link: Link, confirms: _Confirms, letters: Sequence[DeadLetter], start: int) -> int:
        """Writes some of the letters at once; returns the index of the next one."""
        stop, size = start, 0
        room = _WINDOW - len(confirms.open)
        while stop < len(letters) and stop - start < room and size < _BYTES:
            size += len(letters[stop].record.value or b"")
            stop += 1
        longest = link.connection._body_max_length
        messages = [(self._properties(letter, longest), letter.record.value or b"") for letter in letters[start:stop]]
        link.write(publish(confirms.channel.number, self._options.stream, messages, longest))
        confirms.open.update(range(confirms.published + 1, confirms.published + 1 + len(messages)))
        confirms.published += len(messages)
        return stop

    def _properties(self, letter: DeadLetter, longest: int) -> Properties:
        made, without = properties(letter, self._options.stream, longest)
        if without and not self._warned:
            self._warned = True
            left_out.warn(self._where, without, f"as a name may have 255 bytes, and all headers together {longest:,}")
        return made

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
