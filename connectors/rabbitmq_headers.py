"""Reads a message's headers as they are: pika cuts fractions off, and gives all up over a date or a number that it has not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any

from pika import spec
from pika.compat import long

_SIZE = Struct(">I")


def _date(seconds: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # publishers write milliseconds
        return seconds


def _decimal(places: int, digits: int) -> Decimal:
    return Decimal(digits).scaleb(-places)


_FIXED: dict[int, tuple[Struct, Callable[..., Any]]] = {
    ord(kind): (Struct(f">{shape}"), made)
    for kind, shape, made in (
        *(("t", "?", bool), ("T", "Q", _date), ("D", "Bi", _decimal), ("f", "f", float), ("d", "d", float)),
        *(("b", "b", int), ("B", "B", int), ("s", "h", int), ("U", "h", int), ("u", "H", int), ("I", "i", int), ("i", "I", int)),
        *(("l", "q", long), ("L", "q", long)),  # pika writes them as they were
    )
}


def properties(raw: bytes) -> spec.BasicProperties:
    """All of a message's properties, from the bytes of its header frame."""
    kinds = spec.BasicProperties
    flags, at = int.from_bytes(raw[:2], "big"), 2
    if not flags & kinds.FLAG_HEADERS:
        return kinds().decode(raw)
    for flag in (kinds.FLAG_CONTENT_TYPE, kinds.FLAG_CONTENT_ENCODING):  # they lie in front
        if flags & flag:
            at += 1 + raw[at]
    headers, end = _table(raw, at)
    found = kinds().decode((flags & ~kinds.FLAG_HEADERS).to_bytes(2, "big") + raw[2:at] + raw[end:])
    found.headers = headers
    return found


def _table(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
    """What begins at `at`, and where it ends."""
    found = {}
    end = at + 4 + _SIZE.unpack_from(raw, at)[0]
    at += 4
    while at < end:
        stop = at + 1 + raw[at]
        name = raw[at + 1 : stop].decode(errors="backslashreplace")
        found[name], at = _value(raw, stop)
    return found, end


def _value(raw: bytes, at: int) -> tuple[Any, int]:
    kind, at = raw[at], at + 1
    if kind in _FIXED:
        shape, made = _FIXED[kind]
        return made(*shape.unpack_from(raw, at)), at + shape.size
    if kind == ord("V"):
        return None, at
    if kind == ord("F"):
        return _table(raw, at)
    start = at + 4
    end = start + _SIZE.unpack_from(raw, at)[0]
    if kind == ord("A"):
        return _list(raw, start, end), end
    if kind == ord("x"):
        return raw[start:end], end
    if kind == ord("S"):
        return _text(raw[start:end]), end
    raise ValueError(f"a header of the unknown type {chr(kind)}")


def _list(raw: bytes, at: int, end: int) -> list[Any]:
    found = []
    while at < end:
        value, at = _value(raw, at)
        found.append(value)
    return found


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
