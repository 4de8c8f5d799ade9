"""One connection to RabbitMQ, pumped by whoever calls it: no thread of its own, heartbeats included."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pika
import pika.channel
import pika.exceptions
from pika import spec
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.adapters.utils.nbio_interface import AbstractStreamTransport

from worker.connectors import rabbitmq_errors
from worker.connectors.rabbitmq_config import Login
from worker.connectors.rabbitmq_frames import Delivery, decode, frame_end, frame_size, take_deliveries
from worker.errors import ConnectorError, Refused, Unavailable

_READ = 1 << 18
_CLOSE = 5.0
_REPLY = 15.0
"""Seconds for one answer of the broker."""


class BulkConnection(SelectConnection):  # type: ignore[misc]  # untyped
    """pika's connection, which reads runs of deliveries without making objects of their frames; the rest is pika's."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._frame_buffer = b""
        self.inboxes: dict[int, list[Delivery]] = {}
        """By channel; without one, deliveries go to pika."""
        super().__init__(*arguments, **named)

    def _proto_connection_made(self, transport: AbstractStreamTransport) -> None:
        transport._MAX_RECV_BYTES = _READ  # 4 KiB: a call of the kernel for every ten messages
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        if self.is_open or self.is_closing:
            self._read_frames(data_in)
            return
        super()._on_data_available(data_in)
        if len(self._frame_buffer) > spec.FRAME_MAX_SIZE:
            raise pika.exceptions.InvalidFrameError(f"a login does not take {len(self._frame_buffer)} bytes")

    def _read_frames(self, data_in: bytes) -> None:
        buffer = self._frame_buffer + data_in if self._frame_buffer else data_in
        at, longest = 0, self._body_max_length
        while True:
            at, more = take_deliveries(buffer, at, self.inboxes, longest)
            stop = frame_end(buffer, at)
            if more or stop > len(buffer):
                break
            frame = decode(buffer[at:stop])
            at = stop
            if frame is not None:
                self._process_frame(frame)
        self._frame_buffer = buffer[at:]
        self.bytes_received += at
        # Else a frame that never ends is kept, and copied at each read.
        if (size := frame_size(self._frame_buffer)) > self.params.frame_max:
            raise pika.exceptions.InvalidFrameError(f"a frame of {size:,} bytes, and {self.params.frame_max:,} were agreed")


