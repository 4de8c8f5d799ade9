"""The turn: settle, poll, join, choose, commit. The only code that touches a source or a lane; no thread of its own."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from worker.errors import Flooded, Unavailable, Unconfirmed, WorkerError, count
from worker.interface import Batch, Partition, Sink, Source
from worker.lane import Lane, Shape, Work
from worker.outbox import Outbox
from worker.rebalance import Assignment
from worker.retry import Backoff
from worker.work import Verdict

log = logging.getLogger("worker")

WAITING = 50_000
"""Records that may wait in all lanes together: a client hands out thousands of one partition in a row."""
SLOW = 1.0
"""Seconds that a record waits in a partition that does not go on as records come."""
POLL = 500
"""Records a poll: larger gulps were measured slower."""
BUSY = 0.005
"""Seconds of a poll while anything is in flight: a Kafka client cannot be woken up."""
KEEP_ALIVE = 0.02
"""Seconds without a poll after which it comes before the batches that are ready."""
LAST_COMMITS = 2.0
"""Seconds for the last commits, where what was in flight took all of `drain`."""
LAG = 0.25
"""Seconds between two looks at how far behind it is."""
RECONNECT = Backoff(first=1.0, limit=30.0)
PAUSE = Backoff(first=5.0, limit=300.0)
"""Before one record is tried after a flood."""


@dataclass(slots=True)
class Counters:
    """What one handler has done so far, counted by the batch."""

    received: int = 0
    handled: int = 0
    batches: int = 0
    retried: int = 0
    dead_lettered: int = 0
    discarded: int = 0
    fenced: int = 0
    """Results that came too late: their partition was somebody else's by then."""
    polls: int = 0


