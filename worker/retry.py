"""How long to wait before the next try of what failed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first` seconds up to `limit`, each somewhere between half of that and all of it.

    The jitter keeps many workers that failed together from coming back together.
    """

    first: float = 0.2
    limit: float = 60.0

    def __call__(self, attempt: int) -> float:
        """Seconds to wait after the failure of `attempt` (1 for the first try)."""
        doubled = self.first * 2.0 ** min(attempt - 1, 60)
        return min(self.limit, doubled) * random.uniform(0.5, 1.0)
