"""STOMP 1.2 as bytes: frames are taken apart in runs, their headers only when somebody looks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Frame = tuple[bytes, bytes]
"""As it came: the command and the header lines; the body."""

_ESCAPES = {b"\\": b"\\\\", b"\r": b"\\r", b"\n": b"\\n", b":": b"\\c"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPES.items()}
_SPECIAL, _ESCAPED = re.compile(rb"[\\\r\n:]"), re.compile(rb"\\.", re.DOTALL)
_END_OF_HEAD = b"\n\n"
_END_OF_FRAME = b"\0\n"
_M = ord("M")
"""Of MESSAGE, and of no other frame that a broker sends."""
_CONTENT_LENGTH = b"\ncontent-length:"
_BEGIN = re.compile(rb"(?:MESSAGE|RECEIPT|ERROR)\n")
_NEXT_FRAME = re.compile(rb"[\r\n]*" + _BEGIN.pattern)

# As they stand in a head, for `raw`.
ACK, SUBSCRIPTION, RECEIPT_ID, PERSISTENT = b"\nack:", b"\nsubscription:", b"\nreceipt-id:", b"\npersistent:"


class Malformed(Exception):
    """What came is no STOMP."""


class Decoder:
    """Gives the whole frames of a stream of bytes that comes in pieces, in linear time however large they are.

    Texts come without a length, and may hold U+0000. Brokers end each frame with NUL and LF; from one whose first frame did, a
    text is whole only when the next frame has begun. If `doubtful`, the last one may be whole: ask the broker for a receipt.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = 0
        """Bytes without which no frame is whole; -1: an end."""
        self._end = b"\0"
        self._tail = b""
        """What came last: an end may be cut in two."""
        self._first = True
        self.doubtful = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        self._pieces.append(data)
        self._size += len(data)
        seam = self._tail + data
        self._tail = seam[-8:]
        if self._size < self._wanted or (self._wanted < 0 and not self._ends(seam)):
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        frames, at = self._take(buffer)
        rest = buffer[at:]
        self._pieces, self._size = ([rest], len(rest)) if rest else ([], 0)
        return frames

    def _ends(self, seam: bytes) -> bool:
        return bool(_BEGIN.search(seam)) if self.doubtful else self._end in seam

    def _take(self, buffer: bytes) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        at, end = 0, len(buffer)
        self._wanted, self.doubtful = 0, False
        while at < end:
            first = buffer[at]
            if first == 10 or first == 13:  # an end of line between frames is a heartbeat
                at += 1
                continue
            head = buffer.find(_END_OF_HEAD, at)
            if head < 0:
                break
            lines = buffer[at:head]
            length = lines.find(_CONTENT_LENGTH)
            if length >= 0:
                stop = head + 2 + _number(lines, length + len(_CONTENT_LENGTH))
                if stop >= end:
                    self._wanted = stop + 1 - at
                    break
                if buffer[stop]:
                    raise Malformed("a body is longer than its content-length")
            else:
                text = first == _M and self._end is _END_OF_FRAME
                stop = buffer.find(_END_OF_FRAME if text else b"\0", head + 2)
                if text and not buffer.startswith(b"MESSAGE\n", stop + 2):
                    stop = self._end_of_text(buffer, stop)
                if stop < 0:
                    self._wanted = -1
                    break
            frames.append((lines, buffer[head + 2 : stop]))
            at = stop + 1
            if self._first:
                self._first = False
                self._end = _END_OF_FRAME if buffer.startswith(b"\n", at) else b"\0"
        return frames, at

    def _end_of_text(self, buffer: bytes, stop: int) -> int:
        """`stop`: where it may be."""
        while stop >= 0 and not _NEXT_FRAME.match(buffer, stop + 2):
            self.doubtful = True
            stop = buffer.find(self._end, stop + 1)
        self.doubtful = self.doubtful and stop < 0
        return stop


def _number(lines: bytes, at: int) -> int:
    stop = lines.find(b"\n", at)
    digits = lines[at : stop if stop >= 0 else len(lines)]
    if not digits.isdigit():
        raise Malformed(f"content-length {digits!r}")
    return int(digits)


def command(head: bytes) -> bytes:
    return head.partition(b"\n")[0]


def raw(head: bytes, name: bytes) -> bytes | None:
    """The value of the first header that begins with `name`, a line's end and a colon around it; as it came."""
    at = head.find(name)
    if at < 0:
        return None
    start = at + len(name)
    stop = head.find(b"\n", start)
    return head[start : stop if stop >= 0 else len(head)]


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of the first header called `name`."""
    value = raw(head, b"\n" + name + b":")
    return None if value is None else unescape(value)


def headers(head: bytes) -> dict[str, str]:
    """All of them; of one that is repeated, the first."""
    found: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        found.setdefault(_text(name), _text(value))
    return found


def encode(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [escape(name.encode()) + b":" + escape(value.encode()) for name, value in headers.items()]
    return b"\n".join([command.encode(), *lines, b"", b""]) + body + b"\0"


def acks(ids: Iterable[bytes]) -> bytes:
    """One ACK frame each; ids as they came."""
    return b"".join([b"ACK\nid:" + one + b"\n\n\0" for one in ids])


def nacks(ids: Iterable[bytes]) -> bytes:
    return b"".join([b"NACK\nid:" + one + b"\n\n\0" for one in ids])


def escape(value: bytes) -> bytes:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], value)


def unescape(value: bytes) -> bytes:
    """An escape that there is not stays as it is."""
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[0], found[0]), value) if b"\\" in value else value


def _text(value: bytes) -> str:
    return unescape(value).decode(errors="replace")
