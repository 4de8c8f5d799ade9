"""The partitions that are ours, and what becomes of their records when they go: given back, lost, or with the connection."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection

from worker.interface import Partition
from worker.lane import Lane, Work


class Assignment:
    """Lanes of partitions, and the works chosen of them. When one goes, what was chosen and not started is dropped; what is in a
    handler's hands may end in time to be committed, or ends for nothing: a result counts only if its lane is still in `lanes`.
    """

    def __init__(self, ordered: bool, clock: Callable[[], float]) -> None:
        self.lanes: dict[Partition, Lane] = {}
        self.ready: deque[Work] = deque()
        """Chosen, and in no thread's hands yet."""
        self.running: set[Work] = set()
        self.late: set[Work] = set()
        """In a handler's hands still, though their lane is gone."""
        self.wake = threading.Event()
        """A work has ended."""
        self._ordered = ordered
        self._clock = clock
        self._handover = threading.Lock()

    # What any thread may call

    def claim(self) -> Work | None:
        """The next work for a handler's thread."""
        with self._handover:
            if not self.ready:
                return None
            self.running.add(work := self.ready[0])  # first: nobody sees it in neither of the two
            self.ready.popleft()
            return work

    def ended(self, work: Work) -> None:
        """It is in nobody's hands any more."""
        self.running.discard(work)
        if not self.wake.is_set():  # nearly always it is; who clears it looks for results afterwards
            self.wake.set()

    @property
    def idle(self) -> bool:
        """Nothing is chosen and no handler runs. (In this order: a work between the two would be lost to a shutdown.)"""
        return not self.ready and not self.running

    # What the turn calls

    def take_ready(self) -> list[Work]:
        """Everything chosen, which is so no longer."""
        with self._handover:
            taken = [*self.ready]
            self.ready.clear()
        return taken

    def drop_ready(self, lanes: Collection[Lane]) -> None:
        with self._handover:
            for work in [work for work in self.ready if work.lane in lanes]:
                self.ready.remove(work)
                work.lane.drop(work)

    def forget(self, lanes: Collection[Lane]) -> None:
        for lane in list(lanes):
            self.late.update(work for work in lane.busy if work is not None)
            lane.closing = True
            lane.gone = True
            del self.lanes[lane.partition]

    def held(self, partition: Partition) -> bool:
        """Whether a handler still has a batch of it from before it was lost: the next one is only after its end."""
        if not self.late:  # nearly always; asked twice a batch
            return False
        return self._ordered and any(work.lane.partition == partition for work in self.late)

    def lose(self, partitions: Collection[Partition]) -> None:
        """They are somebody else's already."""
        self.forget(self.close(partitions))

    def give_back(
        self, partitions: Collection[Partition], deadline: float, settle: Callable[[], None], commit: Callable[[], None]
    ) -> int:
        """Waits until `deadline` for what is in flight, and commits what has finished; how many records were left."""
        lanes = self.close(partitions)
        settle()
        while self._clock() < deadline and not all(lane.idle for lane in lanes):
            self.wake.wait(0.01)
            self.wake.clear()
            settle()
        commit()
        left = sum(lane.position.open for lane in lanes)
        self.forget(lanes)
        return left

    def close(self, partitions: Collection[Partition]) -> list[Lane]:
        """Nothing more of them is begun; returns their lanes."""
        lanes = [self.lanes[partition] for partition in partitions if partition in self.lanes]
        self.drop_ready(lanes)
        for lane in lanes:
            lane.closing = True
        return lanes
