"""From a handler's annotation to what it is called with. A value that does not fit becomes a failed record."""

from __future__ import annotations

import inspect
import json
import types
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, Union, cast, get_args, get_origin

from worker import signature
from worker.errors import ConfigError, Invalid, Misused, count, first_line, say
from worker.interface import Batch, Record
from worker.unrun import a, discard

if TYPE_CHECKING:
    from pydantic import ValidationError

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
    name = str(getattr(function, "__qualname__", signature.name_of(function)))
    wanted = signature.annotation(function, name)
    if signature.is_generator(function):
        raise ConfigError(f"handler {name} is a generator: it would never run; return instead of yield")
    takes, records, decode = _wanted(wanted, name)
    return Shape(takes, records, decode, signature.is_async(function))


Decoder = Callable[[Values], tuple[Sequence[Any], Bad]]
_LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_STREAMS = (abc.Iterator, abc.Generator, abc.AsyncIterable, abc.AsyncIterator, abc.AsyncGenerator)


def _wanted(annotation: Any, name: str) -> tuple[Literal["batch", "list", "one"], bool, Decoder | None]:
    """What is called for: the batch, a list or one; whole records or values; and how these are made."""
    if annotation is signature.EMPTY:
        return "batch", False, None
    bare, extras = _peeled(annotation)
    if _is(bare, Batch):
        _only_notes(extras, annotation, name)
        return "batch", False, None
    takes: Literal["list", "one"] = "one"
    if not _decode_in(extras):
        if _kind(bare) in _STREAMS:
            raise _refused(name, annotation, "records come as a list: write list[...]")
        if _kind(bare) in _LISTS:
            _only_notes(extras, annotation, name)
            takes, annotation = "list", (get_args(bare) or (bytes,))[0]
            bare, extras = _peeled(annotation)
        elif any(_is(one, Batch) or _kind(one) in _LISTS for one in _members(bare)):
            raise _refused(name, annotation, "a list is several records and anything else is one: choose one of them")
    records = _is(bare, Record) and not _decode_in(extras)
    if records:
        _only_notes(extras, annotation, name)
        annotation = (get_args(bare) or (bytes,))[0]
    return takes, records, _decoder(annotation, name)


def _peeled(annotation: Any) -> tuple[Any, list[Any]]:
    """Without what leaves a type what it is: notes, a None beside it, another name. And the notes."""
    from pydantic import JsonValue

    extras: list[Any] = []
    while annotation is not JsonValue:  # any JSON; made of str and lists, it would seem to mean two things
        if get_origin(annotation) is Annotated:
            annotation, *notes = get_args(annotation)
            extras += notes
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__") and get_origin(annotation) is None:  # type Orders = list[Order]
            annotation = annotation.__value__
        elif hasattr(get_origin(annotation), "__value__"):
            annotation = get_origin(annotation).__value__[get_args(annotation)]
        elif len(members := _members(annotation)) == 1 and get_args(annotation) and members[0] is not annotation:
            [annotation] = members
        else:
            break
    return annotation, extras


