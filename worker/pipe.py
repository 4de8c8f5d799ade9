"""Whole messages between two processes, for which nobody waits longer than said, nor for a process that has ended."""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

LOOK = 0.5
"""Seconds between two looks whether the other process still lives: what it has started may hold its end of the pipe open."""
SIZE = struct.Struct("!Q")


class Pipe:
    """One end. Both ways raise TimeoutError at the deadline and ConnectionError when the other process has ended.

    Without `lives`, which says whether it has not, there is no deadline either, only the end of the pipe.
    """

    def __init__(self, end: socket.socket, lives: Callable[[], bool] | None = None) -> None:
        self._end = end
        self._lives = lives
        self.fileno = end.fileno
        self.close = end.close

    def send(self, message: bytes, deadline: float = math.inf) -> None:
        left = memoryview(SIZE.pack(len(message)) + message)
        while left:
            left = left[self._patiently(partial(self._end.send, left), deadline) :]

    def receive(self, deadline: float = math.inf) -> bytearray:
        (size,) = SIZE.unpack(self._exactly(SIZE.size, deadline))
        return self._exactly(size, deadline)

    def _exactly(self, size: int, deadline: float) -> bytearray:
        told = bytearray(size)
        left = memoryview(told)
        while left:
            count = self._patiently(partial(self._end.recv_into, left), deadline)
            if count == 0:
                raise ConnectionResetError("the other process has ended")
            left = left[count:]
        return told

    def _patiently(self, step: Callable[[], int], deadline: float) -> int:
        lives = True
        while True:
            self._end.settimeout(None if self._lives is None else max(0.0, min(LOOK, deadline - time.monotonic())))
            try:
                return step()
            except (TimeoutError, BlockingIOError):
                if not lives:  # and that was known before this step: what it had sent is read
                    raise ConnectionResetError("the other process has ended") from None
                lives = self._lives is None or self._lives()
                if lives and time.monotonic() >= deadline:
                    raise TimeoutError from None
