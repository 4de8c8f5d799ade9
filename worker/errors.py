"""Everything this package raises, and the exit code each one ends the command with.

WorkerError
  ConfigError        found before anything opens                              exit 2
  ConnectorError     raised by a connector, `from` the client's own error
    Unavailable      may heal: drop the lanes, close, back off, open again
    Refused          will not heal (credentials, no such topic): stop         exit 3
    Unconfirmed        a close could not commit all that had finished           exit 1
    PublishError     a dead letter is not durable: commit nothing, stop       exit 4
  Stopped            a handler stopped the worker, uncommitted                exit 1
    Misused          the handler itself is wrong, whatever the record         exit 1
    Flooded          too many records given up in a row                           exit 4
    Stuck            calls that never return fill the process: start it again exit 1
  Failed(index)      raised by a handler: this record failed, those after it are untouched
  Retry(after)       raised by a handler: again later, not logged as an error
  Reject(reason)     raised by a handler: no more attempts, dead letter now
  Invalid            the value does not fit the handler's annotation: never handed over, not tried again
  Expired            the record is older than max_age: given up without another try
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

LONGEST = 2_592_000
"""Seconds that a handler may put a record off: more stops a partition for good."""


class WorkerError(Exception):
    """The base of everything this package raises."""

    exit_code = 1


class ConfigError(WorkerError):
    """Settings that cannot work; says which option, where it came from, and what to write instead."""

    exit_code = 2


class ConnectorError(WorkerError):
    """Something a broker or its client did, translated by the connector."""

    exit_code = 3


class Unavailable(ConnectorError):
    """The broker cannot be used now, but may come back: the loop backs off and opens the source again."""


class Refused(ConnectorError):
    """The broker said no, and asking again will not help."""


class Unconfirmed(ConnectorError):
    """So many finished records are handled again: the source closed before the broker confirmed their commit."""

    exit_code = 1

    def __init__(self, message: str, records: int) -> None:
        super().__init__(message)
        self.records = records


class PublishError(ConnectorError):
    """A dead letter could not be made durable. `permanent`: trying again will not help."""

    exit_code = 4

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.refused: Sequence[int] | None = None
        """Which letters; the broker has all the others. None: it is not known."""


class Stopped(WorkerError):
    """A handler cannot go on; what it had in flight stays uncommitted."""


class Misused(Stopped):
    """A handler, its type or its decoder fails whatever the record is: no record is given up for it."""


class Flooded(Stopped):
    """More dead letters than the fuse allows: nothing more is published or committed."""

    exit_code = 4


class Stuck(Stopped):
    """Too many calls of a handler never returned: another process can go on, which `--processes` starts by itself."""


class Failed(WorkerError):
    """Raised by a handler of a batch: the record at `index` failed, those before it are finished, those after untouched."""

    def __init__(self, index: int, reason: str = "") -> None:
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"Failed({index!r}): the index of a record in the batch is a whole number")
        self.index = operator.index(index)  # numpy has whole numbers of its own
        super().__init__(self.index, reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"record {self.index} of the batch failed"


class Retry(WorkerError):
    """Raised or returned by a handler: try again after `after` seconds (None: the usual backoff). Spends one try."""

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        if after is not None and not (isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after <= LONGEST):
            raise ValueError(f"Retry({after!r}): seconds, 0 to {LONGEST:,}, which is 30 days")
        super().__init__(after, reason)
        self.after = after
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "the handler asked for another try"


class Reject(WorkerError):
    """Raised or returned by a handler: this will never work; no more tries, dead letter now."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "the handler rejected the record"


class Invalid(WorkerError):
    """The value of a record does not fit what the handler's annotation asks for."""


class Expired(WorkerError):
    """The record is older than the handler's `max_age`."""


def count(number: int, singular: str, plural: str = "") -> str:
    """`1 letter`, `2,000 letters`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def first_line(error: BaseException) -> str:
    """Of an error whose message goes on about links and traces."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def say(error: BaseException) -> str:
    """The type and the message, also of an error whose own `__str__` fails."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as broken:
        return f"{type(error).__name__}: (its message cannot be shown: {type(broken).__name__})"
