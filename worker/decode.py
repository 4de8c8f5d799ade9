"""From a handler's annotation to what it is called with. A value that does not fit becomes a failed record."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from worker.errors import ConfigError, Invalid, say
from worker.interface import Batch, Record

Values = Sequence[bytes | None]
Bad = dict[int, Exception]


@dataclass(frozen=True)
class Decode:
    """In `Annotated[T, Decode(function)]`: `function` makes the T from the value's bytes; what it raises fails that record."""

    function: Callable[[bytes], Any]


class Arguments(NamedTuple):
    """What the handler gets, the index in the batch of each, and what it does not get."""

    values: Sequence[Any]
    kept: Sequence[int]
    bad: Mapping[int, Exception]


@dataclass(frozen=True)
class Shape:
    """How a handler wants its records."""

    takes: Literal["batch", "list", "one"]
    records: bool
    """Whole `Record`s, not only their values."""
    decode: Callable[[Values], tuple[Sequence[Any], Bad]] | None
    """None: the bytes as they are."""
    is_async: bool

    @property
    def typed(self) -> bool:
        """A value can be refused before it reaches the handler."""
        return self.decode is not None

    def arguments(self, batch: Batch) -> Arguments:
        """For the shapes "list" and "one"."""
        everything = range(len(batch))
        if self.decode is None:
            return Arguments(list(batch) if self.records else batch.values(), everything, {})
        values, bad = self.decode(batch.values())
        kept: Sequence[int] = [i for i in everything if i not in bad] if bad else everything
        if bad:
            values = [values[i] for i in kept]
        if self.records:
            values = [batch.record(i)._replace(value=value) for i, value in zip(kept, values, strict=True)]
        return Arguments(values, kept, bad)


def shape(function: Callable[..., Any]) -> Shape:
    """Reads the annotation of a handler's one parameter; ConfigError if it cannot be served."""
    name = getattr(function, "__qualname__", repr(function))
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigError(f"handler {name} is a generator: it would never run; return instead of yield")
    annotation = _annotation(function, name)
    is_async = inspect.iscoroutinefunction(called)
    if annotation is inspect.Parameter.empty or (inspect.isclass(annotation) and issubclass(annotation, Batch)):
        return Shape("batch", False, None, is_async)
    takes: Literal["list", "one"] = "one"
    if annotation is list or get_origin(annotation) in (list, collections.abc.Sequence, collections.abc.Iterable):
        takes = "list"
        annotation = (get_args(annotation) or (bytes,))[0]
    records = annotation is Record or get_origin(annotation) is Record
    if records:
        annotation = (get_args(annotation) or (bytes,))[0]
    return Shape(takes, records, _decoder(annotation, name), is_async)


def _annotation(function: Callable[..., Any], name: str) -> Any:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return inspect.Parameter.empty
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not parameters or len(required) > 1 or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigError(f"handler {name} must take one argument: the batch, a list of values, or one value")
    try:
        hints = get_type_hints(function if inspect.isroutine(function) else type(function).__call__, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"handler {name}: its annotation cannot be read: {error}; define or import it at module level"
        ) from error
    return hints.get(parameters[0].name, inspect.Parameter.empty)


def _decoder(annotation: Any, name: str) -> Callable[[Values], tuple[Sequence[Any], Bad]] | None:
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    bare = [a for a in alternatives if a is not type(None)]
    if bare == [bytes]:
        return None
    if bare == [str]:
        return _one_by_one(lambda value: value.decode())
    if len(bare) == 1 and get_origin(bare[0]) is Annotated:
        for extra in get_args(bare[0])[1:]:
            if isinstance(extra, Decode):
                return _one_by_one(extra.function)
    return _from_json(annotation, name)


def _one_by_one(function: Callable[[bytes], Any]) -> Callable[[Values], tuple[Sequence[Any], Bad]]:
    def decode(values: Values) -> tuple[Sequence[Any], Bad]:
        decoded: list[Any] = []
        bad: Bad = {}
        for index, value in enumerate(values):
            try:
                decoded.append(None if value is None else function(value))
            except Exception as error:  # the user's function: whatever it raises fails this record only
                bad[index] = _invalid(error)
                decoded.append(None)
        return decoded, bad

    return decode


def _from_json(annotation: Any, name: str) -> Callable[[Values], tuple[Sequence[Any], Bad]]:
    from pydantic import Json, PydanticUserError, TypeAdapter

    try:
        # One call a batch. The values are never joined into one array: two invalid ones can merge into valid ones.
        many: TypeAdapter[list[Any]] = TypeAdapter(list[Json[annotation]])
        one: TypeAdapter[Any] = TypeAdapter(Json[annotation])
    except (PydanticUserError, TypeError) as error:
        raise ConfigError(f"handler {name}: pydantic cannot validate {annotation!r}: {str(error).splitlines()[0]}") from error

    apart = _one_by_one(one.validate_python)

    def decode(values: Values) -> tuple[Sequence[Any], Bad]:
        try:
            return many.validate_python(values), {}
        except Exception:  # an invalid value, a tombstone, or a validator of the user's that raises what it likes
            return apart(values)

    return decode


def _invalid(error: Exception) -> Invalid:
    """Says what is wrong where, and not with which value: values may be secret, messages go to logs and headers."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        invalid = Invalid("; ".join(": ".join([*filter(None, [".".join(map(str, p["loc"]))]), p["msg"]]) for p in problems))
    else:
        invalid = Invalid(say(error))
    invalid.__cause__ = error
    return invalid
