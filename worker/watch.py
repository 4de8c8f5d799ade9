"""Calls that take too long: found, reported with their stack, and given up."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

from worker.lane import Work

log = logging.getLogger("worker")


class OnTheWay(NamedTuple):
    """A call, since when, and on which thread."""

    since: float
    thread: int


class Watch:
    """Of one handler. Whoever ends a call first, the one who makes it or the one who gives it up, decides what became of it."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self._clock = clock
        self._calls: dict[Work, OnTheWay] = {}

    def begin(self, work: Work) -> None:
        self._calls[work] = OnTheWay(self._clock(), threading.get_ident())

    def end(self, work: Work) -> OnTheWay | None:
        """None: it has been ended already."""
        return self._calls.pop(work, None)  # one step, also for threads

    def overdue(self, times: float = 1.0) -> list[Work]:
        """Those that are on the way for longer than so many timeouts."""
        if not self._calls:
            return []
        since = self._clock() - self.timeout * times
        return [work for work, call in list(self._calls.items()) if call.since < since]

    def report(self, name: str, work: Work, frames: Sequence[FrameType]) -> None:
        """`frames`: the outermost first."""
        stack = "".join(traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in frames)))
        log.error(
            "%s: %s: a call with %d records took longer than timeout=%g s and is given up; it is at\n%s",
            *(name, work.batch.partition, len(work.batch), self.timeout, stack.rstrip()),
        )


def stack_of(frame: FrameType | None) -> list[FrameType]:
    """The frames of a thread, the outermost first."""
    return [found for found, _ in traceback.walk_stack(frame)][::-1] if frame is not None else []


def stack_of_task(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames of what a task awaits, the outermost first; `Task.get_stack` knows only that one."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while inspect.iscoroutine(awaited) and awaited.cr_frame is not None:
        frames.append(awaited.cr_frame)
        awaited = awaited.cr_await
    return frames


def too_slow(timeout: float) -> TimeoutError:
    return TimeoutError(f"the call took longer than timeout={timeout:g} s")
