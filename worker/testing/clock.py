"""Time that moves only when told."""

from __future__ import annotations


class ManualClock:
    """A clock for `Loop(clock=...)`: call it for the time, `advance` it by seconds.

    >>> clock = ManualClock()
    >>> clock.advance(0.5)
    >>> clock()
    0.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
