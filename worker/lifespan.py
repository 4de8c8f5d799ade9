"""The user's generator around the run: pools are open before the first batch, and closed after the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

log = logging.getLogger("worker")

PATIENCE = 5.0
"""Seconds for the event loop to take a step."""


@contextmanager
def lifespan(function: Callable[[], Any], events: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[None]:
    """An async one runs on the loop of the async handlers, `events`, where their pools must be opened."""
    made = function()
    if not hasattr(made, "__anext__"):
        with contextmanager(lambda: made)():
            yield
        return
    loop = events()
    context = asynccontextmanager(lambda: made)()
    asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
    try:
        yield
    finally:
        if _goes_on(loop):
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()


def _goes_on(loop: asyncio.AbstractEventLoop) -> bool:
    """A handler that blocks it for ever must not keep the process, which another one is to replace."""
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(PATIENCE)
        return True
    except TimeoutError:
        log.error("the event loop is blocked: the lifespan does not end")
        return False