class Link:
    """An open connection. `Unavailable` from any method: it is gone."""

    def __init__(self, login: Login, clock: Callable[[], float] = time.monotonic) -> None:
        """Connects to the first host that answers; raises `Refused` if one said no, else `Unavailable`."""
        self._login = login
        self._clock = clock
        self._ioloop = IOLoop()
        self._ioloop.activate_poller()
        self._lost: BaseException | None = None
        self._opened = False
        self._ended = False
        pika_log = logging.getLogger("pika")
        if pika_log.level == logging.NOTSET:  # it writes ten lines for a connection that is refused; we say it in one
            pika_log.setLevel(logging.CRITICAL)
        try:
            self.connection = self._connect()
        except ConnectorError:
            self._end()
            raise

    def _connect(self) -> BulkConnection:
        failures: list[ConnectorError] = []
        for parameters in self._login.hosts:
            self._lost = None
            made = BulkConnection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_lost,
                on_close_callback=self._on_lost,
                custom_ioloop=self._ioloop,
            )
            deadline = self._clock() + parameters.stack_timeout + 1
            while not self._opened and self._lost is None and self._clock() < deadline:
                self._turn(0.1)
            if self._opened:
                return made
            if self._lost is None:
                made.close()
            where = f"{parameters.host}:{parameters.port}"
            failures.append(
                rabbitmq_errors.login_failed(self._login.connection, where, self._lost or TimeoutError("no answer in time"))
            )
        raise next((one for one in failures if isinstance(one, Refused)), failures[0])

    def _on_open(self, _: pika.connection.Connection) -> None:
        self._opened = True

    def _on_lost(self, _: pika.connection.Connection, error: BaseException) -> None:
        self._lost = error

    @property
    def alive(self) -> bool:
        return self._lost is None

    def pump(self, timeout: float = 0.0) -> None:
        """Reads, writes and keeps alive; returns as soon as anything happened."""
        self._turn(timeout)
        if self._lost is not None:
            raise rabbitmq_errors.closed(self._login.connection, self._lost)

    def _turn(self, timeout: float) -> None:
        alarm = self._ioloop.call_later(timeout, _nothing)
        self._ioloop.poll()
        self._ioloop.process_timeouts()
        self._ioloop.remove_timeout(alarm)

    def wait(self, done: Callable[[], object], timeout: float = _REPLY) -> None:
        """Pumps until `done`; `Unavailable` if that takes longer than `timeout` seconds."""
        deadline = self._clock() + timeout
        while not done():
            if (left := deadline - self._clock()) <= 0:
                raise Unavailable(f"connection {self._login.connection.name}: the broker has not answered for {timeout:g} s")
            self.pump(min(left, 0.1))

    def write(self, frames: bytes) -> None:
        if self._lost is not None or not self.connection.is_open:
            raise rabbitmq_errors.closed(self._login.connection, self._lost or ConnectionError("it is closing"))
        self.connection._output_marshaled_frames([frames])

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the system has not taken yet."""
        transport = self.connection._transport
        return 0 if transport is None else int(transport.get_write_buffer_size())

    def channel(self) -> Channel:
        """Opens a channel; `Refused` if the broker or `channel_max` allow no more of them."""
        try:
            channel = Channel(self)
        except pika.exceptions.NoFreeChannels as error:
            most = self.connection.params.channel_max
            raise Refused(
                f"connection {self._login.connection.name}: no more than {most} channels (channel_max, ours or the broker's), "
                "and a handler needs one for each of its queues: allow more, or give some of them to another handler"
            ) from error
        self.wait(lambda: channel.opened or channel.closed)
        return channel

    def abort(self) -> None:
        """Ends the connection without a word; what was written and not answered may be lost."""
        if self.connection._transport is not None:
            self.connection._transport.abort()
        self.close()

    def close(self) -> None:
        """What was written before arrives before the broker sees the end; gives up after 5 s."""
        if self._ended:
            return
        self._ended = True
        try:
            if self.alive and self.connection.is_open:
                self.connection.close()
            deadline = self._clock() + _CLOSE
            while self.alive and self._clock() < deadline:
                self._turn(0.05)
        finally:
            if self.connection._transport is not None:  # the broker did not answer: it blocks us, or nobody is there
                self.connection._transport.abort()
            self._end()

    def _end(self) -> None:
        for _ in range(3):  # pika closes its socket behind the callback that says that it is closed
            self._turn(0.0)
        self._ioloop.deactivate_poller()
        self._ioloop.close()
        self._lost = self._lost or ConnectionError("closed")


class Channel:
    """One channel of a link: pika's, and how it ended."""

    def __init__(self, link: Link) -> None:
        self.opened = False
        self.closed: BaseException | None = None
        """Why; set by whoever closed it."""
        self._link = link
        self.pika: pika.channel.Channel = link.connection.channel(on_open_callback=self._on_open)
        self.number: int = self.pika.channel_number
        self.pika.add_on_close_callback(self._on_close)

    def _on_open(self, _: pika.channel.Channel) -> None:
        self.opened = True

    def _on_close(self, _: pika.channel.Channel, error: BaseException) -> None:
        self.closed = error

    def ask(self, method: Callable[..., object], within: float = _REPLY, **arguments: Any) -> Any:
        """Calls one of pika's methods that is answered; returns the answer. Raises what the broker closes the channel with."""
        answers: list[Any] = []
        try:
            method(callback=answers.append, **arguments)
        except (pika.exceptions.AMQPError, ValueError) as error:
            raise ChannelClosed(self.closed or error) from error
        self._link.wait(lambda: answers or self.closed, within)
        if not answers:
            assert self.closed is not None
            raise ChannelClosed(self.closed)
        return answers[0]

    def close(self) -> None:
        """Everything unsettled goes back into its queue, in its old place."""
        if self.pika.is_open:
            self.pika.close()
        self._link.wait(lambda: self.closed)


class ChannelClosed(Exception):
    """The broker closed a channel instead of answering: what it said is `reason`."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _nothing() -> None: ...
