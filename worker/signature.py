"""What a function says of itself: its name, whether it is async, and the annotation of the parameter that gets the records.

How it is called is read from what is called; what the values are, from the function that gets them, through all that wraps it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from worker.errors import ConfigError, say

EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def name_of(function: Callable[..., Any]) -> str:
    """A handler's: a `partial` has that of its function, an instance that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def called(function: Any) -> Any:
    """The function that runs when `function` is called."""
    while isinstance(function, staticmethod | functools.partial):
        function = function.__func__ if isinstance(function, staticmethod) else function.func
    return function if inspect.isroutine(function) else type(function).__call__


def is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called(function))


def is_generator(function: Any) -> bool:
    """Calling it runs nothing."""
    run = called(function)
    return inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run)


def doubt(function: Any) -> str | None:
    """What a decorator hides: whether it runs what it wraps is seen only when it is called."""
    inner = _inner(function)
    if inner is None or is_async(function) or is_generator(function):
        return None
    kind = "a generator" if is_generator(inner) else "an async function" if is_async(inner) else None
    return kind and f"its decorator is a plain function around {kind}: unless it runs that to its end, the handler stops"


def takes_one_argument(function: Any) -> bool:
    """True also where nobody can know."""
    try:
        _signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that says nothing
        return True
    return True


def _signature(function: Any) -> inspect.Signature:
    if isinstance(function, staticmethod):
        function = function.__func__
    try:
        return inspect.signature(function, follow_wrapped=False)
    except ValueError:
        if not hasattr(function, "__wrapped__"):
            raise
        return _signature(function.__wrapped__)  # a compiled wrapper, as functools.cache makes, passes on what it gets


def annotation(function: Any, name: str) -> Any:
    """Of the one argument, EMPTY if there is none; ConfigError for what cannot be called so, or cannot be read."""
    if inspect.isclass(function) or not callable(function):
        kind = "class" if inspect.isclass(function) else type(function).__name__
        raise ConfigError(f"handler {name} is a {kind}, which is not called like a function: decorate a function")
    try:
        parameters = list(_signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"handler {name}: what it takes cannot be read: {error}; write a function around it") from error
    if not takes_one_argument(function):
        raise ConfigError(f"handler {name} must take one argument: the batch, a list of values, or one value")
    first = parameters[0]
    inner = _inner(function)
    hints = _hints(function if inner is None else inner, name)
    if first.name in hints:
        return hints[first.name]
    if inner is not None:
        return _of_inner(inner, first.name, hints, name)
    if first.kind is inspect.Parameter.VAR_POSITIONAL:
        raise ConfigError(
            f"handler {name} takes *{first.name}, which does not say what it wants: annotate it, "
            "and in a decorator write @functools.wraps(function)"
        )
    return EMPTY


def _inner(function: Any) -> Any:
    """The innermost function that `function` wraps, if any."""
    found = None
    while (function := getattr(function, "__wrapped__", None) or getattr(called(function), "__wrapped__", None)) is not None:
        found = function
    return found


def _of_inner(inner: Any, outer: str, hints: dict[str, Any], name: str) -> Any:
    """The parameter of the wrapped function that gets the records: its only one, besides the object of a method."""
    parameters = [p for p in inspect.signature(inner).parameters.values() if p.kind in _POSITIONAL and p.name != "self"]
    required = [p for p in parameters if p.default is EMPTY] or parameters[:1]
    if len(required) != 1:
        names = ", ".join(p.name for p in required) or "nothing"
        raise ConfigError(
            f"handler {name}: which parameter gets the records cannot be read: "
            f"its decorator takes {outer}, the function {names}; give both the same name"
        )
    return hints.get(required[0].name, EMPTY)


def _hints(function: Any, name: str) -> dict[str, Any]:
    run = called(function)
    if not getattr(run, "__annotations__", None):
        return {}
    try:
        return get_type_hints(run, include_extras=True)
    except Exception as error:  # annotations may be any code
        told = str(error) if isinstance(error, NameError) else say(error)
        raise ConfigError(
            f"handler {name}: its annotation cannot be read: {told}; define or import it at module level"
        ) from error
