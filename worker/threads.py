"""Who turns the loop: the handler's threads between their batches, and the stand-in while a batch takes long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from worker.dispatch import Call, Dispatch
from worker.loop import Loop
from worker.work import Work

BUSY = 0.005
"""Seconds of a poll while anything is in flight: a Kafka client cannot be woken up."""
IDLE = 0.05
TICK = 0.015
"""Seconds between two looks of the stand-in."""
UNATTENDED = 0.03
"""Seconds without a turn after which the stand-in takes over. A fast handler never sees it: handing each batch to another
thread costs a third of the throughput."""


class EventLoop:
    """One asyncio loop in a thread of its own, for all async handlers and lifespans of the process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="worker-asyncio", daemon=True)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tasks of handlers that outlived their drain are left where they are: what they do counts for nothing."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
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
        name = loop.name
        self._threads = [self._thread(self._work, f"{name}-{n}") for n in range(1 if events else concurrency)]
        self._threads.append(self._thread(self._stand_in, f"{name}-stand-in"))

    def _thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        return threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> bool:
        """False: a handler is still at it, and was left behind."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # a bug of ours or of a connector: the process must not look healthy
            self._crashed(error)
        self._on_closed()

    def _crashed(self, error: BaseException) -> None:
        self.crash = error
        self._loop.closed = True
        self._on_closed()

    def _work(self) -> None:
        loop = self._loop
        while not loop.closed:
            work = loop.claim()
            if work is not None:
                self._run(work)
                continue
            with self._turning:
                if not loop.ready and not loop.closed:
                    loop.turn(IDLE if loop.idle else BUSY)

    def _run(self, work: Work) -> None:
        if self._events is None:
            self._loop.settle(work, self._dispatch(work))
            return
        call = self._dispatch.prepare(work)
        self._events.loop.call_soon_threadsafe(self._spawn, work, call)

    def _spawn(self, work: Work, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(self._run_async(work, call))
        self._tasks.add(task)  # asyncio itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _run_async(self, work: Work, call: Call) -> None:
        try:
            self._loop.settle(work, await self._dispatch.asynchronous(work, call))
        except BaseException as error:  # else its partition would wait for ever, and nobody would know
            self._crashed(error)

    def _stand_in(self) -> None:
        loop = self._loop
        while not loop.closed:
            time.sleep(TICK)
            while self._unattended():
                with self._turning:
                    if self._unattended(held=True):
                        loop.turn(BUSY)

    def _unattended(self, held: bool = False) -> bool:
        if self._loop.closed or (not held and self._turning.locked()):
            return False
        return time.monotonic() - self._loop.last_turn > UNATTENDED
