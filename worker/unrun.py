"""What a call returned that has not run, or not ended: a record is not finished before what its handler began for it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
import types
from collections.abc import Mapping
from typing import Any

_LAZY = (
    types.GeneratorType,
    types.AsyncGeneratorType,
    types.FunctionType,
    types.MethodType,
    functools.partial,
    map,
    filter,
    zip,
    enumerate,
    concurrent.futures.Future,
    threading.Thread,
)
_MODULES = ("itertools", "multiprocessing.pool", "multiprocessing.context", "multiprocessing.process")
"""Whose objects are of the same kind: lazy, or still at it."""


def unrun(result: Any) -> Any:
    """`result`, or what in it, has not run yet; None: nothing. Iterators as such are not meant: a cursor is one, and has run."""
    if _is_unrun(result):
        return result
    if isinstance(result, list | tuple | set | frozenset):
        return next(filter(_is_unrun, result), None)
    if isinstance(result, Mapping):
        return next(filter(_is_unrun, result.values()), None)
    return None


def _is_unrun(one: Any) -> bool:
    lazy = inspect.isawaitable(one) or isinstance(one, _LAZY) or type(one).__module__ in _MODULES
    return lazy and not _has_succeeded(one)


def _has_succeeded(one: Any) -> bool:
    """What a handler has waited for. One that failed was not looked at: its record would be finished in spite of that."""
    if isinstance(one, concurrent.futures.Future | asyncio.Future):
        return one.done() and not one.cancelled() and one.exception() is None
    return isinstance(one, threading.Thread) and one.ident is not None and not one.is_alive()


def discard(result: Any) -> None:
    """Coroutines complain when nobody awaits them: whoever sees them here says so better."""
    inside = result if isinstance(result, list | tuple | set | frozenset) else [result]
    for one in result.values() if isinstance(result, Mapping) else inside:
        if inspect.iscoroutine(one):
            one.close()


def a(value: object) -> str:
    """`a list`, `an async_generator`."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
