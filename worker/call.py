"""One call of the user's function: from a batch to what it takes, and from however it ends to an outcome."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.decode import Shape
from worker.errors import Failed, Stopped
from worker.interface import Batch
from worker.lane import Lane
from worker.work import FINE, Outcome


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


class Caller:
    """Calls the function of one handler. No `Exception` of the function leaves it; raises `Stopped` for its other ends."""

    def __init__(self, name: str, function: Callable[..., Any], shape: Shape, ordered: bool) -> None:
        self.name = name
        self.shape = shape
        self._function = function
        self._ordered = ordered
        """One record at a time: what comes behind one that fails is left untouched."""

    def __call__(self, batch: Batch, expired: Mapping[int, Exception], lane: Lane | None = None) -> Outcome:
        """For a function that is not async. `lane`: where the batch is from, if that may go meanwhile."""
        call = Call(self.shape, batch, expired)
        if not call.kept:
            return Outcome(call.bad)
        if self.shape.takes == "one":
            return self._run_each(call, lane)
        try:
            return self._returned(call, self._function(call.values))
        except BaseException as error:
            return self._raised(call, error)

    def _run_each(self, call: Call, lane: Lane | None) -> Outcome:
        failed: dict[int, Exception] = {}
        for position, value in enumerate(call.values):
            if lane is not None and lane.closing:
                return Outcome(call.bad, failed, call.kept[position])
            try:
                result = self._function(value)
                if result is not None:
                    self._no_awaitable(result)
            except BaseException as error:
                failed[call.kept[position]] = self._failure(error)
                if self._ordered:
                    return Outcome(call.bad, failed, call.kept[position] + 1)
        return Outcome(call.bad, failed)

    async def asynchronous(self, call: Call, lane: Lane | None = None) -> Outcome:
        if not call.kept:
            return Outcome(call.bad)
        if self.shape.takes != "one":
            try:
                return self._returned(call, await self._function(call.values))
            except GeneratorExit:  # its event loop is gone
                raise
            except BaseException as error:
                return self._raised(call, error)
        failed: dict[int, Exception] = {}
        for position, value in enumerate(call.values):
            if lane is not None and lane.closing:
                return Outcome(call.bad, failed, call.kept[position])
            try:
                await self._function(value)
            except GeneratorExit:  # its event loop is gone
                raise
            except BaseException as error:
                failed[call.kept[position]] = self._failure(error)
                if self._ordered:
                    return Outcome(call.bad, failed, call.kept[position] + 1)
        return Outcome(call.bad, failed)

    def _returned(self, call: Call, result: Any) -> Outcome:
        if result is None:
            return Outcome(call.bad) if call.bad else FINE
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


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
