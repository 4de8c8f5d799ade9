"""Bugs that the simulation and the campaigns must find. Each is planted in a worker with `patch(owner, name, value)`: setattr,
or a monkeypatch's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import worker.lane
from worker.commit import Prefix
from worker.deadletter import DeadLetters
from worker.errors import PublishError, Unavailable, WorkerError
from worker.interface import Batch, Partition
from worker.lane import Lane, Work
from worker.loop import Loop
from worker.rebalance import Assignment
from worker.retry import Policy
from worker.work import Outcome, Verdict

Patch = Callable[[Any, str, Any], None]
Bug = Callable[[Patch], None]


def plant(name: str | None) -> None:
    """Into this process, for good; None: no bug."""
    if name:
        BUGS[name](setattr)


def commit_before_the_handler(patch: Patch) -> None:
    give = Loop._give

    def early(self: Loop, work: Any) -> None:
        if work.batch.attempt == 1:
            self._finished.append(work.batch)
        give(self, work)

    patch(Loop, "_give", early)


def settled_at_receipt(patch: Patch) -> None:
    """As a client does that acknowledges by itself."""
    receive, take_in = Loop._receive, Loop._take_in

    def received(self: Loop, batch: Batch, now: float) -> None:
        self.source.commit([batch])
        receive(self, batch, now)

    def taken_in(self: Loop, lane: Lane, work: Any, verdict: Any) -> None:
        take_in(self, lane, work, verdict)
        self._finished.clear()

    patch(Loop, "_receive", received)
    patch(Loop, "_take_in", taken_in)


def late_results_count(patch: Patch) -> None:
    def settle(self: Loop) -> None:
        while self.outcomes:
            work, result = self.outcomes.popleft()
            self.lanes.setdefault(work.lane.partition, work.lane)
            self.assignment.late.discard(work)
            if isinstance(result, WorkerError):
                work.lane.drop(work)
                self._fail(result)
            else:
                self._take_in(work.lane, work, result)

    patch(Loop, "_settle", settle)


def position_skips_a_gap(patch: Patch) -> None:
    def finish(self: Prefix, numbers: Sequence[int], batch: Batch) -> list[Batch]:
        self._move(len(numbers))
        self._done.clear()
        return [batch]

    patch(Prefix, "finish", finish)


def unconfirmed_dead_letters_count(patch: Patch) -> None:
    def publish(self: DeadLetters, sink: Any, group: Any) -> int:
        with contextlib.suppress(PublishError, Unavailable):
            sink.publish([one for _, verdict in group for one in verdict.letters])
        return 0

    patch(DeadLetters, "_publish", publish)


def letters_count_before_they_are_durable(patch: Patch) -> None:
    settle = Lane.settle

    def early(self: Lane, work: Work, verdict: Verdict, now: float) -> Any:
        return settle(self, work, replace(verdict, letters=[]), now)

    patch(Lane, "settle", early)
    patch(Lane, "published", lambda self, work, verdict: [])


def a_revoked_batch_is_committed_unfinished(patch: Patch) -> None:
    """It goes on, nobody waits for it, and its partition is given away behind it."""
    revoked = Loop.revoked

    def hasty(self: Loop, partitions: Collection[Partition], *, lost: bool) -> None:
        if not lost:
            lanes = [self.lanes[partition] for partition in partitions if partition in self.lanes]
            self.assignment.drop_ready(lanes)
            self._settle()
            self._finished += [work.batch for lane in lanes for work in lane.busy if work is not None]
            self._commit()
        revoked(self, partitions, lost=True)

    patch(Loop, "revoked", hasty)


def two_batches_of_a_partition_at_once(patch: Patch) -> None:
    give = Loop._give

    def forget(self: Loop, work: Any) -> None:
        give(self, work)
        work.lane.busy[work.slot] = None

    patch(Loop, "_give", forget)


def halves_in_the_wrong_order(patch: Patch) -> None:
    settle = Lane.settle

    def backwards(self: Lane, work: Any, verdict: Any, now: float) -> Any:
        verdict.again.reverse()
        return settle(self, work, verdict, now)

    patch(Lane, "settle", backwards)


def what_follows_a_failure_counts_as_finished(patch: Patch) -> None:
    """`Failed(3)` is taken for `{3: error}`."""
    decide = Policy.decide

    def all_reached(self: Policy, work: Any, outcome: Outcome) -> Verdict:
        return decide(self, work, outcome._replace(untouched=None))

    patch(Policy, "decide", all_reached)


def a_drain_that_does_not_wait(patch: Patch) -> None:
    stop = Loop.stop
    patch(Loop, "stop", lambda self, deadline: stop(self, -1.0))


def keys_in_any_slot(patch: Patch) -> None:
    patch(worker.lane, "crc32", lambda key: random.getrandbits(8))  # seeded, so that a failure can be played again


def the_next_batch_does_not_wait_for_a_late_one(patch: Patch) -> None:
    patch(Assignment, "held", lambda self, partition: False)


def a_rewind_does_not_wait(patch: Patch) -> None:
    patch(Lane, "idle", property(lambda self: True))


def what_was_fetched_is_given_back(patch: Patch) -> None:
    patch(Loop, "_starting", property(lambda self: not self.draining))


def a_pause_keeps_only_the_first_record(patch: Patch) -> None:
    put_back = Lane.put_back

    def keep_one(self: Lane, work: Work) -> None:
        work.batch = work.batch.take(0, 1)
        put_back(self, work)

    patch(Lane, "put_back", keep_one)


def given_up_and_finished(patch: Patch) -> None:
    """What the broker's policy is for is acknowledged as well."""
    take_in = Loop._take_in

    def both(self: Loop, lane: Lane, work: Any, verdict: Any) -> None:
        take_in(self, lane, work, verdict)
        self._finished += self._rejected

    patch(Loop, "_take_in", both)


BUGS: dict[str, Bug] = {
    bug.__name__: bug
    for bug in (
        commit_before_the_handler,
        settled_at_receipt,
        late_results_count,
        position_skips_a_gap,
        unconfirmed_dead_letters_count,
        letters_count_before_they_are_durable,
        a_revoked_batch_is_committed_unfinished,
        two_batches_of_a_partition_at_once,
        halves_in_the_wrong_order,
        what_follows_a_failure_counts_as_finished,
        a_drain_that_does_not_wait,
        keys_in_any_slot,
        the_next_batch_does_not_wait_for_a_late_one,
        a_rewind_does_not_wait,
        what_was_fetched_is_given_back,
        a_pause_keeps_only_the_first_record,
        given_up_and_finished,
    )
}
