"""Runs the handler on a batch and turns whatever happened into a verdict."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker.call import Call, Caller
from worker.deadletter import DeadLetters
from worker.decode import Shape
from worker.errors import Expired, Retry, WorkerError, say
from worker.interface import Batch
from worker.lane import Work
from worker.logs import running
from worker.retry import Policy
from worker.watch import Watch, stack_of_task, too_slow
from worker.work import FINE, Outcome, Verdict

log = logging.getLogger("worker")


class Dispatch:
    """One handler: called with a work, it calls the function and decides. No exception of the function leaves it.

    `elsewhere` calls the function in another process, and then sees to the timeout itself.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        shape: Shape,
        policy: Policy,
        dead_letters: DeadLetters,
        *,
        elsewhere: Callable[[Batch, Mapping[int, Exception]], Outcome] | None = None,
        capture: Callable[[Batch, Outcome], None] | None = None,
        timeout: float | None = None,
        max_age: float | None = None,
        max_age_from: str = "record",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.shape = shape
        self.watch = Watch(timeout, clock) if timeout is not None and elsewhere is None else None
        """Of the calls that are on the way, if they may take only so long."""
        self._caller = Caller(name, function, shape, policy.ordered)
        self._elsewhere = elsewhere
        self._capture = capture
        self._policy = policy
        self._dead_letters = dead_letters
        self._max_age = max_age
        self._max_age_from = max_age_from
        self._clock = clock
        self._wall = wall
        self._blocking = ThreadPoolExecutor(thread_name_prefix=f"{name}-blocking")
        """For async handlers; in asyncio's own pool it would wait for whatever the handler does there."""

    def __call__(self, work: Work) -> Verdict | WorkerError | None:
        """On the handler's thread; for a function that is not async. None: it took too long, and `late` has decided."""
        outcome: Outcome | WorkerError
        try:
            outcome = contextvars.copy_context().run(self._run, work)
        except WorkerError as error:
            outcome = error
        if self.watch is not None and not self.watch.end(work):
            return None
        return outcome if isinstance(outcome, WorkerError) else self._decide(work, outcome)

    def publish(self, group: Sequence[tuple[Work, Verdict]]) -> list[tuple[Work, Verdict, WorkerError | None]]:
        """The letters of these; blocks until they are durable. What is refused together is tried alone: one letter that is too
        large must not keep others from ending."""
        try:
            self._dead_letters.publish(group)
        except WorkerError as error:
            if len(group) > 1 and getattr(error, "permanent", False):
                return [ended for one in group for ended in self.publish([one])]
            return [(work, verdict, error) for work, verdict in group]
        return [(work, verdict, None) for work, verdict in group]

    def late(self, work: Work) -> Verdict | WorkerError:
        """For a call that nobody waits for any longer."""
        assert self.watch is not None
        return self._decide(work, Outcome(whole=too_slow(self.watch.timeout)))

    def _decide(self, work: Work, outcome: Outcome) -> Verdict | WorkerError:
        if self._capture is not None:
            self._capture(work.batch, outcome)
        try:
            verdict = self._policy.decide(work, outcome)
            self._after(work, verdict)
            return verdict
        except WorkerError as error:
            return error

    async def asynchronous(self, work: Work, call: Call | WorkerError) -> Verdict | WorkerError:
        """In a task of its own."""
        if isinstance(call, WorkerError):
            return call
        running.set((self.name, work.batch))
        try:
            outcome = await self._awaited(work, call)
            if self._capture is not None and outcome != FINE:
                await self._on_a_thread(self._capture, work.batch, outcome)
            verdict = self._policy.decide(work, outcome)
            self._after(work, verdict)
            return verdict
        except WorkerError as error:
            return error

    async def _on_a_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        run = contextvars.copy_context().run
        await asyncio.get_running_loop().run_in_executor(self._blocking, run, function, *arguments)

    async def _awaited(self, work: Work, call: Call) -> Outcome:
        if self.watch is None:
            return await self._caller.asynchronous(call, work.lane)
        task = asyncio.ensure_future(self._caller.asynchronous(call, work.lane))
        self.watch.begin(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=self.watch.timeout)
            if task.cancelled():  # by itself, when it was about to return
                return Outcome(whole=RuntimeError("the handler was cancelled"))
            if done:
                return task.result()
            self.watch.report(self.name, work, stack_of_task(task))
            task.cancel()
            return Outcome(whole=too_slow(self.watch.timeout))
        finally:
            self.watch.end(work)

    def prepare(self, work: Work) -> Call | WorkerError:
        """For a function that is async, before `asynchronous`: decoding costs CPU, so never on the event loop."""
        try:
            return Call(self.shape, work.batch, self._expired(work))
        except WorkerError as error:
            return error

    def _expired(self, work: Work) -> Mapping[int, Exception]:
        if self._max_age is None:
            return {}
        error = Expired(f"older than max_age={self._max_age:g} s")
        if self._max_age_from == "arrival":
            return dict.fromkeys(range(len(work.batch)), error) if self._clock() - work.arrived > self._max_age else {}
        oldest = (self._wall() - self._max_age) * 1000
        return {i: error for i, stamp in enumerate(work.batch.timestamps()) if stamp is not None and stamp < oldest}

    def _run(self, work: Work) -> Outcome:
        running.set((self.name, work.batch))
        expired = self._expired(work)
        if self._elsewhere is not None:
            return self._elsewhere(work.batch, expired)
        if self.watch is not None:
            self.watch.begin(work)
        return self._caller(work.batch, expired, work.lane)

    def _after(self, work: Work, verdict: Verdict) -> None:
        if verdict.error is not None:
            self._tell(work, verdict, verdict.error)
        if not verdict.given_up:
            self._dead_letters.handled(len(verdict.finished))
        elif not work.lane.gone:  # else its new owner gives it up
            verdict.letters = self._dead_letters.give_up(work, verdict.given_up, len(verdict.finished))

    def _tell(self, work: Work, verdict: Verdict, error: Exception) -> None:
        again = sum(len(part.indices) for part in verdict.again)
        wait = max(part.wait for part in verdict.again)
        when = f"in {wait:.1f} s" if wait or not verdict.split else "at once"
        if verdict.split:
            when = f"in smaller batches {when}"
        level = logging.INFO if isinstance(error, Retry) else logging.WARNING
        log.log(
            level,
            "%s: %s: %d of %d records again %s, after %s: %s",
            *(self.name, work.batch.partition, again, len(work.batch), when, self._policy.tried(work.batch.attempt), say(error)),
            exc_info=error if level == logging.WARNING and work.batch.attempt == 1 else None,
        )
