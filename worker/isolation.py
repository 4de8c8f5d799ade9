"""`isolation="process"`: the calls of a handler are made in processes of their own, which may crash, hang and be killed."""

from __future__ import annotations

import logging
import math
import pickle
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from worker.decode import Shape
from worker.errors import ConfigError, Stopped
from worker.interface import Batch, Partition
from worker.logs import configured
from worker.pipe import Pipe
from worker.plain import columns
from worker.settings import HandlerSettings
from worker.supervised import how_it_ended
from worker.watch import too_slow
from worker.work import FINE, Outcome

log = logging.getLogger("worker")

START = 60.0
"""Seconds for a process to import the app and enter its lifespan."""
LAST_WORDS = 1.0
"""Seconds."""


class Crashed(Exception):
    """The process died over a batch: with one record in it, that is the record that kills."""


class Plan(NamedTuple):
    """What a process has to know at first."""

    target: str
    handler: str
    ordered: bool
    logs: Mapping[str, Any]
    """How log lines are written."""


class Request(NamedTuple):
    """One call. `columns`: the values, or for a handler that sees records, what each consists of."""

    partition: Partition
    attempt: int
    columns: list[Any]
    ends: tuple[int | str, int | str]
    """The ids of the first and the last record, for log lines."""
    expired: Mapping[int, Exception]


class Reply(NamedTuple):
    outcome: Outcome | None
    stopped: str = ""
    """Why the handler is to be stopped, without an outcome."""


ALL_FINE = Reply(FINE)
"""Sent as nothing at all: it is what nearly every call returns."""


class Told(NamedTuple):
    """An error on its way between processes, which cannot be trusted to survive that."""

    name: str
    message: str
    traceback: str
    pickled: bytes | None


def isolation(settings: HandlerSettings, target: str | None, shape: Shape, ordered: bool) -> Isolation:
    """Raises ConfigError where calls cannot be made elsewhere."""
    path = f"handlers.{settings.name}.isolation = process"
    if shape.is_async:
        raise ConfigError(f"{path}: an async handler shares its event loop with others: declare it with def")
    if target is None:
        raise ConfigError(f"{path}: another process must find the app: start it with worker run MODULE:APP")
    return Isolation(Plan(target, settings.name, ordered, configured()), shape, settings.options.timeout)


class Child:
    """One process; it ends when this end of the pipe is closed, also by our own death."""

    def __init__(self, plan: Plan) -> None:
        try:
            self._pipe = self._start()
        except OSError as error:  # no process or file is left for it
            raise Stopped(f"the process of handler {plan.handler} could not be started: {error}") from error
        deadline = time.monotonic() + START
        try:
            self._pipe.send(pickle.dumps(plan), deadline)
            self._pipe.receive(deadline)
        except OSError:
            raise Stopped(f"the process of handler {plan.handler} did not start: {self.end()}") from None

    def _start(self) -> Pipe:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "worker.child", str(theirs.fileno())]
        with theirs:
            try:
                # In a session of its own: a terminal's Ctrl-C is the worker's, which drains.
                self._process = subprocess.Popen(
                    command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError:
                ours.close()
                raise
        return Pipe(ours, lambda: self.alive)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: Request, timeout: float | None) -> Reply | None:
        """None: it died over it; raises TimeoutError."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            self._pipe.send(pickle.dumps(request, 5), deadline)
            told = self._pipe.receive(deadline)
        except TimeoutError:
            self._process.send_signal(signal.SIGUSR1)  # it writes its stack to stderr, and ends
            self.close(LAST_WORDS)
            raise too_slow(timeout or 0.0) from None
        except OSError:
            return None
        reply = pickle.loads(told) if told else ALL_FINE
        assert isinstance(reply, Reply)
        return reply

    def end(self) -> str:
        """How it ended, or was ended: it may have closed the pipe and live on."""
        self.close(LAST_WORDS)
        return how_it_ended(self._process.returncode)

    def kill(self) -> None:
        """Over a call that nobody waits for any longer."""
        self._process.kill()

    def close(self, timeout: float) -> None:
        """Killed, if it does not end by then."""
        self._pipe.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Isolation:
    """The processes of one handler, as many as it has threads that call."""

    def __init__(self, plan: Plan, shape: Shape, timeout: float | None) -> None:
        self._plan = plan
        self._whole = shape.takes == "batch" or shape.records
        self._timeout = timeout
        self._idle: queue.LifoQueue[Child] = queue.LifoQueue()
        self._busy: set[Child] = set()

    def __call__(self, batch: Batch, expired: Mapping[int, Exception]) -> Outcome:
        """Raises `Stopped` as the handler would, or if no process can be started."""
        ends = batch.record(0).id, batch.record(len(batch) - 1).id
        request = Request(batch.partition, batch.attempt, columns(batch, whole=self._whole), ends, expired)
        child = self._child()
        self._busy.add(child)
        try:
            reply = child.call(request, self._timeout)
        except TimeoutError as error:
            log.error("%s: %s: %s: its process was killed", self._plan.handler, batch.partition, error)
            return Outcome(whole=error)
        finally:
            self._busy.discard(child)
        if reply is None:
            over = "one record" if len(batch) == 1 else f"{len(batch)} records"
            return Outcome(whole=Crashed(f"the handler's process {child.end()} over {over}"))
        self._idle.put(child)
        if reply.outcome is None:
            raise Stopped(reply.stopped)
        return unpacked(reply.outcome)

    def _child(self) -> Child:
        with suppress(queue.Empty):
            while True:
                child = self._idle.get_nowait()
                if child.alive:
                    return child
                child.close(0.0)  # it died while it had nothing to do, which is not this batch's fault
        return Child(self._plan)

    def close(self) -> None:
        """Lifespans end. What still calls was left behind: it may hold its interpreter's lock, and would never see our end."""
        for child in list(self._busy):
            child.kill()
        while not self._idle.empty():
            self._idle.get().close(10.0)


def packed(outcome: Outcome) -> Outcome:
    """With its errors ready for the way."""
    return _map(outcome, _pack)


def unpacked(outcome: Outcome) -> Outcome:
    return _map(outcome, _unpack)


def _map(outcome: Outcome, change: Any) -> Outcome:
    if not (outcome.bad or outcome.failed or outcome.whole is not None):
        return outcome
    return outcome._replace(
        bad={index: change(error) for index, error in outcome.bad.items()},
        failed={index: change(error) for index, error in outcome.failed.items()},
        whole=None if outcome.whole is None else change(outcome.whole),
    )


def _pack(error: Exception) -> Told:
    from traceback import format_exception

    from worker.errors import say

    name, _, message = say(error).partition(": ")
    pickled: bytes | None
    try:
        pickle.loads(pickled := pickle.dumps(error))
    except Exception:  # an error of the user's with an __init__ of its own
        pickled = None
    return Told(name, message, "".join(format_exception(error)), pickled)


def _unpack(told: Told) -> Exception:
    error: Exception = type(told.name, (Exception,), {})(told.message)
    if told.pickled is not None:
        with suppress(Exception):  # its class may not be importable here
            error = pickle.loads(told.pickled)
    error.add_note(f"in the handler's process:\n{told.traceback.rstrip()}")
    return error
