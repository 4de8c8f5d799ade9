"""A record's own headers in a frame and back: STOMP has text, each name once, and gives some names a meaning of its own."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from connectors.activemq_frames import headers
from worker.interface import KEY_HEADER

Header = tuple[str, bytes | None]

EXACT = "dead_letter_exact"
"""Of a letter: the headers that a frame cannot carry as they are, as JSON: [[name, base64 or null], ...]. What stands for them
in the frame is for people."""
MEANT = re.compile(
    r"destination|receipt|persistent|content-length|ack|id|transaction|expires|priority|timestamp|reply-to|correlation-id|type"
    r"|content-type|transformation.*|amq-msg-type|message-id|redelivered|subscription|selector|browser|_?AMQ_.*|JMS.*"
)
"""Names that a broker gives a meaning to, when it is sent them or when it sends them: `expires` would throw a letter away after
it was confirmed, `timestamp: today` or `JMSXGroupSeq: first` ends the connection."""


def shown(name: str) -> str:
    """What a header of this name is called in a frame."""
    return f"x-{name}" if MEANT.fullmatch(name) else name


def written(own: Sequence[Header]) -> dict[str, str]:
    """For the frame of a letter."""
    found: dict[str, str] = {}
    count = Counter(shown(name) for name, _ in own)
    exact = [(name, value) for name, value in own if not (name and name == shown(name) and count[name] == 1 and _is_text(value))]
    for name, value in own:
        if name:
            found.setdefault(shown(name), (value or b"").decode(errors="backslashreplace"))
    if exact:
        told = [(name, None if value is None else base64.b64encode(value).decode()) for name, value in exact]
        found[EXACT] = json.dumps(told, ensure_ascii=False)
    return found


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
        return [(str(name), None if text is None else base64.b64decode(text, validate=True)) for name, text in told]
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
