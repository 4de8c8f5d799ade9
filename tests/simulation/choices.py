"""Random choices that are remembered step by step, so that a run can be repeated without some of its steps."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Any, Self

FIRST, LAST = -2, -1
"""What is not left out: what comes before all steps, and what comes after them."""


class Recording(random.Random):
    """Chooses like `random.Random(seed)`."""

    def __init__(self, seed: int) -> None:
        self.taken: dict[int, list[Any]] = {}
        self.begin(FIRST)
        super().__init__(seed)

    def begin(self, step: int) -> bool:
        """What is chosen from now on belongs to this step."""
        self._taken = self.taken[step] = []
        return True

    def random(self) -> float:
        chosen = super().random()
        self._taken.append(chosen)
        return chosen

    def getrandbits(self, k: int, /) -> int:
        chosen = super().getrandbits(k)
        self._taken.append(chosen)
        return chosen


class Replaying(random.Random):
    """Chooses what was recorded, in the steps that are kept; where a step wants more than it had, something."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, taken: Mapping[int, list[Any]], keep: Collection[int]) -> None:
        super().__init__(0)
        self._taken = taken
        self._keep = {FIRST, *keep, LAST}
        self.begin(FIRST)

    def begin(self, step: int) -> bool:
        """Whether this step is kept."""
        if step not in self._keep:
            return False
        super().seed(step)
        self._left = iter(self._taken.get(step, ()))
        return True

    def random(self) -> float:
        chosen = next(self._left, None)
        return chosen if isinstance(chosen, float) else super().random()

    def getrandbits(self, k: int, /) -> int:
        chosen = next(self._left, None)
        return chosen if isinstance(chosen, int) and chosen < 1 << k else super().getrandbits(k)
