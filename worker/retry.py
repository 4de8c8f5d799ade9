"""What becomes of a record that failed: another try after a wait, a try in a smaller batch, or none."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from worker.errors import Invalid, Reject, Retry, count
from worker.lane import Work
from worker.work import Again, GivenUp, Outcome, Verdict

DEFAULT_RETRIES = 10
"""With a dead letter and no `retries`."""
WHOLE_TRIES = 5
"""Without a limit, a batch is tried whole so often before it is halved."""


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


@dataclass(frozen=True)
class Policy:
    """The rules of one handler; every row of docs/failures.md is a branch here."""

    tries: float = math.inf
    backoff: Backoff = Backoff()
    bisect: bool = True
    ordered: bool = True

    @classmethod
    def of(cls, retries: int | None, dead_letter: str | None, backoff: Backoff, bisect: bool, ordered: bool) -> Policy:
        tries = math.inf if retries is None and not dead_letter else 1 + (DEFAULT_RETRIES if retries is None else retries)
        return cls(tries, backoff, bisect, ordered)

    def decide(self, work: Work, outcome: Outcome) -> Verdict:
        """Never loses a record: each index is in exactly one of finished, again and given_up."""
        size = len(work.numbers)
        reached = size if outcome.untouched is None else outcome.untouched
        if reached == size and not (outcome.bad or outcome.failed or outcome.whole is not None):  # an exception may be falsy
            return Verdict(range(size))
        given_up = [self._given_up(i, error, _attempt(work, i)) for i, error in outcome.bad.items()]
        if outcome.whole is not None:
            verdict = Verdict([])
            self._whole(work, [i for i in range(size) if i not in outcome.bad], outcome.whole, verdict)
        else:
            verdict = Verdict(_without(range(reached), {*outcome.failed, *outcome.bad}))
            self._each(work, outcome.failed, verdict)
            self._untouched(range(reached, size), outcome.bad, verdict)
        verdict.given_up += given_up
        verdict.given_up.sort(key=lambda letter: letter.index)
        return verdict

    def _whole(self, work: Work, indices: Sequence[int], error: Exception, verdict: Verdict) -> None:
        first = _attempt(work, indices[0])
        if isinstance(error, Reject):
            verdict.given_up += [self._given_up(i, error, _attempt(work, i)) for i in indices]
        elif first != work.rest and len(indices) > 1:  # the first has failed before: from here on it fails alone
            self._together(indices[:1], first, error, verdict, others=True)
            self._together(indices[1:], work.rest, error, verdict, others=True)
        else:
            self._together(indices, first, error, verdict)

    def _together(self, indices: Sequence[int], attempt: int, error: Exception, verdict: Verdict, others: bool = False) -> None:
        """All of `indices` have had `attempt` tries, and one of them, or of `others`, failed. Halves are past their tries: they
        get one each."""
        can_halve = self.bisect and (len(indices) > 1 or others) and not isinstance(error, Retry)
        hopeless = isinstance(error, Invalid) and (can_halve or len(indices) == 1)
        if not hopeless and attempt < (WHOLE_TRIES if can_halve and self.tries == math.inf else self.tries):
            verdict.error = error
            verdict.again.append(Again(indices, attempt + 1, attempt + 1, self._wait(attempt, error)))
        elif can_halve:
            verdict.error, verdict.split = error, True
            middle = (len(indices) + 1) // 2
            halves = (indices[:middle], indices[middle:])
            verdict.again += [Again(half, attempt + 1, attempt + 1, 0.0) for half in halves if half]
        else:
            verdict.given_up += [self._given_up(i, error, attempt) for i in indices]

    def _each(self, work: Work, failed: Mapping[int, Exception], verdict: Verdict) -> None:
        """Each of `failed` is known to have failed by itself."""
        waits: dict[int, float] = {}
        backoff = self.backoff(work.batch.attempt)
        for index, error in sorted(failed.items()):
            attempt = _attempt(work, index)
            if isinstance(error, Reject | Invalid) or attempt >= self.tries:
                verdict.given_up.append(self._given_up(index, error, attempt))
            else:
                verdict.error = error
                waits[index] = error.after if isinstance(error, Retry) and error.after is not None else backoff
        if self.ordered and waits:  # they stay in order, so all wait for the longest
            waits = dict.fromkeys(waits, max(waits.values()))
        for wait in dict.fromkeys(waits.values()):
            indices = [i for i in waits if waits[i] == wait]
            verdict.again.append(Again(indices, _attempt(work, indices[0]) + 1, work.rest + 1, wait))

    def _untouched(self, indices: Sequence[int], bad: Mapping[int, Exception], verdict: Verdict) -> None:
        fresh = [i for i in indices if i not in bad]
        if not fresh:
            return
        if verdict.again and self.ordered:
            failed = verdict.again.pop()
            verdict.again.append(Again([*failed.indices, *fresh], failed.attempt, 1, failed.wait))
        else:
            verdict.again.append(Again(fresh, 1, 1, 0.0))

    def splits(self, attempt: int) -> int:
        """Of so many calls of a record those in smaller batches, its tries being used up; without a limit they never are."""
        return 0 if self.tries == math.inf else max(0, attempt - int(self.tries))

    def tried(self, attempt: int) -> str:
        """`try 1 of 3`, `try 3 of 3 and 2 splits`, `try 7`."""
        if self.tries == math.inf:
            return f"try {attempt}"
        splits = self.splits(attempt)
        return f"try {attempt - splits} of {self.tries:.0f}" + (f" and {count(splits, 'split')}" if splits else "")

    def _given_up(self, index: int, error: Exception, attempt: int) -> GivenUp:
        return GivenUp(index, error, attempt, self.splits(attempt))

    def _wait(self, attempt: int, error: Exception) -> float:
        if isinstance(error, Retry) and error.after is not None:
            return error.after
        return self.backoff(attempt)


def _without(indices: range, some: Collection[int]) -> list[int]:
    """Batches are large, and few of their records fail."""
    rest = list(indices)
    for index in sorted(some, reverse=True):
        if index in indices:
            del rest[index]
    return rest


def _attempt(work: Work, index: int) -> int:
    return work.batch.attempt if index == 0 else work.rest
