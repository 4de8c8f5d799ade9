"""Publishes dead letters to a queue of ActiveMQ: persistent, each with a receipt, many on their way at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from worker.connectors import left_out
from worker.connectors.activemq_config import Login
from worker.connectors.activemq_frames import encode
from worker.connectors.activemq_link import Link
from worker.connectors.activemq_message import message
from worker.errors import ConnectorError, PublishError, Refused
from worker.interface import DeadLetter, SinkOptions

log = logging.getLogger("worker.activemq")

_WINDOW = 1_000
_BYTES = 4 << 20
_IDLE = 5.0
"""Seconds without a publish after which the connection is tried before it is trusted."""


class ActiveMQSink:
    """One connection, made anew when it is lost. ActiveMQ makes a queue when it is first used, so `open` only logs in."""

    def __init__(self, options: SinkOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._login = Login.of(options.connection)
        self._clock = clock
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._used = 0.0
        self._warned = self._warned_empty = False

    def open(self) -> None:
        with self._lock:
            self._connected()

    def _connected(self) -> Link:
        if self._link is not None:
            try:
                self._link.pump()
                if self._clock() - self._used > _IDLE:
                    self._link.sync(_IDLE)
                return self._link
            except ConnectorError:
                self._disconnect()
        # Nobody pumps it between two publishes, so it promises no heartbeats.
        self._link = Link(self._login, beats=False, clock=self._clock)
        self._used = self._clock()
        return self._link

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        with self._lock:
            try:
                self._publish(self._connected(), letters)
                self._used = self._clock()
            except Refused as error:
                self._disconnect()
                raise PublishError(f"{self._where}: {error}", permanent=True) from error
            except BaseException:
                self._disconnect()  # what is still on its way there must not be counted among the next ones
                raise

    def _publish(self, link: Link, letters: Sequence[DeadLetter]) -> None:
        deadline = self._clock() + self._options.timeout
        start = 0
        while start < len(letters) or link.waiting:
            if start < len(letters) and len(link.waiting) < _WINDOW // 2:
                start = self._send(link, letters, start)
            link.pump(0.05)
            if self._clock() >= deadline:
                raise PublishError(f"{self._where}: {len(link.waiting)} not confirmed in {self._options.timeout:g} s")

    def _send(self, link: Link, letters: Sequence[DeadLetter], start: int) -> int:
        """Writes some of the letters at once, no more than 4 MiB; returns the index of the next one."""
        frames: list[bytes] = []
        size = 0
        while start < len(letters) and len(link.waiting) < _WINDOW and size < _BYTES:
            frames.append(self._frame(letters[start], link.receipt()))
            size += len(frames[-1])
            start += 1
        link.write(b"".join(frames))
        return start

    def _frame(self, letter: DeadLetter, receipt: str) -> bytes:
        if letter.record.properties.get("text") and not letter.record.value and not self._warned_empty:
            self._warned_empty = True
            log.warning(
                "%s: a dead letter of an empty text: over STOMP a map, object or stream message comes so, and what was in it is "
                "not in the letter; transformation=jms-json makes maps and objects come as JSON; said once",
                self._where,
            )
        told, without = message(letter.record, letter.headers, self._options.stream)
        if without and not self._warned:
            self._warned = True
            left_out.warn(self._where, without, "as the broker takes 1000 of 10 KiB each")
        return encode("SEND", {**told, "receipt": receipt}, letter.record.value or b"")

    @property
    def _where(self) -> str:
        return f"{self._options.connection.name}:{self._options.stream}"

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def close(self) -> None:
        with self._lock:
            self._disconnect()
