"""One call of the user's function: from a batch to what it takes, and from however it ends to an outcome."""

from __future__ import annotations

import asyncio
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.decode import Shape, is_of_the_type
from worker.errors import Failed, Misused, Stopped, first_line
from worker.interface import Batch
from worker.lane import Lane
from worker.unrun import a, discard, unrun
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
                    self._check(result)
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
                result = await self._function(value)
                if result is not None:
                    self._check(result)
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
        self._has_run(result)
        if not isinstance(result, Mapping):
            raise Misused(f"handler {self.name} returned {a(result)}: return None or {{index: error}}")
        failed: dict[int, Exception] = {}
        for key, error in result.items():
            index = _index(key)
            if index is None or not 0 <= index < len(call.kept) or not isinstance(error, Exception):
                raise Misused(
                    f"handler {self.name} returned {{{key!r}: {a(error)}}} for a batch of {len(call.kept)}: "
                    "return {index: error}, an index from 0 and an exception"
                )
            failed[call.kept[index]] = error
        return Outcome(call.bad, failed)

    def _raised(self, call: Call, error: BaseException) -> Outcome:
        if isinstance(error, Failed):
            if not 0 <= error.index < len(call.kept):
                raise Misused(f"handler {self.name} raised Failed({error.index}) for a batch of {len(call.kept)}") from error
            index = call.kept[error.index]
            cause = error.__cause__
            return Outcome(call.bad, {index: cause if isinstance(cause, Exception) else error}, index + 1)
        return Outcome(call.bad, whole=self._failure(error))

    def _failure(self, error: BaseException) -> Exception:
        """Raises Stopped for what would fail each record, and for what is no failure of a call."""
        if isinstance(error, Misused):
            raise error
        if isinstance(error, Exception):
            if is_of_the_type(error):
                raise Misused(f"handler {self.name}: {first_line(error)}") from error
            return error
        if isinstance(error, asyncio.CancelledError):
            cancelled = RuntimeError("the handler was cancelled")
            cancelled.__cause__ = error
            return cancelled
        raise Stopped(f"handler {self.name} raised {a(error)} {error}".rstrip()) from error

    def _check(self, result: Any) -> None:
        """Of one record: anything may be returned that has run, and an error is as good returned as raised."""
        if isinstance(result, Exception):
            raise result
        self._has_run(result)

    def _has_run(self, result: Any) -> None:
        """A coroutine that nobody awaits is a record that nobody handled."""
        found = unrun(result)
        if found is None:
            return
        remedy = "await it" if inspect.isawaitable(found) else "run it to its end"
        if inspect.isawaitable(found) and not self.shape.is_async:
            remedy = "declare it `async def` and await it"
        discard(result)
        raise Misused(f"handler {self.name} returned {a(found)}, which has not ended: {remedy} before it returns")


def _index(key: Any) -> int | None:
    """Also of numpy; a bool is none."""
    try:
        return None if isinstance(key, bool) else operator.index(key)
    except TypeError:
        return None
