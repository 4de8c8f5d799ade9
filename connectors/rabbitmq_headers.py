"""A message's headers as they are: pika cuts fractions off, cannot write any, and gives all up over a date that it has not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


_KINDS = spec.BasicProperties


class Headers(dict[str, Any]):
    """A message's headers with their types, and each as the bytes that it came in, to be written as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, tuple[bytes, bytes]] = {}
        """Name, type and value."""


def properties(raw: bytes) -> spec.BasicProperties:
    """All of a message's properties, from the bytes of its header frame."""
    flags = int.from_bytes(raw[:2], "big")
    if not flags & _KINDS.FLAG_HEADERS:
        return _KINDS().decode(raw)
    at = _in_front_of_headers(raw)
    headers, end = _table(raw, at)
    found = _KINDS().decode((flags & ~_KINDS.FLAG_HEADERS).to_bytes(2, "big") + raw[2:at] + raw[end:])
    found.headers = headers
    return found


def with_headers(told: spec.BasicProperties, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What a message is sent with; `told` has no headers, `fields` are names, and types and values as `field` writes them.

    ValueError: a name is too long.
    """
    raw: bytes = b"".join(told.encode())
    table = b"".join([bytes([len(name)]) + name + value for name, value in fields])
    flags, at = int.from_bytes(raw[:2], "big"), _in_front_of_headers(raw)
    return int(flags | _KINDS.FLAG_HEADERS).to_bytes(2, "big") + raw[2:at] + _SIZE.pack(len(table)) + table + raw[at:]


def field(value: bytes | None) -> bytes:
    """A header's type and value: text where it is text, as consoles and other clients show that."""
    if value is None:
        return b"V"
    try:
        value.decode()
    except UnicodeDecodeError:
        return b"x" + _SIZE.pack(len(value)) + value
    return b"S" + _SIZE.pack(len(value)) + value


def _in_front_of_headers(raw: bytes) -> int:
    flags, at = int.from_bytes(raw[:2], "big"), 2
    for flag in (_KINDS.FLAG_CONTENT_TYPE, _KINDS.FLAG_CONTENT_ENCODING):
        if flags & flag:
            at += 1 + raw[at]
    return at


def _table(raw: bytes, at: int) -> tuple[Headers, int]:
    """What begins at `at`, and where it ends."""
    found = Headers()
    end = at + 4 + _SIZE.unpack_from(raw, at)[0]
    at += 4
    while at < end:
        stop = at + 1 + raw[at]
        name = raw[at + 1 : stop]
        shown = name.decode(errors="backslashreplace")
        found[shown], at = _value(raw, stop)
        found.fields[shown] = name, raw[stop:at]
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
