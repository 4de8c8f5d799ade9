"""A record's own headers in a frame and back: STOMP has text, each name once, and gives some names a meaning of its own."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from worker.connectors import left_out
from worker.connectors.activemq_frames import escape, headers
from worker.interface import KEY_HEADER

Header = tuple[str, bytes | None]

EXACT = "dead_letter_exact"
"""Of a letter: the headers that a frame cannot carry as they are, as JSON: [[name, base64 or null], ...]. What stands for them
in the frame is for people."""
_TAKEN = 10 << 10
"""Bytes of a header beyond which the broker ends the connection."""
_LONGEST = 9_000
_MOST = 900
"""Of the 1000 headers that the broker takes."""
MEANT = re.compile(
    r"destination|receipt|persistent|content-length|ack|id|transaction|expires|priority|timestamp|reply-to|correlation-id|type"
    r"|content-type|transformation.*|amq-msg-type|message-id|redelivered|subscription|selector|browser|_?AMQ_.*|JMS.*"
)
"""Names that a broker gives a meaning to, when it is sent them or when it sends them: `expires` would throw a letter away after
it was confirmed, `timestamp: today` or `JMSXGroupSeq: first` ends the connection."""


def shown(name: str) -> str:
    """What a header of this name is called in a frame."""
    return f"x-{name}" if MEANT.fullmatch(name) else name


def written(own: Sequence[Header]) -> tuple[dict[str, str], list[str]]:
    """For the frame of a letter, and the names of those that the broker does not take: too long, or too many."""
    without = [name for name, value in own if _size(name, value) > _LONGEST] + [name for name, _ in own[_MOST:]]
    own = [(name, value) for name, value in own[:_MOST] if _size(name, value) <= _LONGEST]
    count = Counter(shown(name) for name, _ in own)
    exact = [one for one in own if not (one[0] and one[0] == shown(one[0]) and count[one[0]] == 1 and _is_text(one[1]))]
    told = [(name, None if value is None else base64.b64encode(value).decode()) for name, value in exact]
    too_much = left_out.largest([len(json.dumps(one, ensure_ascii=False).encode()) + 4 for one in told], _LONGEST)
    without += [told[at][0] for at in sorted(too_much)]
    own = [one for one in own if one not in [exact[at] for at in too_much]]
    found: dict[str, str] = {}
    for name, value in own:
        if name:
            found.setdefault(shown(name), (value or b"").decode(errors="backslashreplace"))
    if len(too_much) < len(told):
        found[EXACT] = json.dumps([one for at, one in enumerate(told) if at not in too_much], ensure_ascii=False)
    return found, without


def fitting(told: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The headers of a frame without those that are too long for the broker as they are written; and their names."""
    fits = {name: len(escape(name.encode())) + len(escape(value.encode())) < _TAKEN for name, value in told.items()}
    return {name: value for name, value in told.items() if fits[name]}, [name for name, fit in fits.items() if not fit]


def _size(name: str, value: bytes | None) -> int:
    return len(name.encode(errors="backslashreplace")) + len(value or b"")


def read(head: bytes, not_own: frozenset[str]) -> tuple[Header, ...]:
    """Of a message: without those that are the broker's or ours."""
    found = headers(head)
    exact = kept(found)
    for name in (EXACT, *(shown(name) for name, _ in exact)):
        found.pop(name, None)
    own = [(name, value.encode()) for name, value in found.items() if name not in not_own]
    return *own, *(header for header in exact if header[0] != KEY_HEADER)


def kept(found: Mapping[str, str]) -> list[Header]:
    """What a letter says exactly; nothing if somebody else wrote it."""
    try:
        told = json.loads(found.get(EXACT, "[]"))
        made = [(str(name), None if text is None else base64.b64decode(text, validate=True)) for name, text in told]
        "".join(name for name, _ in made).encode()  # JSON has texts that no broker takes
        return made
    except (ValueError, TypeError, RecursionError):
        return []


def _is_text(value: bytes | None) -> bool:
    if value is None:
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
