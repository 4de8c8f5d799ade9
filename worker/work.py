"""How a call of the handler ended, and what becomes of each of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
