"""Runs the handler on a batch and turns whatever happened into a verdict."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.deadletter import DeadLetters
from worker.decode import Shape
from worker.errors import Expired, Failed, Retry, Stopped, WorkerError, say
from worker.interface import Batch
from worker.logs import running
from worker.retry import Policy
from worker.work import Outcome, Verdict, Work

log = logging.getLogger("worker")


class Call:
    """What the function is called with for one work, and which index in the batch each of its records has."""

    __slots__ = ("bad", "kept", "size", "values")

    def __init__(self, shape: Shape, batch: Batch, expired: Mapping[int, Exception]) -> None:
        self.size = len(batch)
        kept: Sequence[int] = range(self.size)
        if expired:
            kept = [i for i in kept if i not in expired]
            batch = batch.pick(kept)
        self.values: Any = batch
        self.bad = dict(expired)
        if shape.takes != "batch":
            arguments = shape.arguments(batch)
            self.values = arguments.values
            self.bad.update((kept[i], error) for i, error in arguments.bad.items())
            kept = [kept[i] for i in arguments.kept] if arguments.bad else kept
        self.kept = kept


class Dispatch:
    """One handler: called with a work, it calls the function and decides. No exception of the function leaves it."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        shape: Shape,
        policy: Policy,
        dead_letters: DeadLetters,
        *,
        max_age: float | None = None,
        max_age_from: str = "record",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.shape = shape
        self._function = function
        self._policy = policy
        self._dead_letters = dead_letters
        self._max_age = max_age
        self._max_age_from = max_age_from
        self._clock = clock
        self._wall = wall

    def __call__(self, work: Work) -> Verdict | WorkerError:
        """On the handler's thread; for a function that is not async."""
        try:
            verdict = self._policy.decide(work, contextvars.copy_context().run(self._run, work))
            self._after(work, verdict)
            return verdict
        except WorkerError as error:
            return error

    async def asynchronous(self, work: Work, call: Call) -> Verdict | WorkerError:
        """In a task of its own; dead letters are published on a thread, as that blocks."""
        running.set((self.name, work.batch))
        try:
            verdict = self._policy.decide(work, await self._run_async(call))
            if verdict.given_up:
                await asyncio.to_thread(self._after, work, verdict)
            else:
                self._after(work, verdict)
            return verdict
        except WorkerError as error:
            return error

    def prepare(self, work: Work) -> Call:
        """Decodes: costs CPU, so never on the event loop."""
        return Call(self.shape, work.batch, self._expired(work) if self._max_age is not None else {})

    def _expired(self, work: Work) -> Mapping[int, Exception]:
        assert self._max_age is not None
        error = Expired(f"older than max_age={self._max_age:g} s")
        if self._max_age_from == "arrival":
            return dict.fromkeys(range(len(work.batch)), error) if self._clock() - work.arrived > self._max_age else {}
        oldest = (self._wall() - self._max_age) * 1000
        return {i: error for i, stamp in enumerate(work.batch.timestamps()) if stamp is not None and stamp < oldest}

    def _run(self, work: Work) -> Outcome:
        running.set((self.name, work.batch))
        call = self.prepare(work)
        if not call.kept:
            return Outcome(call.bad)
        if self.shape.takes == "one":
            return self._run_each(call)
        try:
            return self._returned(call, self._function(call.values))
        except BaseException as error:
            return self._raised(call, error)

    def _run_each(self, call: Call) -> Outcome:
        failed: dict[int, Exception] = {}
        for position, value in enumerate(call.values):
            try:
                result = self._function(value)
                if result is not None:
                    self._no_awaitable(result)
            except BaseException as error:
                failed[call.kept[position]] = self._failure(error)
                if self._policy.ordered:
                    return Outcome(call.bad, failed, call.kept[position] + 1)
        return Outcome(call.bad, failed)

    async def _run_async(self, call: Call) -> Outcome:
        if not call.kept:
            return Outcome(call.bad)
        if self.shape.takes != "one":
            try:
                return self._returned(call, await self._function(call.values))
            except BaseException as error:
                return self._raised(call, error)
        failed: dict[int, Exception] = {}
        for position, value in enumerate(call.values):
            try:
                await self._function(value)
            except BaseException as error:
                failed[call.kept[position]] = self._failure(error)
                if self._policy.ordered:
                    return Outcome(call.bad, failed, call.kept[position] + 1)
        return Outcome(call.bad, failed)

    def _returned(self, call: Call, result: Any) -> Outcome:
        if result is None:
            return Outcome(call.bad)
        if not isinstance(result, Mapping):
            if inspect.iscoroutine(result):
                result.close()
            return Outcome(
                call.bad, whole=TypeError(f"handler {self.name} returned {_kind(result)}: return None or {{index: error}}")
            )
        failed: dict[int, Exception] = {}
        for index, error in result.items():
            if not isinstance(index, int) or not 0 <= index < len(call.kept) or not isinstance(error, Exception):
                what = f"{index!r}: {_kind(error)}"
                return Outcome(
                    call.bad,
                    whole=TypeError(
                        f"handler {self.name} returned {{{what}}} for a batch of {len(call.kept)}: index it and name an error"
                    ),
                )
            failed[call.kept[index]] = error
        return Outcome(call.bad, failed)

    def _raised(self, call: Call, error: BaseException) -> Outcome:
        if isinstance(error, Failed):
            if not 0 <= error.index < len(call.kept):
                wrong = TypeError(f"handler {self.name} raised Failed({error.index}) for a batch of {len(call.kept)}")
                return Outcome(call.bad, whole=wrong)
            index = call.kept[error.index]
            cause = error.__cause__
            return Outcome(call.bad, {index: cause if isinstance(cause, Exception) else error}, index + 1)
        return Outcome(call.bad, whole=self._failure(error))

    def _failure(self, error: BaseException) -> Exception:
        if isinstance(error, Exception):
            return error
        if isinstance(error, asyncio.CancelledError):
            cancelled = RuntimeError("the handler was cancelled")
            cancelled.__cause__ = error
            return cancelled
        raise Stopped(f"handler {self.name} raised {_kind(error)} {error}".rstrip()) from error

    def _no_awaitable(self, result: Any) -> None:
        """A coroutine that nobody awaits is a record that nobody handled."""
        if inspect.isawaitable(result) or inspect.isgenerator(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"handler {self.name} returned {_kind(result)}, which would never run: declare it `async def`")

    def _after(self, work: Work, verdict: Verdict) -> None:
        if verdict.error is not None:
            self._tell(work, verdict, verdict.error)
        if not verdict.given_up:
            self._dead_letters.handled(len(verdict.finished))
        elif not work.lane.gone:  # else its new owner gives it up
            self._dead_letters.give_up(work, verdict.given_up, len(verdict.finished))

    def _tell(self, work: Work, verdict: Verdict, error: Exception) -> None:
        again = sum(len(part.indices) for part in verdict.again)
        wait = max(part.wait for part in verdict.again)
        level = logging.INFO if isinstance(error, Retry) else logging.WARNING
        log.log(
            level,
            "%s: %s: %d of %d records again in %.1f s after attempt %d: %s",
            *(self.name, work.batch.partition, again, len(work.batch), wait, work.batch.attempt, say(error)),
            exc_info=error if level == logging.WARNING and work.batch.attempt == 1 else None,
        )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
