"""The user's generator around the run: pools are open before the first batch, and closed after the drain."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

from worker.errors import ConfigError
from worker.signature import called, is_generator, name_of

log = logging.getLogger("worker")

PATIENCE = 5.0
"""Seconds for the event loop to take a step."""


_HOW = "write a generator with one yield: @app.lifespan over `async def pools(): ...; yield; ...`"


def check_lifespan(function: Any) -> None:
    """ConfigError for what cannot be entered, as far as it can be seen before it is called."""
    name = name_of(function)
    if not callable(function) or inspect.isclass(function):
        raise ConfigError(f"lifespan {name} is no function: {_HOW}")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lifespan {name} is called without arguments: {error}; {_HOW}") from error
    wrapped = getattr(function, "__wrapped__", None)  # of @asynccontextmanager, or of any other decorator
    if is_generator(function) or (wrapped is not None and is_generator(wrapped)):
        return
    if inspect.isfunction(called(function)) and wrapped is None and name != "<lambda>":
        raise ConfigError(f"lifespan {name} has no yield: {_HOW}")


@contextmanager
def lifespan(function: Callable[[], Any], events: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[None]:
    """An async one runs on the loop of the async handlers, `events`, where their pools must be opened."""
    made = function()
    if hasattr(made, "__anext__"):
        made = asynccontextmanager(lambda generator=made: generator)()
    elif hasattr(made, "__next__"):
        made = contextmanager(lambda generator=made: generator)()
    if isinstance(made, AbstractContextManager):
        with made:
            yield
        return
    if not isinstance(made, AbstractAsyncContextManager):
        if inspect.iscoroutine(made):
            made.close()
        raise ConfigError(f"lifespan {name_of(function)} returned a {type(made).__name__}: {_HOW}")
    loop = events()
    asyncio.run_coroutine_threadsafe(_entered(made), loop).result()
    try:
        yield
    finally:
        if _goes_on(loop):
            asyncio.run_coroutine_threadsafe(_left(made), loop).result()


async def _entered(context: AbstractAsyncContextManager[Any]) -> None:
    await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[Any]) -> None:
    await context.__aexit__(None, None, None)


def _goes_on(loop: asyncio.AbstractEventLoop) -> bool:
    """A handler that blocks it for ever must not keep the process, which another one is to replace."""
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(PATIENCE)
        return True
    except TimeoutError:
        log.error("the event loop is blocked: the lifespan does not end")
        return False