class Loop:
    """One handler's loop over one source: a plain state machine, turned by one thread at a time (`worker.threads`)."""

    def __init__(
        self,
        name: str,
        source: Source,
        shape: Shape,
        *,
        clock: Callable[[], float],
        threads: float = 1,
        drain: float = 25.0,
        wait: float = math.inf,
        sink: Sink | None = None,
        pauses: bool = False,
        tell_flooded: Callable[[bool], None] = lambda flooded: None,
    ) -> None:
        """`pauses`: a flood of dead letters does not stop it; `tell_flooded` is called when that begins and ends."""
        self.name = name
        self.source = source
        self.shape = shape
        self.assignment = Assignment(shape.ordered, clock)
        self.lanes, self.ready, self.running = self.assignment.lanes, self.assignment.ready, self.assignment.running
        self.outcomes: deque[tuple[Work, Verdict | WorkerError]] = deque()
        """Needs no lock, else a drain that holds the loop would wait for a thread that waits for the loop."""
        self.outbox = Outbox()
        """Dead letters that are to be published."""
        self.counters = Counters()
        self.failure: WorkerError | None = None
        """Why it stopped by itself."""
        self.draining = False
        self.closed = False
        self.probing = False
        """After a flood: one record at a time until one succeeds."""
        self.last_turn = clock()
        self.lag: int | None = None
        """What the source said last; other threads may not ask it."""
        self._clock = clock
        self._threads = threads
        self._drain = drain
        self._wait = wait
        self._sink = sink
        self._pauses = pauses
        self._tell_flooded = tell_flooded
        self._floods = 0
        self._flooded_at = self._probe_at = -math.inf
        self._deadline = math.inf
        self._opened = False
        self._checked = False
        """The sink's destination was there."""
        self._away_since: float | None = None
        self._attempt = 0
        self._reopen_at = -math.inf
        self._last_poll = -math.inf
        self._last_lag = -math.inf
        self._last_lane: Lane | None = None
        self._full = False
        self._stalled = False
        """As the source said at the last turn."""
        self._finished: list[Batch] = []
        self._rejected: list[Batch] = []
        self._resting: dict[Partition, float] = {}
        """Partitions that a retry keeps waiting longer than their source can hold records, and until when."""
        self._unconfirmed = self._left = 0
        """Records that come again: finished while draining, and not finished when the connection was lost."""
        self._finishing = 0.0
        """While draining, until when batches are still started: the source should not be given back what it fetched."""
        self._dry = False
        """The last poll that could have brought something brought nothing."""
        self._timers: list[tuple[float, int, Lane]] = []
        self._order = itertools.count()
        self._oversize: set[str] = set()

    # What other threads may call without the lock

    def settle(self, work: Work, result: Verdict | WorkerError) -> None:
        """What became of a work; counts at the next turn."""
        self.outcomes.append((work, result))
        self.assignment.ended(work)

    def published(self, ended: Sequence[tuple[Work, Verdict, WorkerError | None]]) -> None:
        """What became of what was taken from the outbox; counts at the next turn."""
        self.outbox.ended.extend(ended)
        self.assignment.wake.set()

    def stop(self, deadline: float) -> None:
        """Start nothing more; close when what is in flight has ended, or at `deadline`."""
        self._deadline = min(self._deadline, deadline)
        if not self.draining:
            log.info("%s: stopping: %s", self.name, _in_flight(list(self.running), self._deadline - self._clock()))
        self.draining = True
        self.assignment.wake.set()

    # The turn

    def turn(self, timeout: float) -> None:
        """One step. Only one thread at a time."""
        try:
            if self._opened or self._open(timeout):
                self._step(timeout)
        except Unavailable as error:
            self._away(error)
        except WorkerError as error:
            self._fail(error)
        self.last_turn = self._clock()

    def _step(self, timeout: float) -> None:
        self._settle()
        self._commit()
        now = self._clock()
        if self._resting:
            self._rest(now)
        if self.draining and self._drained(now):
            self._close()
            return
        if self._stalled is not self.source.stalled:
            self._stalled = self.source.stalled
            self._start_all(now)
        if self._starting:
            self._look_at_timers(now)
        if not self.ready:
            self._poll(min(timeout, BUSY) if self.outbox.open else timeout)
        elif now - self._last_poll > KEEP_ALIVE:
            self._poll(0.0)

    @property
    def idle(self) -> bool:
        """No handler runs, and nothing that it has done is on its way."""
        return self.assignment.idle and not self.outbox.open

    @property
    def _starting(self) -> bool:
        return not self.draining or self._finishing > 0

    def _start_all(self, now: float) -> None:
        for lane in self.lanes.values():
            self._start(lane, now)

    def _drained(self, now: float) -> bool:
        """Whether to close now."""
        if not self._finishing:
            self._finishing = now + (self._deadline - now) / 2 if self.failure is None and self.source.finish() else -math.inf
            for lane in self.lanes.values():
                lane.flush = True
                self._start(lane, now)
        if self.failure is not None or now >= self._finishing > 0:  # the other half is for what has been started by now
            self._finishing = -math.inf
        if not self._starting:
            self.assignment.close(self.lanes)
        elif not self._dry or any(lane.waiting.count for lane in self.lanes.values()):
            return now >= self._deadline
        return (self.idle and not self.outcomes) or now >= self._deadline

    def _poll(self, timeout: float) -> None:
        now = self._clock()
        timeout = max(0.0, min(timeout, self._timers[0][0] - now)) if self._timers else timeout
        room = 0 if self._no_room() else self._room()
        batches = self.source.poll(room, timeout if room else 0.0)
        self._dry = room > 0 and not batches
        self.counters.polls += 1
        now = self._last_poll = self._clock()
        if now - self._last_lag >= LAG:
            self.lag, self._last_lag = self.source.lag(), now
        for batch in batches:
            self._receive(batch, now)
        if self._away_since is not None:
            log.info("%s: connected again", self.name)
            self._away_since, self._attempt, self._left = None, 0, 0
        if not room and timeout and not self.outcomes and not self.outbox.ended and not self.ready:
            self.assignment.wake.wait(timeout)
            self.assignment.wake.clear()

    def _room(self) -> int:
        """As many as make whole batches of the lane that records came for last: sources deliver in runs of one partition,
        and a batch that is neither joined nor cut costs nothing."""
        size, last = self.shape.batch_size, self._last_lane
        missing = size - last.waiting.count % size if last is not None else size
        return missing + (POLL - missing) // size * size if missing <= POLL else POLL

    def _no_room(self) -> bool:
        """Is the next batch of every thread at hand already? Then polling would only move records from the broker to memory."""
        if self.ready or self._stalled or not self._starting:
            return True
        if self._full:
            self._full = self._over(self._clock())
            if self._full:
                return True
        if self.outbox.open and self.lanes:
            now = self._clock()
            # A source that waits for records is not woken up by letters. But if they take long, others go on.
            if all(lane.supplied and not lane.stands_still(now, SLOW) for lane in self.lanes.values()):
                return True
        return len(self.running) >= self._threads and any(lane.supplied for lane in self.lanes.values())

    def _receive(self, batch: Batch, now: float) -> None:
        lane = self.lanes.get(batch.partition)
        if lane is None:
            lane = self.lanes[batch.partition] = Lane(batch.partition, self.shape)
            lane.flush = self.draining
        self._last_lane = lane
        lane.waiting.add(batch, now)
        self.counters.received += len(batch)
        self._start(lane, now)
        if lane.over:
            self._full = self._over(now)

    def _over(self, now: float) -> bool:
        """Whether to poll no more until some of it is handled.

        That costs nothing, and a pause throws away what the client has fetched. So only what stands still is paused, that the
        others need not wait for it; and everything that has more than it needs, where what stands still takes all the room.
        """
        lanes = [lane for lane in self.lanes.values() if not lane.paused]
        standing = sum(lane.waiting.count for lane in self.lanes.values() if lane.paused)
        tight = standing + len(lanes) * 4 * self.shape.batch_size > WAITING
        for lane in lanes:
            if lane.huge or (lane.over if tight else lane.stands_still(now, SLOW)):
                lane.paused = True
                self.source.pause([lane.partition])
        count = standing + sum(lane.waiting.count for lane in lanes)
        return not tight and (count >= WAITING or sum(lane.waiting.bytes for lane in lanes) >= 2 * self.shape.max_bytes)

    def _start(self, lane: Lane, now: float) -> None:
        """Gives to the threads what this lane has for them, and notes when to look at it again."""
        if lane.empty and not lane.paused and not self.probing:  # most often, when a batch has ended
            return
        if self._starting and not self._stalled and not self.assignment.held(lane.partition):
            if self.probing or self.source.flooded:
                self._probe(now)
            else:
                for work in lane.start(now):
                    self._give(work)
            if lane.paused and not lane.closing and not lane.huge and lane.waiting.count < self.shape.batch_size:
                lane.paused = False
                self.source.resume([lane.partition])
        at = max(lane.wake_at(), self._probe_at) if self.probing else lane.wake_at()
        if at < lane.timer:
            lane.timer = at = max(at, now + 0.01)  # in the past only where something else must happen first
            heapq.heappush(self._timers, (at, next(self._order), lane))

    def _give(self, work: Work) -> None:
        batch, stream = work.batch, work.lane.partition.stream
        if len(work.numbers) == 1 and stream not in self._oversize and batch.size() > self.shape.max_bytes:
            self._oversize.add(stream)
            log.warning("%s: a record of %s is larger than max_bytes=%d: such go alone", self.name, stream, self.shape.max_bytes)
        self.ready.append(work)

    def _probe(self, now: float) -> None:
        self.probing = True
        if self.assignment.idle and not self.outcomes and now >= self._probe_at:
            for lane in self.lanes.values():
                if not self.assignment.held(lane.partition) and (work := lane.probe(now)) is not None:
                    work.probe = True
                    self._give(work)
                    return

    def _look_at_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, lane = heapq.heappop(self._timers)
            lane.timer = math.inf
            if self.lanes.get(lane.partition) is lane:
                self._start(lane, now)

    # Results

    def _settle(self) -> None:
        while self.outcomes:
            work, result = self.outcomes.popleft()
            lane = work.lane
            if self.lanes.get(lane.partition) is not lane:  # the only fence: late results of a lost partition end here
                self.counters.fenced += len(work.batch)
                self._too_late(work)
            elif isinstance(result, Flooded) and self._pauses and not self.draining:
                self._pause(work, result)
            elif isinstance(result, WorkerError):
                lane.drop(work)
                self._fail(result)
            else:
                self._take_in(lane, work, result)
        while self.outbox.ended:
            self._published(*self.outbox.ended.popleft())

    def _published(self, work: Work, verdict: Verdict, error: WorkerError | None) -> None:
        lane = work.lane
        self.outbox.open -= 1
        if self.lanes.get(lane.partition) is not lane:
            self._too_late(work)  # it was counted when it was handled
        elif error is not None:
            lane.unpublished(work)
            self._fail(error)
        else:
            self.counters.dead_lettered += len(verdict.given_up)
            self._finished += lane.published(work, verdict)
            self._start(lane, self._clock())

    def _too_late(self, work: Work) -> None:
        self.assignment.late.discard(work)
        if (again := self.lanes.get(work.lane.partition)) is not None:
            self._start(again, self._clock())

    def _take_in(self, lane: Lane, work: Work, verdict: Verdict) -> None:
        counters, now = self.counters, self._clock()
        counters.batches += 1
        counters.handled += len(verdict.finished)
        if verdict.again:
            counters.retried += sum(len(part.indices) for part in verdict.again)
        if verdict.letters:
            self.outbox.put(work, verdict)
        elif self._sink is not None or self.shape.rejects:
            counters.dead_lettered += len(verdict.given_up)
        else:
            counters.discarded += len(verdict.given_up)
        if verdict.finished and work.probe:
            self._trust()
        finished, rejected = lane.settle(work, verdict, now)
        self._finished += finished
        self._rejected += rejected
        if verdict.again:
            due = now + max(part.wait for part in verdict.again)
            if due - work.arrived > self.source.hold:
                lane.closing = True
                self.assignment.drop_ready([lane])
                self._resting[lane.partition] = max(due, self._resting.get(lane.partition, due))
        self._start(lane, now)

    def _pause(self, flooded: Work, error: Flooded) -> None:
        """Nothing is started for a while, then one record alone; what was chosen is so again, in its old place."""
        now = self._clock()
        for work in [flooded, *self.assignment.take_ready()]:
            work.lane.put_back(work)
        if now >= self._probe_at:  # else others that were in flight fail for the same reason
            self._floods = 1 if now - self._flooded_at > 2 * PAUSE.limit else self._floods + 1
            self._flooded_at, self._probe_at = now, now + PAUSE(self._floods)
            log.error("%s: %s. Pausing for %.0f s, then trying one record", self.name, error, self._probe_at - now)
        self.probing = self.source.flooded = True
        self._tell_flooded(True)
        lane = flooded.lane
        self.lanes[lane.partition] = self.lanes.pop(lane.partition)  # the next probe is of another: its head may never pass
        self._start_all(now)

    def _trust(self) -> None:
        """The probe succeeded."""
        log.info("%s: one record passed after the flood of dead letters: going on", self.name)
        self.probing = self.source.flooded = False
        self._tell_flooded(False)
        self._start_all(self._clock())

    def _commit(self) -> None:
        if self._finished:
            finished, self._finished = self._finished, []
            self.source.commit(finished)
        if self._rejected:
            rejected, self._rejected = self._rejected, []
            self.source.reject(rejected)

    def _rest(self, now: float) -> None:
        """Gives back to the source what a retry keeps waiting for too long, once nothing of it is in flight; it comes again
        when the retry is due, as if for the first time."""
        for partition, until in list(self._resting.items()):
            lane = self.lanes.get(partition)
            if lane is not None and lane.closing:
                if lane.idle:
                    self.assignment.forget([lane])
                    self.source.pause([partition])
                    self.source.rewind(partition)
            elif now >= until:
                del self._resting[partition]
                self.source.resume([partition])

    # Partitions and connections that go

    def revoked(self, partitions: Collection[Partition], *, lost: bool) -> None:
        """Called by the source from inside `poll` or `close`. Revoked ones drain and commit; lost ones are forgotten."""
        if lost:
            self.assignment.lose(partitions)
            return
        deadline = min(self._deadline, self._clock() + self._drain)
        works = [work for work in list(self.running) if work.lane.partition in partitions]
        if works and not self.draining:
            told = _in_flight(works, deadline - self._clock())
            log.info("%s: giving back %s: %s", self.name, count(len(partitions), "partition"), told)
        left = self.assignment.give_back(partitions, deadline, self._settle, self._commit)
        if works and not self.draining:
            log.info("%s: gave them back: %s", self.name, _left(left))

    def _away(self, error: Unavailable) -> None:
        """Forgets everything unfinished: it comes again. Results of what still runs find no lane."""
        self._left += self._open_records()
        self.assignment.drop_ready(self.lanes.values())
        self.assignment.forget(self.lanes.values())
        self._finished.clear()
        self._rejected.clear()
        self._resting.clear()
        self._opened = False
        traceback.clear_frames(error.__traceback__)  # they would keep a client that the source drops
        try:
            self.source.close()  # also if it could not be opened: of two queues one may be there, and its messages held
        except Unconfirmed as lost:
            if self.draining:
                self._tell_unconfirmed(lost)
        except WorkerError:
            pass
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        self._attempt += 1
        pause = RECONNECT(self._attempt)
        self._reopen_at = now + pause
        if now - self._away_since >= self._wait:
            self._fail(error)
        else:
            log.warning("%s: %s; trying again in %.1f s", self.name, error, pause)

    def _open(self, timeout: float) -> bool:
        if self.draining:
            self._close()
            return False
        now = self._clock()
        if now < self._reopen_at:
            self.assignment.wake.wait(min(timeout, self._reopen_at - now))
            self.assignment.wake.clear()
            return False
        if self._sink is not None and not self._checked:
            self._sink.open()  # later it looks after itself: records are handled also while dead letters have nowhere to go
            self._checked = True
        self.source.open(self.revoked)
        log.debug("%s: connected", self.name)
        self._opened = True
        return True

    def _fail(self, error: WorkerError) -> None:
        """Stops by itself: what else is in flight may end, this is not committed."""
        if self.failure is None:
            self.failure = error
            log.error("%s stopped: %s", self.name, error)
        if isinstance(error, Flooded):
            self.source.flooded = True
        self.stop(self._clock() + self._drain)

    def _open_records(self) -> int:
        return sum(lane.position.open for lane in self.lanes.values())

    def _tell_unconfirmed(self, error: Unconfirmed) -> None:
        self._unconfirmed += error.records
        log.error("%s: %s", self.name, error)
        self.failure = self.failure or error

    def _close(self) -> None:
        self.assignment.close(self.lanes)
        counters, cut = self.counters, self._away_since is not None
        self._left += self._open_records()
        try:
            self._commit()
            # Asked again and again: a second signal does not wait.
            until = self._clock() + LAST_COMMITS
            self.source.close(lambda: max(self._deadline, until) - self._clock())
        except Unconfirmed as error:
            self._tell_unconfirmed(error)
        except WorkerError as error:
            cut = True
            log.warning("%s: closing: %s", self.name, error)
        self.assignment.forget(self.lanes.values())
        finished = counters.handled + counters.dead_lettered + counters.discarded
        committed = "the last of them perhaps not committed" if cut and finished else "all committed"
        committed = f"{self._unconfirmed} of them not committed" if self._unconfirmed else committed
        log.info("%s: stopped: %s finished, %s; %s", self.name, count(finished, "record"), committed, _left(self._left))
        self.closed = True
        self.outbox.close()


def _in_flight(works: Sequence[Work], seconds: float) -> str:
    if not works:
        return "nothing in flight"
    records = sum(len(work.batch) for work in works)
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
    return f"{count(len(works), 'batch', 'batches')} with {count(records, 'record')} in flight, at most until {until}"


def _left(records: int) -> str:
    return f"{records:,} taken and not finished, left for the next worker" if records else "nothing left unfinished"
