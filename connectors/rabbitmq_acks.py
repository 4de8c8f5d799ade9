"""Which deliveries of one channel are settled, and with how few acks the broker can be told."""

from __future__ import annotations

from collections.abc import Sequence


class Acks:
    """Delivery tags count from 1 on each channel; an ack of `multiple` settles every open one up to its tag."""

    def __init__(self) -> None:
        self._next = 1
        """Everything in front of it is settled."""
        self._beyond: set[int] = set()
        """Settled, behind something that is not."""

    def settle(self, tags: Sequence[int]) -> list[tuple[int, bool]]:
        """`tags`, each for the first time, are finished; returns the acks to send: a tag, and whether it is for all up to it."""
        last = tags[-1]
        if not self._beyond and tags[0] == self._next and last - tags[0] + 1 == len(tags) and last == max(tags):
            self._next = last + 1
            return [(last, True)]
        self.forget(tags)
        # Only a tag that is open still may be named: the broker closes the channel over one that it does not know.
        covered = max((tag for tag in tags if tag < self._next), default=None)
        acks = [] if covered is None else [(covered, True)]
        return acks + [(tag, False) for tag in sorted(tags) if tag > self._next]

    def forget(self, tags: Sequence[int]) -> None:
        """`tags` are settled by other means."""
        self._beyond.update(tags)
        while self._next in self._beyond:
            self._beyond.remove(self._next)
            self._next += 1
