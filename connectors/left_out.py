"""Which headers of a record its dead letter does without, where the broker cannot take them all.

One record must not stop a worker, so the letter goes with its value and what fits, and names the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

log = logging.getLogger("worker")

_NAMES = 500
"""Characters of the list of names."""


def largest(sizes: Sequence[int], room: int) -> set[int]:
    """Indices, as few as possible, without which the rest fits into `room`."""
    found: set[int] = set()
    total = sum(sizes)
    for index in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        if total <= room:
            break
        found.add(index)
        total -= sizes[index]
    return found


def listed(names: Iterable[str]) -> str:
    """For the header that says which."""
    return ", ".join(name[:100] or "(of no name)" for name in names).encode(errors="backslashreplace").decode()[:_NAMES]


def warn(where: str, names: str, why: str) -> None:
    log.warning("%s: a dead letter goes without headers of its record, %s: %r; said once", where, why, names)
