"""Dead letters on their way, while their handler goes on: what comes during one publish goes out together in the next."""

from __future__ import annotations

import queue
from collections import deque
from contextlib import suppress

from worker.errors import WorkerError
from worker.lane import Work
from worker.work import Verdict

_TOGETHER = 1_000
"""Letters of one publish, about: all of them fail together."""


class Outbox:
    """Put in by the turn, taken out by other threads, which say in `ended` what became of them."""

    def __init__(self) -> None:
        self.open = 0
        """Works whose letters are here or on their way."""
        self.ended: deque[tuple[Work, Verdict, WorkerError | None]] = deque()
        self._queue: queue.SimpleQueue[tuple[Work, Verdict] | None] = queue.SimpleQueue()

    def put(self, work: Work, verdict: Verdict) -> None:
        self.open += 1
        self._queue.put((work, verdict))

    def close(self) -> None:
        """Nobody waits in `take` any more."""
        self._queue.put(None)

    def take(self, timeout: float) -> list[tuple[Work, Verdict]]:
        """What is there, in order; waits for the first."""
        group: list[tuple[Work, Verdict]] = []
        letters = 0
        with suppress(queue.Empty):
            while letters < _TOGETHER:
                if (found := self._queue.get(timeout=0.0 if group else timeout)) is None:
                    self.close()  # others wait, too
                    break
                group.append(found)
                letters += len(found[1].letters)
        return group
