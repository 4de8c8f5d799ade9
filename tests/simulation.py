"""Seeded random runs of the real turn over a fake broker: `python -m tests.simulation SEED` replays one, with its history."""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from worker.deadletter import DeadLetters, Fuse
from worker.decode import shape
from worker.dispatch import Dispatch
from worker.errors import Failed, Reject, Retry, Stopped, WorkerError
from worker.interface import Batch, Partition
from worker.lane import Shape
from worker.loop import POLL, Loop
from worker.retry import Backoff, Policy
from worker.testing.clock import ManualClock
from worker.testing.fake import FakeSink, FakeSource
from worker.work import Work

RecordId = tuple[Partition, int | str]


class Violated(AssertionError):
    """A promise was broken."""


@dataclass
class Plan:
    """What one seed decides before it runs."""

    rng: random.Random
    partitions: int
    records: int
    shape: Shape
    threads: int
    policy: Policy
    dead_letter: bool
    discard: bool
    hold: float
    rejects: bool
    counts: bool
    manner: str
    """How the handler fails: whole, mapping, failed, mixed."""

    @classmethod
    def of(cls, seed: int) -> Plan:
        rng = random.Random(seed)
        positioned = rng.random() < 0.7
        ordered = rng.random() < (0.8 if positioned else 0.3)
        dead_letter = rng.random() < 0.6
        retries = rng.choice([None, 0, 1, 3])
        limit = rng.choice([None, None, 8, 30]) if not positioned else None
        made = Shape(
            batch_size=rng.choice([1, 2, 5, 20]),
            window=rng.choice([0.0, 0.5, 3.0]),
            max_bytes=rng.choice([4, 40, 10_000]),
            parallel=rng.choice([1, 1, 1, 3]),
            ordered=ordered,
            positioned=positioned,
            limit=limit,
        )
        policy = Policy.of(
            retries, "x:y" if dead_letter else None, Backoff(rng.choice([0.0, 0.1, 2.0])), rng.random() < 0.7, ordered
        )
        queue = not positioned
        impatient = queue and policy.tries <= 4 and policy.backoff.first <= 0.1 and rng.random() < 0.5
        rejects = queue and dead_letter and rng.random() < 0.4
        return cls(
            rng,
            rng.randint(1, 4),
            rng.randint(1, 60),
            replace(made, rejects=rejects),
            rng.choice([1, 1, 3]) * made.parallel,
            policy,
            dead_letter,
            retries is not None,
            20.0 if impatient else math.inf,
            rejects,
            queue and rng.random() < 0.5,
            rng.choice(["whole", "mapping", "failed", "mixed"]),
        )


