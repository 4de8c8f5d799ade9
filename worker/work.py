"""What the loop hands to a handler's thread, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from worker.interface import Batch, DeadLetter

if TYPE_CHECKING:
    from worker.lane import Lane


@dataclass(eq=False, slots=True)
class Work:
    """One batch for one call of the handler."""

    lane: Lane
    batch: Batch
    numbers: Sequence[int]
    """Of each record, as its lane's position numbered it."""
    arrived: float
    """When the first of them reached the worker."""
    slot: int = 0
    rest: int = 1
    """The attempt of every record but the first, which may have failed alone; `batch.attempt` is the first's."""
    due: float = 0.0
    probe: bool = False
    """After a flood: if this one becomes a dead letter as well, the handler stops."""


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
