"""The user's generator around the run: pools are open before the first batch, and closed after the drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any


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
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()