@dataclass
class Ledger:
    """What really happened, whoever believes what."""

    tries: Counter[RecordId] = field(default_factory=Counter)
    ended: Counter[RecordId] = field(default_factory=Counter)
    """Handled, dead-lettered or discarded: what may be committed."""
    handled: Counter[RecordId] = field(default_factory=Counter)
    kinds: dict[RecordId, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    def say(self, *words: object) -> None:
        self.history.append(" ".join(map(str, words)))


class CheckedSource(FakeSource):
    """Holds every commit against the ledger."""

    ledger: Ledger
    loop: Loop

    def commit(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for record in batch:
                if not self.ledger.ended[(record.partition, record.id)]:
                    raise Violated(f"committed and not finished: {record.id} of {record.partition}")
            self.ledger.say("commit", batch.partition, [record.id for record in batch])
        super().commit(batches)

    def reject(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for record in batch:
                if not self.ledger.ended[(record.partition, record.id)]:
                    raise Violated(f"rejected and not given up: {record.id} of {record.partition}")
        super().reject(batches)

    def rewind(self, partition: Partition) -> None:
        if any(work.lane.partition == partition and not work.lane.gone for work in self.loop.running):
            raise Violated(f"{partition} was rewound with a batch in flight")
        self.ledger.say("rewind", partition)
        super().rewind(partition)


class Wake:
    """Stands for the event on which the loop waits for a thread: time passes, or a handler ends."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def wait(self, timeout: float) -> None:
        simulation = self._simulation
        if simulation.hands and simulation.plan.rng.random() < 0.5:
            simulation.end_one()
        else:
            simulation.clock.advance(timeout)

    def set(self) -> None: ...
    def clear(self) -> None: ...


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.plan = Plan.of(seed)
        self.clock = ManualClock()
        self.ledger = Ledger()
        rng, made = self.plan.rng, self.plan.shape
        self.source = CheckedSource(
            ordered=made.positioned,
            limit=made.limit,
            rng=rng,
            idle=self.clock.advance,
            flush=rng.choice([0.0, 0.7]),
            hold=self.plan.hold,
            counts=self.plan.counts,
        )
        self.source.ledger = self.ledger
        self.sink = FakeSink() if self.plan.dead_letter and not self.plan.rejects else None
        self.hands: list[tuple[Work, Dispatch, Loop]] = []
        self.started: dict[Loop, set[RecordId]] = {}
        self.calm = False
        self.disowned = False
        """Something was lost, so something may be repeated."""
        self.produced = 0
        self.loop = self._worker()
        self.say(self.plan)

    def say(self, *words: object) -> None:
        self.ledger.say(f"{self.clock():.2f}", *words)

    def _worker(self) -> Loop:
        loop = Loop("sim", self.source, self.plan.shape, clock=self.clock, threads=self.plan.threads, drain=5.0, sink=self.sink)
        loop.wake = Wake(self)  # type: ignore[assignment]
        self.source.loop = loop
        letters = DeadLetters(
            "sim",
            self.sink,
            discard=self.plan.discard,
            fuse=Fuse(1.0),
            broker=self.plan.rejects,
            timeout=30,
            clock=self.clock,
            wait=self.clock.advance,
        )
        self.dispatch = Dispatch(
            "sim", self.handle, shape(self.handle), self.plan.policy, letters, clock=self.clock, wall=self.clock
        )
        return loop

    # The handler

    def handle(self, batch: Batch) -> Mapping[int, Exception] | None:
        rng = self.plan.rng
        self.say("handle", batch.partition, [record.id for record in batch], "attempt", batch.attempt)
        failing: dict[int, Exception] = {}
        for index, record in enumerate(batch):
            which = (record.partition, record.id)
            self.ledger.tries[which] += 1
            kind = self.ledger.kinds[which]
            if kind == "poison" or (kind == "flaky" and self.ledger.tries[which] < 3):
                failing[index] = rng.choice([ValueError("boom"), Retry(rng.choice([None, 0.0, 4.0]))])
            elif kind == "reject" and (self.plan.dead_letter or self.plan.discard):
                failing[index] = Reject("never")
        if not failing:
            self._finish(batch, range(len(batch)))
            return None
        return self._fail(batch, failing)

    def _fail(self, batch: Batch, failing: dict[int, Exception]) -> Mapping[int, Exception] | None:
        manner = self.plan.manner
        if manner == "mixed":
            manner = self.plan.rng.choice(["whole", "mapping", "failed", "cancelled"])
        first = min(failing)
        if manner == "mapping" or (manner == "whole" and any(isinstance(e, Reject) for e in failing.values())):
            self._finish(batch, [i for i in range(len(batch)) if i not in failing])
            return failing
        if manner == "failed":
            self._finish(batch, range(first))
            raise Failed(first) from failing[first]
        if manner == "cancelled":
            raise asyncio.CancelledError
        raise failing[first]

    def _finish(self, batch: Batch, indices: Sequence[int]) -> None:
        """By the time the handler returns, what it says is finished is finished, whether or not it is ever told."""
        for index in indices:
            record = batch[index]
            self.ledger.ended[(record.partition, record.id)] += 1
            self.ledger.handled[(record.partition, record.id)] += 1
        self._check_order(batch, indices)

    def _check_order(self, batch: Batch, indices: Sequence[int]) -> None:
        made = self.plan.shape
        if not made.ordered:
            return
        inside = {record.id for record in batch}
        by_key = self.plan.manner in ("whole", "failed")  # {index: error} lets the rest of its batch overtake
        for index in indices:
            record = batch[index]
            for earlier in self.source.logs[record.partition]:
                if int(earlier.id) >= int(record.id):
                    break
                if made.parallel > 1 and earlier.key != record.key:
                    continue
                if self.ledger.ended[(earlier.partition, earlier.id)] or (earlier.id in inside and not by_key):
                    continue
                raise Violated(f"{record.id} of {record.partition} was handled before {earlier.id}")

    # The threads

    def begin_one(self) -> None:
        work = self.loop.claim()
        if work is not None:
            self.hands.append((work, self.dispatch, self.loop))
            if not 1 <= len(work.batch) <= self.plan.shape.batch_size:
                raise Violated(f"a batch of {len(work.batch)}")
            if work.batch.size() > self.plan.shape.max_bytes and len(work.batch) > 1:
                raise Violated("a batch of too many bytes")
            if len({record.partition for record in work.batch}) > 1:
                raise Violated("two partitions in one batch")

    def end_one(self) -> None:
        work, dispatch, loop = self.hands.pop(self.plan.rng.randrange(len(self.hands)))
        result = dispatch(work)
        if not isinstance(result, WorkerError) and not work.lane.gone:
            for one in result.given_up:
                record = work.batch.record(one.index)
                self.ledger.ended[(record.partition, record.id)] += 1
                self.say("given up", record.id, record.partition)
        loop.settle(work, result)

    # What the world does

    def produce(self) -> None:
        rng = self.plan.rng
        partition = rng.randrange(self.plan.partitions)
        value = rng.choice([None, b"", b"v", b"value", b"v" * 30])
        key = rng.choice([None, b"a", b"b", b"c", b"d"])
        record = self.source.put(value, key=key, partition=partition, skip=rng.choice([0, 0, 0, 5]))
        kinds = ["good"] * 12 + ["flaky", "flaky", "reject"]
        if self.plan.dead_letter or self.plan.discard:
            kinds += ["poison"]
        self.ledger.kinds[(record.partition, record.id)] = rng.choice(kinds)
        self.produced += 1

    def disturb(self) -> None:
        rng = self.plan.rng
        partitions = list(self.source.logs)
        some = rng.sample(partitions, rng.randint(0, len(partitions)))
        event = rng.choice(
            ["revoke", "lose", "give back", "give back", "disconnect", "kill", "restart", "sink", "sleep", "sleep"]
        )
        self.say("event", event, some)
        if event in ("lose", "disconnect", "kill"):
            self.disowned = True
        if event == "revoke" or event == "lose":
            self.source.revoke(some, lost=event == "lose")
        elif event == "give back":
            self.source.give_back(some)
        elif event == "disconnect":
            self.source.disconnect(rng.randint(0, 3))
        elif event == "kill":
            self.source.kill()
            self.hands.clear()
            self.loop = self._worker()
        elif event == "restart":
            self.restart()
        elif event == "sink" and self.sink is not None and not self.sink.failures:
            self.sink.fail(rng.randint(1, 2))
        else:
            self.clock.advance(rng.choice([0.01, 0.6, 10.0]))

    def restart(self) -> None:
        """A clean one: drains, closes, and repeats nothing that the handler finished."""
        self.loop.stop(self.clock() + 50.0)
        before, undisturbed = self.source.returns.copy(), not self.source.events and not self.disowned
        for _ in range(10_000):
            if self.loop.closed:
                break
            if self.loop.ready and len(self.hands) < self.plan.threads:
                self.begin_one()
            elif self.hands:
                self.end_one()
            self.loop.turn(0.01)
        if not self.loop.closed:
            raise Violated("a drain without end")
        while self.hands:  # a handler that is not waited for goes on all the same
            self.end_one()
        self._check_nothing_repeats()
        if self.plan.counts and undisturbed:
            self._check_what_went_back(self.source.returns - before)
        self.source.kill()
        self.hands.clear()
        self.loop = self._worker()

    def _check_what_went_back(self, returned: Counter[RecordId]) -> None:
        """A broker that counts returns gets back only what failed and waits for another try, and what is behind that."""
        tried = {which[0] for which in returned if self.ledger.tries[which]}
        if untouched := {which for which in returned if which[0] not in tried}:
            raise Violated(f"given back without a try: {untouched}")

    def _check_nothing_repeats(self) -> None:
        made = self.plan.shape
        if not made.ordered or made.parallel > 1 or self.plan.manner != "failed":
            return  # elsewhere what is finished behind a failed record comes again
        for partition in self.source.logs:
            durable = self.source.durable.get(partition, set())
            for record in self.source.logs[partition]:
                if self.ledger.ended[(partition, record.id)] and record.id not in durable and not self.disowned:
                    raise Violated(f"a clean shutdown repeats {record.id} of {partition}")

    def step(self) -> None:
        rng = self.plan.rng
        choice = rng.random()
        if choice < 0.25 and self.produced < self.plan.records:
            self.produce()
        elif choice < 0.6:
            self.loop.turn(rng.choice([0.0, 0.005, 0.05]))
        elif choice < 0.75 and len(self.hands) < self.plan.threads:
            self.begin_one()
        elif choice < 0.95 and self.hands:
            self.end_one()
        elif not self.calm and choice > 0.97:
            self.disturb()
        self._check()

    def _check(self) -> None:
        loop, made = self.loop, self.plan.shape
        if loop.failure is not None and not isinstance(loop.failure, Stopped):
            raise Violated(f"stopped: {loop.failure}")
        if loop.closed and loop.failure is None:
            raise Violated("closed by itself")
        if loop.failure is not None:  # an invalid or rejected record with nowhere to go: start again, it comes again
            raise Violated(f"stopped without a reason of the handler's: {loop.failure}")
        busy = Counter(work.lane.partition for work in [*loop.running, *loop.ready] if made.ordered or not work.lane.gone)
        if any(count > made.parallel for count in busy.values()):
            raise Violated(f"more than {made.parallel} batches of one partition in flight")
        for lane in loop.lanes.values():
            if lane.position.open > made.room:
                raise Violated(f"{lane.position.open} records open of {made.room}")
            if lane.waiting.count > made.high + POLL:
                raise Violated("memory is not bounded")

    def run(self) -> None:
        for _ in range(self.plan.rng.choice([50, 300, 800])):
            self.step()
        self.calm = True
        while self.produced < self.plan.records:
            self.produce()
        for _ in range(20_000):
            self.source.give_back(list(self.source.logs))
            if self.source.opened and self.source.finished():
                break
            self.loop.turn(0.05)
            while len(self.hands) < self.plan.threads and self.loop.ready:
                self.begin_one()
            if self.hands:
                self.end_one()
            if self.loop.idle:
                self.clock.advance(0.5)
            self._check()
        self._reconcile()

    def _reconcile(self) -> None:
        if not self.source.finished():
            raise Violated("it never ends")
        produced = {(record.partition, record.id) for log in self.source.logs.values() for record in log}
        if lost := produced - {which for which, count in self.ledger.ended.items() if count}:
            raise Violated(f"lost: {lost}")
        for which, kind in self.ledger.kinds.items():
            named = self.plan.manner in ("mapping", "failed")  # else good ones may go with the bad: Retry and Reject mean all
            if kind == "good" and named and not self.ledger.handled[which]:
                raise Violated(f"a good record was never handled: {which}")
        if self.sink is not None:
            dead = {(letter.record.partition, letter.record.id) for letter in self.sink.letters}
            for which, kind in self.ledger.kinds.items():
                if kind == "poison" and which not in dead:
                    raise Violated(f"poison that is no dead letter: {which}")


def failure_of(seed: int) -> tuple[Violated | AssertionError, list[str]] | None:
    random.seed(seed)  # the jitter of Backoff
    simulation = Simulation(seed)
    try:
        simulation.run()
    except AssertionError as error:
        return error, simulation.ledger.history
    return None


def main(arguments: Sequence[str]) -> Any:
    logging_off()
    for text in arguments:
        first, _, last = text.partition("-")
        kinds: dict[str, list[int]] = defaultdict(list)
        for seed in range(int(first), int(last or first) + 1):
            if found := failure_of(seed):
                kinds[str(found[0])[:60]].append(seed)
                if not last:
                    print("\n".join(found[1]), found[0], sep="\n")
        for told, seeds in kinds.items():
            print(len(seeds), told, seeds[:5])


def logging_off() -> None:
    import logging

    logging.getLogger("worker").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main(sys.argv[1:])
