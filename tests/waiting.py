"""How tests wait: for a condition, and never for a time that should be enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE = 90.0
_never = threading.Event()


def moment() -> None:
    """Between two looks at a condition."""
    _never.wait(0.005)


def until(
    condition: Callable[[], object],
    step: Callable[[], object] = moment,
    *,
    patience: float = PATIENCE,
    why: Callable[[], str] = lambda: "it never came true",
) -> None:
    """Returns as soon as `condition` is true; `step` is what happens between two looks at it."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, why()
        step()
