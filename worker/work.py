"""How a call of the handler ended, and what becomes of each of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.errors import count
from worker.interface import DeadLetter


class Outcome(NamedTuple):
    """How one call of the handler ended, in indices of its batch."""

    bad: Mapping[int, Exception] = {}
    """Never handed over: invalid or expired."""
    failed: Mapping[int, Exception] = {}
    untouched: int | None = None
    """The handler did not reach the records from here on."""
    whole: Exception | None = None
    """Something failed, and nobody knows which."""


FINE = Outcome()
"""All of it was handled."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A record that gets no more tries."""

    index: int
    error: Exception
    attempts: int
    """Calls that it was in."""
    splits: int = 0
    """How many of them were after its tries were used up, each in a smaller batch than before."""

    @property
    def tried(self) -> str:
        """`3 tries and 2 splits`: never more tries than `retries` allows."""
        return tried(self.attempts, self.splits)


def tried(attempts: int, splits: int) -> str:
    tries = count(attempts - splits, "try", "tries")
    return f"{tries} and {count(splits, 'split')}" if splits else tries


class Again(NamedTuple):
    """Records of a batch that are tried again together."""

    indices: Sequence[int]
    attempt: int
    rest: int
    wait: float


@dataclass(slots=True)
class Verdict:
    """What becomes of each record of a batch after a try."""

    finished: Sequence[int]
    again: list[Again] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    """Of those given up, to be published before they count as ended."""
    error: Exception | None = None
    """What to tell the log about what is tried again."""
    split: bool = False
    """It goes on in smaller batches, as its tries are used up."""
