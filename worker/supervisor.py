"""`--processes N`: starts the processes, starts crashed ones again, and never those that stopped for a reason."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from worker.errors import WorkerError
from worker.retry import Backoff
from worker.supervised import FLOODED, INDEX, PARENT_FD, REASON_FD, SET, how_it_ended, stopping_signals

log = logging.getLogger("worker")

FINAL = (2, 3, 4)
"""Settings, a broker's refusal, dead letters: the next process would end in the same way."""
HEALTHY = 60.0
"""Seconds after which a crash counts as the first one again."""
RESTART = Backoff(first=0.5, limit=30.0)


@dataclass
class Restarts:
    """What to do about one process that ended. Time is an argument."""

    crashes: int = 0
    started: float = 0.0

    def after(self, code: int, reason: bool, now: float) -> float | None:
        """Seconds until it is started again; None: never."""
        if code == 0 or code in FINAL or reason:
            return None
        self.crashes = 1 if now - self.started >= HEALTHY else self.crashes + 1
        return RESTART(self.crashes)


class Child:
    """One process, started by exec: a forked client library has no threads."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], index: int, parent_fd: int) -> None:
        self._command = command
        self._environ = environ
        self._index = index
        self._parent_fd = parent_fd
        self.restarts = Restarts()
        self.ended = False
        self._flooded: set[str] = set()
        self.start()

    def start(self) -> None:
        """Raises OSError where the system has no process or file left."""
        self._reason, write = os.pipe()
        os.set_blocking(self._reason, False)  # a program that it has started may live on with the other end
        os.set_blocking(write, False)  # what it says is read when it ends
        environ = {**self._environ, REASON_FD: str(write), PARENT_FD: str(self._parent_fd), INDEX: str(self._index)}
        environ[FLOODED] = " ".join(sorted(self._flooded))
        # In a session of its own: a terminal's Ctrl-C would reach it twice, and the second does not wait for the drain.
        try:
            self.process = subprocess.Popen(self._command, env=environ, pass_fds=(write, self._parent_fd), start_new_session=True)
        except OSError:
            os.close(self._reason)
            raise
        finally:
            os.close(write)
        self.restarts.started = time.monotonic()

    def had_a_reason(self) -> bool:
        """Also remembers what else it said."""
        words = [line.split() for line in _written(self._reason).decode().splitlines()]
        for told, *handler in words:
            if told == "flooded":
                self._flooded.update(handler)
            elif told == "trusted":
                self._flooded.difference_update(handler)
        return ["stopped"] in words

    def __str__(self) -> str:
        return f"process {self._index} (pid {self.process.pid})"


def _written(pipe: int) -> bytes:
    """What is in a pipe, which is closed."""
    told = b""
    with suppress(BlockingIOError):
        while more := os.read(pipe, 65_536):
            told += more
    os.close(pipe)
    return told


class Supervisor:
    """Waits for signals and for children, on the main thread."""

    def __init__(self, command: Sequence[str], processes: int, environ: Mapping[str, str]) -> None:
        """Starts them. WorkerError if the system has no room for all of them."""
        self._events: queue.SimpleQueue[int | Child] = queue.SimpleQueue()
        """Signals and processes that ended; a queue, as a signal handler may put into one."""
        self._code = 0
        self._stopping = False
        self._due: dict[Child, float] = {}
        read, self._alive = os.pipe()  # nobody ever writes: the children see it close
        self.children: list[Child] = []
        try:
            for index in range(processes):
                self.children.append(Child(command, environ, index, read))
                self._watch(self.children[-1])
        except OSError as error:
            os.close(self._alive)  # those that were started drain
            raise WorkerError(
                f"cannot start {processes} processes: {error}; lower --processes or raise the system's limit"
            ) from error

    def run(self) -> int:
        while not all(child.ended for child in self.children):
            event = self._next()
            if isinstance(event, Child):
                self._ended(event)
            elif event is not None:
                self._stop(event)
            self._start_due()
        return self._code

    def signalled(self, number: int, frame: FrameType | None) -> None:
        self._events.put(number)

    def _next(self) -> int | Child | None:
        wait = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else 3600.0
        try:
            return self._events.get(timeout=wait)
        except queue.Empty:
            return None

    def _watch(self, child: Child) -> None:
        """Ends it and raises OSError where the system has no thread left."""

        def wait() -> None:
            child.process.wait()
            self._events.put(child)

        try:
            threading.Thread(target=wait, daemon=True).start()
        except RuntimeError as error:
            child.process.kill()
            child.process.wait()
            child.had_a_reason()
            raise OSError(str(error)) from error

    def _ended(self, child: Child) -> None:
        code = child.process.returncode
        reason = child.had_a_reason()
        how = how_it_ended(code)
        pause = child.restarts.after(code, reason, time.monotonic())
        if self._stopping or pause is None:
            child.ended = True
            if code and self._code == 0:
                self._code = max(1, code)
            if code > 0 and not self._stopping:
                log.error("%s %s and is not started again: stopping the others", child, how)
                self._stop(signal.SIGTERM)
            return
        log.warning("%s %s; starting it again in %.1f s", child, how, pause)
        self._due[child] = time.monotonic() + pause

    def _start_due(self) -> None:
        for child, due in list(self._due.items()):
            if due <= time.monotonic():
                del self._due[child]
                self._start_again(child)

    def _start_again(self, child: Child) -> None:
        try:
            child.start()
            self._watch(child)
        except OSError as error:  # the others go on: what is short now may be there again
            child.restarts.crashes += 1
            pause = RESTART(child.restarts.crashes)
            log.error("%s cannot be started again: %s; trying again in %.1f s", child, error, pause)
            self._due[child] = time.monotonic() + pause

    def _stop(self, number: int) -> None:
        self._stopping = True
        for child in self._due:
            child.ended = True
        self._due.clear()
        for child in self.children:
            if child.process.poll() is None:
                child.process.send_signal(number)


def supervise(arguments: Sequence[str], processes: int, *, settings: Sequence[str] = ()) -> int:
    """Runs `worker` with `arguments` in so many processes until they end; returns the exit code. WorkerError if the system has no
    room for them.

    `settings` are those of `--set`; they travel in the environment, as a command line shows secrets to everybody.
    """
    environ = {**os.environ, SET: json.dumps(list(settings))}
    supervisor = Supervisor([sys.executable, "-m", "worker", *arguments], processes, environ)
    for number in stopping_signals():
        signal.signal(number, supervisor.signalled)
    return supervisor.run()
