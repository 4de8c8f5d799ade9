"""Who turns the loop: the handler's threads between their batches, and the stand-in while a batch takes long. Other threads
publish dead letters."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from worker.call import Call
from worker.dispatch import Dispatch
from worker.errors import Stuck, WorkerError
from worker.lane import Work
from worker.loop import BUSY, Loop
from worker.watch import stack_of

IDLE = 0.05
TICK = 0.015
"""Seconds between two looks of the stand-in."""
UNATTENDED = 0.03
"""Seconds without a turn after which the stand-in takes over. A fast handler never sees it: handing each batch to another
thread costs a third of the throughput."""
PUBLISHERS = 2
"""Threads for dead letters: those of some partitions are collected while those of others are on their way. Four were slower."""
STUCK = 50
"""Threads whose calls took too long and have not returned since; with one more, only another process helps. To find the one
record that hangs among 500 takes ten tries and nine halvings."""


class EventLoop:
    """One asyncio loop in a thread of its own, for all async handlers and lifespans of the process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._main, name="worker-asyncio", daemon=True)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Tasks of handlers that outlived their drain are left where they are: what they do counts for nothing."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(1.0)
        if not self.thread.is_alive():
            self.loop.close()


class Threads:
    """The threads of one handler. With `concurrency` 1 the same thread runs every call of it."""

    def __init__(
        self, loop: Loop, dispatch: Dispatch, *, concurrency: int, events: EventLoop | None, on_closed: Callable[[], None]
    ) -> None:
        self.crash: BaseException | None = None
        self._loop = loop
        self._dispatch = dispatch
        self._events = events
        self._on_closed = on_closed
        self._turning = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stuck = 0
        name = loop.name
        self._threads = [self._thread(self._work, f"{name}-{n}") for n in range(1 if events else concurrency)]
        self._threads.append(self._thread(self._stand_in, f"{name}-stand-in"))
        self._threads += [self._thread(self._publish, f"{name}-letters-{n}") for n in range(PUBLISHERS)]

    def _thread(self, target: Callable[..., None], name: str, *arguments: Work) -> threading.Thread:
        return threading.Thread(target=self._guard, args=(target, *arguments), name=name, daemon=True)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> bool:
        """False: a call of the handler is still on the way, and was left behind."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while self._tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        return not (any(thread.is_alive() for thread in self._threads) or self._tasks or self._stuck)

    def _guard(self, target: Callable[..., None], *arguments: Work) -> None:
        try:
            target(*arguments)
        except BaseException as error:  # a bug of ours or of a connector: the process must not look healthy
            self._crashed(error)
        self._on_closed()

    def _crashed(self, error: BaseException) -> None:
        self.crash = error
        self._loop.closed = True
        self._loop.outbox.close()
        self._on_closed()

    def _work(self) -> None:
        loop = self._loop
        while not loop.closed:
            work = loop.assignment.claim() if loop.ready else None
            if work is not None:
                if not self._run(work):
                    return
                continue
            with self._turning:
                if not loop.ready and not loop.closed:
                    loop.turn(IDLE if loop.idle else BUSY)

    def _run(self, work: Work) -> bool:
        """False: it took so long that another thread has taken this one's place."""
        if self._events is None:
            result = self._dispatch(work)
            if result is None:
                self._stuck -= 1
                return False
            self._loop.settle(work, result)
        else:
            call = self._dispatch.prepare(work)
            self._events.loop.call_soon_threadsafe(self._spawn, work, call)
        return True

    def _spawn(self, work: Work, call: Call | WorkerError) -> None:
        task = asyncio.get_running_loop().create_task(self._run_async(work, call))
        self._tasks.add(task)  # asyncio itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _run_async(self, work: Work, call: Call | WorkerError) -> None:
        try:
            self._loop.settle(work, await self._dispatch.asynchronous(work, call))
        except BaseException as error:  # else its partition would wait for ever, and nobody would know
            self._crashed(error)

    def _publish(self) -> None:
        loop = self._loop
        while not loop.closed:
            if group := loop.outbox.take(1.0):
                loop.published(self._dispatch.publish(group))

    def _stand_in(self) -> None:
        loop = self._loop
        while not loop.closed:
            time.sleep(TICK)
            self._look_for_stuck()
            while self._unattended():
                self._look_for_stuck()
                with self._turning:
                    if self._unattended(held=True):
                        loop.turn(BUSY)

    def _unattended(self, held: bool = False) -> bool:
        if self._loop.closed or (not held and self._turning.locked()):
            return False
        return time.monotonic() - self._loop.last_turn > UNATTENDED

    # Calls that take too long

    def _look_for_stuck(self) -> None:
        watch = self._dispatch.watch
        if watch is None:
            return
        for work in watch.overdue(1.0 if self._events is None else 2.0):  # async ones end themselves, unless their loop is stuck
            if (call := watch.end(work)) is not None:
                watch.report(self._loop.name, work, stack_of(sys._current_frames().get(call.thread)))
                self._replace(work, call.thread)

    def _replace(self, work: Work, thread: int) -> None:
        """Another thread decides about the batch, and takes the place of the one that is stuck."""
        name = self._loop.name
        if self._events is not None:
            self._loop.settle(
                work, Stuck(f"handler {name} blocks the event loop: nothing async goes on; start the process again")
            )
            return
        self._stuck += 1
        if self._stuck > STUCK:
            told = f"{self._stuck} calls of handler {name} never returned: start the process again, as --processes does by itself"
            self._loop.settle(work, Stuck(told))
            return
        self._threads = [one for one in self._threads if one.ident != thread]
        replacement = self._thread(self._go_on, f"{name}-again", work)
        self._threads.append(replacement)
        replacement.start()

    def _go_on(self, work: Work) -> None:
        self._loop.settle(work, self._dispatch.late(work))
        self._work()