def _members(annotation: Any) -> Sequence[Any]:
    """Of a union, without None; of anything else it itself."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return [one for one in get_args(annotation) if one is not type(None)]


def _kind(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _is(annotation: Any, wanted: type) -> bool:
    kind = _kind(annotation)
    return inspect.isclass(kind) and issubclass(kind, wanted)


def _decode_in(extras: Sequence[Any]) -> Decode | None:
    return next((extra for extra in extras if isinstance(extra, Decode)), None)


def _only_notes(extras: Sequence[Any], annotation: Any, name: str) -> None:
    """What pydantic checks is checked of a value, and there is none here."""
    theirs = ("pydantic", "pydantic_core", "annotated_types")
    if any(type(extra).__module__.partition(".")[0] in theirs and getattr(extra, "metadata", True) for extra in extras):
        raise _refused(name, annotation, "a batch and a record are not validated: write the constraint to the value's type")


def _refused(name: str, annotation: Any, why: str) -> ConfigError:
    return ConfigError(f"handler {name}: {_shown(annotation)}: {why}")


def _shown(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) and not get_args(annotation) else str(annotation)


def _decoder(annotation: Any, name: str) -> Decoder | None:
    bare, extras = _peeled(annotation)
    if (decode := _decode_in(extras)) is not None:
        return _by_the_user(_checked(decode.function, name), name)
    members = [_peeled(one)[0] for one in _members(bare)]
    if any(_is(one, Batch) or _is(one, Record) for one in members):
        raise _refused(name, annotation, "write Batch, Record[T] or list[Record[T]]")
    if any(one in (bytearray, memoryview) for one in members):
        raise _refused(name, annotation, "write bytes, which is the value as it is")
    if len(members) > 1 and any(one in (bytes, str) for one in members):
        raise _refused(
            name,
            annotation,
            "bytes and str are the value as it is and anything else is JSON: choose one of them, "
            "or write Annotated[T, Decode(function)]",
        )
    if bare in (bytes, str):
        check = _constraint(annotation, name) if any(not isinstance(extra, str) for extra in extras) else None
        if bare is bytes:
            return None if check is None else _one_by_one(check, name)
        return _one_by_one((lambda value: value.decode()) if check is None else (lambda value: check(value.decode())), name)
    return _from_json(annotation, name)


def _checked(function: Any, name: str) -> Callable[[bytes], Any]:
    """ConfigError for a Decode that cannot work whatever the value is."""
    if not callable(function) or not signature.takes_one_argument(function):
        raise ConfigError(f"handler {name}: Decode({signature.name_of(function)}) must be called with the value's bytes alone")
    if signature.is_async(function) or signature.is_generator(function):
        raise ConfigError(f"handler {name}: Decode({signature.name_of(function)}) must return the value: nobody awaits it")
    return cast(Callable[[bytes], Any], function)


def _one_by_one(function: Callable[[bytes], Any], name: str) -> Decoder:
    def decode(values: Values) -> tuple[Sequence[Any], Bad]:
        decoded: list[Any] = []
        bad: Bad = {}
        for index, value in enumerate(values):
            try:
                made = None if value is None else function(value)
            except Exception as error:  # the user's function: whatever it raises fails this record only
                if is_of_the_type(error):
                    raise Misused(f"handler {name}: pydantic cannot validate its type: {first_line(error)}") from error
                bad[index] = _invalid(error)
                made = None
            decoded.append(made)
        return decoded, bad

    return decode


def _by_the_user(function: Callable[[bytes], Any], name: str) -> Decoder:
    each = _one_by_one(function, name)

    def decode(values: Values) -> tuple[Sequence[Any], Bad]:
        decoded, bad = each(values)
        for made in filter(inspect.isawaitable, decoded):
            discard(list(decoded))
            raise Misused(f"handler {name}: its Decode returned {a(made)}, which nobody awaits")
        return decoded, bad

    return decode


def _constraint(annotation: Any, name: str) -> Callable[[Any], Any]:
    [adapter] = _adapters(name, annotation, annotation)
    return cast(Callable[[Any], Any], adapter.validate_python)


def _from_json(annotation: Any, name: str) -> Decoder:
    from pydantic import FailFast, Json

    # One call a batch. The values are never joined into one array: two invalid ones can merge into valid ones.
    many, one = _adapters(name, annotation, Annotated[list[Json[annotation]], FailFast()], Json[annotation])  # type: ignore[misc]
    apart = _one_by_one(one.validate_python, name)

    def decode(values: Values) -> tuple[Sequence[Any], Bad]:
        with suppress(Exception):  # an invalid value, a tombstone, or a validator of the user's that raises what it likes
            return many.validate_python(values), {}
        return apart(values)  # not while the error is there: it may hold a hundred megabytes

    return decode


def _adapters(name: str, annotation: Any, *wanted: Any) -> list[Any]:
    """ConfigError for a type that pydantic does not know, or cannot finish: it says that only with the first value."""
    from pydantic import TypeAdapter

    try:
        made: list[TypeAdapter[Any]] = [TypeAdapter(one) for one in wanted]
        for adapter in made:
            if not adapter.pydantic_complete:
                adapter.rebuild(raise_errors=True)
    except Exception as error:
        remedy = "; define or import it at module level, not only for type checkers" if isinstance(error, NameError) else ""
        raise _refused(name, annotation, f"pydantic cannot validate it: {first_line(error)}{remedy}") from error
    return made


def is_of_the_type(error: BaseException) -> bool:
    """A class that pydantic could not finish fails each value, whatever it is."""
    from pydantic import PydanticUndefinedAnnotation, PydanticUserError
    from pydantic_core import SchemaError

    return isinstance(error, PydanticUserError | PydanticUndefinedAnnotation | SchemaError)


def _invalid(error: Exception) -> Invalid:
    """Says what is wrong where, and not with which value: values may be secret, messages go to logs and headers."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):  # not kept as its cause: it holds the value, taken apart
        told = [": ".join([*filter(None, [_place(one["loc"])]), one["msg"]]) for one in _problems(error)]
        more = error.error_count() - len(told)
        return Invalid("; ".join(told) + (f"; and {count(more, 'problem')} more" if more else ""))
    invalid = Invalid(say(error))
    invalid.__cause__ = error
    return invalid


PROBLEMS = 20
"""So many of a value are named: half a megabyte of JSON can have hundreds of thousands."""
_PART = 50


def _problems(error: ValidationError) -> list[Any]:
    """The first ones. pydantic can only make all of them: as text they take a tenth of the memory."""
    options: dict[str, Any] = {"include_url": False, "include_input": False, "include_context": False}
    if error.error_count() <= PROBLEMS:
        return list(error.errors(**options))
    text, decoder, at = error.json(**options), json.JSONDecoder(), 1
    found: list[Any] = []
    while len(found) < PROBLEMS:
        one, at = decoder.raw_decode(text, at)
        found.append(one)
        at += 1  # the comma
    return found


def _place(loc: Sequence[int | str]) -> str:
    """Names of fields, and keys that the record chose."""
    return ".".join(part if len(part) <= _PART else f"{part[:_PART]}..." for part in map(str, loc))
