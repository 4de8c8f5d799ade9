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
_CONTENT_LENGTH = b"\ncontent-length:"
_COMMANDS = (b"MESSAGE\n", b"RECEIPT\n", b"ERROR\n")
_LAST_ERROR = re.compile(rb"(?:\0|\A)[\r\n]*(ERROR\n[^\0]*)")

HEAD = 1 << 20
"""Bytes that are kept of a head."""
LINE = 1 << 13
"""Bytes that are kept of a header in a head that is longer."""
CUT = b"undecodable:headers of more than 1 MiB were cut"
_NEEDED = re.compile(
    rb"(?:ack|subscription|message-id|destination|persistent|redelivered|content-length|timestamp|priority|expires"
    rb"|correlation-id|type|reply-to|content-type|JMSXGroupID|dead_letter_\w+|undecodable):"
)
"""What a message is handled and settled by."""
MOST = 100 << 20
"""The default limit for a frame, in bytes: the same as ActiveMQ Classic's own."""

# As they stand in a head, for `raw`.
ACK, SUBSCRIPTION, RECEIPT_ID, PERSISTENT = b"\nack:", b"\nsubscription:", b"\nreceipt-id:", b"\npersistent:"


class Malformed(Exception):
    """What came is no STOMP."""


class Decoder:
    """Gives the whole frames of a stream of bytes that comes in pieces, in linear time however large they are.

    Texts come without a length and may hold U+0000, and `content-length` may be a property that a producer gave to a text, as
    Classic shows its properties as headers. So nothing in a body ends it: what does is a frame that carries `secret`, which this
    side has put into the ids of its subscriptions and receipts and nobody else knows. If `doubtful`, the last message may be
    whole: ask the broker for a receipt, whose frame shows it.
    """

    def __init__(self, secret: bytes, most: int = MOST) -> None:
        self.doubtful = False
        self.dropped = b""
        """What was of no frame: written by a producer behind the length that it claimed, or an ERROR that ended nothing."""
        self._secret = secret
        self._marks = {b"M": SUBSCRIPTION + secret, b"R": RECEIPT_ID + secret, b"E": RECEIPT_ID + secret}
        self._most = most
        self._pieces: list[bytes] = []
        self._size = self._shed = 0
        self._wanted = 0
        """Bytes that would make the first frame whole; 0: nobody knows."""
        self._until = b""
        """What has to come before the first frame can be whole."""
        self._tail = b""
        """What came last: what is waited for may be cut in two."""
        self._behind_message = False
        """Whether what comes next lies where a producer may have written it."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`; Malformed if one is longer than `most`."""
        self._pieces.append(data)
        self._size += len(data)
        seam = self._tail + data
        self._tail = seam[-len(self._secret) - 1 :]
        if self._until and not self._may_end(seam):
            self.doubtful = self.doubtful or (self._until == self._secret and not self._wanted and b"\0" in data)
            self._check()
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        frames, at = self._take(buffer)
        rest = buffer[at:]
        if self._until == _END_OF_HEAD and len(rest) > HEAD:
            self._shed += len(rest)
            rest = _shortened(rest)
        self._pieces, self._size = ([rest], len(rest)) if rest else ([], 0)
        self._check()
        return frames

    def _may_end(self, seam: bytes) -> bool:
        if self._until in seam or 0 < self._wanted <= self._size:
            return True
        return self._until == _END_OF_HEAD and self._size > 2 * HEAD

    def _check(self) -> None:
        if self._size + self._shed > self._most + 2 * HEAD:
            raise Malformed(f"a frame of more than {self._most:,} bytes: max_frame_size= allows more")

    @property
    def pending(self) -> bool:
        """A frame has begun that is not whole."""
        return self._size > 0

    def last_words(self) -> bytes:
        """At the end of the connection: the head of an ERROR behind a message, which a producer may have written into it."""
        found = _LAST_ERROR.findall(b"".join(self._pieces)[-HEAD:])
        return found[-1].partition(_END_OF_HEAD)[0] if found else b""

    def _take(self, buffer: bytes) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        at, end = 0, len(buffer)
        self._wanted, self._until, self.doubtful = 0, b"", False
        while True:
            at = _skip_ends_of_lines(buffer, at)  # between frames they are heartbeats
            if at == end:
                return frames, at
            head = buffer.find(_END_OF_HEAD, at)
            if head < 0:
                self._until = _END_OF_HEAD
                return frames, at
            if self._behind_message and not self._is_ours(buffer, at, head):
                found = self._next(buffer, at)
                if found == at:  # its own head is broken: a property's name holds an end of line
                    found = self._next(buffer, at + 1)
                if found < 0:  # an ERROR counts when the connection then ends
                    self._until, self.doubtful = self._secret, True
                    return frames, at
                self.dropped = buffer[at : min(found, at + 500)]
                at = found
                continue
            at, head = self._run(buffer, at, head, frames)
            stop, next_at = self._end(buffer, at, head)
            if stop < 0:
                return frames, at
            frames.append((buffer[at:head], buffer[head + 2 : stop]))
            self._shed = 0
            self._behind_message = buffer.startswith(b"MESSAGE", at)
            at = next_at

    def _run(self, buffer: bytes, at: int, head: int, frames: list[Frame]) -> tuple[int, int]:
        """Takes messages that lie one behind the other and have nothing odd; returns where the first other frame is and its head
        ends. All of this could be left to `_is_ours` and `_end`, which take three times as long."""
        find, mark, append = buffer.find, self._marks[b"M"], frames.append
        while buffer.startswith(b"MESSAGE\n", at):
            told = find(_CONTENT_LENGTH, at, head)
            if told < 0:
                stop = find(b"\0", head + 2)
            else:
                length = _length(buffer, told, head)
                stop = -1 if length is None else head + 2 + length
            if stop < 0 or not buffer.startswith(b"\0\nMESSAGE\n", stop):
                break
            following = find(_END_OF_HEAD, stop + 2)
            if following < 0 or find(mark, stop + 2, following) < 0 or find(b"\0", stop + 2, following) >= 0:
                break
            append((buffer[at:head], buffer[head + 2 : stop]))
            at, head = stop + 2, following
        return at, head

    def _is_ours(self, buffer: bytes, at: int, head: int) -> bool:
        """A frame of the broker begins at `at`; what looks like one may be text that runs on into the head of the next."""
        mark = self._marks.get(buffer[at : at + 1])
        if mark is None or not buffer.startswith(_COMMANDS, at):
            return False
        found = buffer.find(mark, at, head)
        return found >= 0 and (buffer.find(b"\0", at, head) < 0 or self._begin(buffer, at, found + 1) == at)

    def _end(self, buffer: bytes, at: int, head: int) -> tuple[int, int]:
        """Where the body of the frame at `at` ends, and where the next one may begin; -1: not here."""
        body, end = head + 2, len(buffer)
        if not buffer.startswith(b"MESSAGE", at):
            stop = buffer.find(b"\0", body)
            self._until = b"\0" if stop < 0 else b""
            return stop, stop + 1
        told = buffer.find(_CONTENT_LENGTH, at, head)
        length = None if told < 0 else _length(buffer, told, head)
        if length is not None:
            stop = body + length
            if stop < end and not buffer[stop]:
                behind = _skip_ends_of_lines(buffer, stop + 1)
                if behind == end or _may_begin(buffer, behind):
                    return stop, behind
        following = self._next(buffer, body)
        if following >= 0:
            return buffer.rfind(b"\0", body, following), following
        self._until = self._secret
        if length is not None and body + length >= end:
            self._wanted = body + length + 1 - at
        else:
            self.doubtful = length is not None or buffer.find(b"\0", body) >= 0
        return -1, at

    def _next(self, buffer: bytes, at: int) -> int:
        """Where the first frame behind `at` begins that is the broker's for certain."""
        found = buffer.find(self._secret, at)
        while found >= 0:
            if any(buffer.endswith(mark, at, found + len(self._secret)) for mark in (self._marks[b"M"], self._marks[b"R"])):
                begin = self._begin(buffer, at, found)
                if begin >= at:
                    return begin
            found = buffer.find(self._secret, found + 1)
        return -1

    @staticmethod
    def _begin(buffer: bytes, at: int, mark: int) -> int:
        """Of the frame that `mark` is in the head of: no header is called like a command, so the last one begins it; below `at`:
        it is not there."""
        stop = mark
        while True:
            found = at - 1
            for command in _COMMANDS:
                found = max(found, buffer.rfind(command, max(found, at), stop))
            if found <= at:
                return found
            back = found
            while back > at and buffer[back - 1] in b"\r\n":
                back -= 1
            if back > at and not buffer[back - 1]:
                return found
            stop = found


def _skip_ends_of_lines(buffer: bytes, at: int) -> int:
    while at < len(buffer) and buffer[at] in b"\r\n":
        at += 1
    return at


def _may_begin(buffer: bytes, at: int) -> bool:
    """A frame at `at`, as far as it is here."""
    return any(buffer.startswith(command[: len(buffer) - at], at) for command in _COMMANDS)


def _length(buffer: bytes, told: int, head: int) -> int | None:
    """What the header that begins at `told` says; None: no number, which no broker writes."""
    stop = buffer.find(b"\n", told + 1, head)
    digits = buffer[told + len(_CONTENT_LENGTH) : stop if stop >= 0 else head]
    return int(digits) if digits.isdigit() and len(digits) < 16 else None


def _shortened(head: bytes) -> bytes:
    """The beginning of a frame whose head is too long: so much of each header as an ordinary one has.

    The last one stays open, as its rest is still to come. That headers are missing is a header itself.
    """
    command, *lines, last = head.split(b"\n")
    lines = [line[:LINE] for line in lines]
    if sum(map(len, lines)) + len(lines) > HEAD // 2:
        lines = [line for line in lines if _NEEDED.match(line)][:40]
    return b"\n".join([command[:LINE], CUT, *lines, last[:LINE]])


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
