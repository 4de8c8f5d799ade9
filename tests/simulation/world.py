"""One run: workers with the real turn, a broker and handlers that misbehave, and a ledger that everything is held against."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.simulation.choices import LAST
from tests.simulation.group import CheckedSource, Group, Ledger, Member, Violated
from tests.simulation.plan import Plan
from worker.deadletter import DeadLetters, Fuse
from worker.decode import shape
from worker.dispatch import Dispatch
from worker.errors import Failed, Flooded, PublishError, Reject, Retry, WorkerError
from worker.interface import Batch, Partition, Record
from worker.loop import POLL, WAITING, Loop
from worker.testing.clock import ManualClock
from worker.testing.fake import FakeSink

VALUES = (None, b"", b"v", b"value", b"v" * 30)
KEYS = (None, b"a", b"b", b"c", b"d")
FAULTS = (
    *("revoke", "lose", "give back", "give back", "disconnect", "kill", "restart", "sink", "sleep", "sleep", "sleep"),
    *("fail", "broker away", "sink away", "mend"),
)
"""What happens to one worker, or to all it depends on."""
GROUP_FAULTS = ("move", "move", "move", "freeze", "thaw", "unheard", "hear", "kill", "restart", "disconnect")
"""What happens among several."""


class Wake:
    """Stands for the event on which the loop waits for a thread: time passes, or a handler ends."""

    def __init__(self, simulation: Simulation, member: Member) -> None:
        self._simulation = simulation
        self._member = member

    def wait(self, timeout: float) -> None:
        simulation = self._simulation
        choice = simulation.rng.random()
        if self._member.hands and choice < 0.5:
            simulation.end_one(self._member)
        elif self._member.loop.outbox.open and choice < 0.75:
            simulation.publish_some(self._member)
        else:
            simulation.clock.advance(timeout)

    def is_set(self) -> bool:
        return False

    def set(self) -> None: ...
    def clear(self) -> None: ...


class Simulation:
    def __init__(self, seed: int, rng: random.Random) -> None:
        self.seed = seed
        self.rng = rng
        self.begin: Callable[[int], bool] | None = getattr(rng, "begin", None)
        """Tells the choices which step comes, and says whether it is kept."""
        self.plan = plan = Plan.of(rng)
        self.clock = ManualClock()
        self.ledger = Ledger()
        self.group = Group()
        self.sink = FakeSink() if plan.dead_letter and not plan.rejects else None
        self.calm = False
        self.mended = False
        self.pauses = 0
        """Nothing fails any more."""
        self.failing_until = 0.0
        """Until then every call fails."""
        self.failed = False
        """There was such a time."""
        self.disowned = False
        """Something was lost, so something may be repeated."""
        self.produced = 0
        self.logs: dict[Partition, list[Record[bytes]]] = {}
        self.durable: dict[Partition, set[int | str]] = {}
        for number in range(plan.workers):
            self.group.members.append(self._member(number))
        self.say(plan)

    def say(self, *words: object) -> None:
        self.ledger.history.append((round(self.clock.now, 2), *words))

    def _member(self, number: int) -> Member:
        plan, made = self.plan, self.plan.shape
        source = CheckedSource(
            ordered=made.positioned,
            limit=made.limit,
            rng=self.rng,
            idle=self.clock.advance,
            flush=plan.flush,
            hold=plan.hold,
            counts=plan.counts,
        )
        source.logs, source.durable = self.logs, self.durable
        source.ledger, source.fenced = self.ledger, set()
        source.member = member = Member(number, source)
        self._start(member)
        return member

    def _start(self, member: Member) -> None:
        plan = self.plan
        member.loop = Loop(
            "sim",
            member.source,
            plan.shape,
            clock=self.clock,
            threads=plan.threads,
            drain=5.0,
            sink=self.sink,
            pauses=plan.pauses,
            tell_flooded=lambda flooded: self._told_flooded(member, flooded),
        )
        member.loop.assignment.wake = Wake(self, member)  # type: ignore[assignment]
        letters = DeadLetters(
            "sim",
            self.sink,
            discard=plan.discard,
            fuse=Fuse(plan.fuse),
            broker=plan.rejects,
            timeout=30,
            clock=self.clock,
            wait=self.clock.advance,
        )
        member.dispatch = Dispatch(
            "sim", self.handle, shape(self.handle), plan.policy, letters, clock=self.clock, wall=self.clock
        )
        member.hands.clear()
        member.letters.clear()

    # The handler

    def handle(self, batch: Batch) -> Mapping[int, Exception] | None:
        rng = self.rng
        self.say("handle", batch.partition, [record.id for record in batch], "attempt", batch.attempt)
        if self.clock.now < self.failing_until:
            self.ledger.tries.update((record.partition, record.id) for record in batch)
            self.clock.advance(0.05)
            raise ConnectionError("nothing works")
        failing: dict[int, Exception] = {}
        for index, record in enumerate(batch):
            which = (record.partition, record.id)
            self.ledger.tries[which] += 1
            kind = self.ledger.kinds[which]
            if kind == "good" or self.mended:
                continue
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
            manner = self.rng.choice(["whole", "mapping", "failed", "cancelled"])
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
            for earlier in self.logs[record.partition]:
                if int(earlier.id) >= int(record.id):
                    break
                if made.parallel > 1 and earlier.key != record.key:
                    continue
                if self.ledger.ended[(earlier.partition, earlier.id)] or (earlier.id in inside and not by_key):
                    continue
                raise Violated(f"{record.id} of {record.partition} was handled before {earlier.id}")

    # The threads

    def begin_one(self, member: Member) -> None:
        work = member.loop.assignment.claim()
        if work is None:
            return
        member.hands.append((work, member.dispatch, member.loop))
        if not 1 <= len(work.batch) <= self.plan.shape.batch_size:
            raise Violated(f"a batch of {len(work.batch)}")
        if len(work.batch) > 1 and work.batch.size() > self.plan.shape.max_bytes:
            raise Violated("a batch of too many bytes")
        if len({record.partition for record in work.batch}) > 1:
            raise Violated("two partitions in one batch")
        partition = work.lane.partition
        member.last[partition] = work.lane
        if self.plan.shape.ordered:
            same = sum(other.lane.partition == partition and loop is member.loop for other, _, loop in member.hands)
            if same > self.plan.shape.parallel:
                raise Violated(f"{same} batches of {partition} in hand")
        if self.plan.workers > 1:
            self._check_alone(member, partition)

    def _check_alone(self, member: Member, partition: Partition) -> None:
        """Two workers are in one partition only where one of them could not know."""
        if partition in member.source.fenced:
            return
        for other in self.group.members:
            if other is not member and partition not in other.source.fenced:
                for work, _, _ in other.hands:
                    if work.lane.partition == partition and not work.lane.gone:
                        raise Violated(f"{partition} is handled by {other} and {member}")

    def end_one(self, member: Member) -> None:
        work, dispatch, loop = member.hands.pop(self.rng.randrange(len(member.hands)))
        result = dispatch(work)
        if not isinstance(result, WorkerError) and not work.lane.gone:
            for one in result.given_up:
                record = work.batch.record(one.index)
                if not result.letters:  # else it ends when they are published
                    self.ledger.ended[(record.partition, record.id)] += 1
                self.say("given up", record.id, record.partition)
        loop.settle(work, result)

    def publish_some(self, member: Member) -> None:
        """What was taken from the outbox earlier arrives now, and the next is taken."""
        group, member.letters = member.letters, member.loop.outbox.take(0.0)
        if group:
            ended = member.dispatch.publish(group)
            for work, verdict, error in ended:
                if error is None and not work.lane.gone:
                    for one in verdict.given_up:
                        record = work.batch.record(one.index)
                        self.ledger.ended[(record.partition, record.id)] += 1
            self.say(member, "publishes", [error for _, _, error in ended])
            member.loop.published(ended)

    # What the world does

    def produce(self) -> None:
        rng, group = self.rng, self.group
        partition = Partition("orders", rng.randrange(self.plan.partitions))
        if partition not in group.owners:
            group.appeared(partition, rng.choice(group.members))
        source = group.owners[partition].source
        record = source.put(rng.choice(VALUES), key=rng.choice(KEYS), partition=int(partition.id), skip=rng.choice([0, 0, 0, 5]))
        kinds = ["good"] * 12 + ["flaky", "flaky", "reject"]
        if self.plan.dead_letter or self.plan.discard:
            kinds += ["poison"]
        self.ledger.kinds[(record.partition, record.id)] = kind = rng.choice(kinds)
        self.produced += 1
        self.say("produce", record.partition, record.id, record.key, kind)

    def disturb(self) -> None:
        rng = self.rng
        member = rng.choice(self.group.members)
        several = len(self.group.members) > 1 and rng.random() < 0.6
        event = rng.choice(GROUP_FAULTS if several else FAULTS)
        partitions = list(self.logs)
        some = rng.sample(partitions, rng.randint(0, len(partitions)))
        self.say("event", event, member, some)
        if event in ("lose", "disconnect", "kill", "broker away", "freeze", "unheard"):
            self.disowned = True
        if several:
            self._disturb_group(event, member, some)
        elif not member.frozen:
            self._disturb_one(event, member, some)

    def _disturb_one(self, event: str, member: Member, some: Sequence[Partition]) -> None:
        rng, source = self.rng, member.source
        if event in ("revoke", "lose"):
            source.revoke(some, lost=event == "lose")
        elif event == "give back":
            source.give_back([partition for partition in some if self.group.owners[partition] is member])
        elif event == "disconnect":
            source.disconnect(rng.randint(0, 3))
        elif event == "broker away":
            for each in self.group.members:
                each.source.disconnect(rng.randint(0, 3))
        elif event == "kill":
            self.kill(member)
        elif event == "restart":
            self.restart(member)
        elif event == "sink" and self.sink is not None and not self.sink.failures:
            self.sink.fail(rng.randint(1, 2))
        elif event == "sink away" and self.sink is not None:
            self.sink.fail(500)  # more than are tried before the handler stops
        elif event == "fail":
            self.failing_until, self.failed = self.clock.now + rng.choice([0.5, 5.0]), True
        elif event == "mend":
            self._mend()
        else:
            self.clock.advance(rng.choice([0.01, 0.6, 10.0]))

    def _disturb_group(self, event: str, member: Member, some: Sequence[Partition]) -> None:
        group, rng = self.group, self.rng
        if event == "move":
            group.move(some, member)
        elif event == "freeze":
            member.frozen = True
            others = [other for other in group.members if not other.frozen]
            if others:
                group.take(group.of(member), rng.choice(others), told=True)
        elif event == "thaw":
            member.frozen = False
        elif event == "unheard":
            group.take(some, member, told=False)
        elif event == "hear":
            group.tell(member)
        elif event == "kill":
            self.kill(member)
            if rng.random() < 0.5:
                group.take(group.of(member), rng.choice(group.members), told=True)
        elif not member.frozen:
            self._disturb_one(event, member, some)

    def _mend(self) -> None:
        """The dead letters find their broker again."""
        if self.sink is not None:
            self.sink.failures.clear()

    def kill(self, member: Member) -> None:
        member.frozen = False
        self.group.killed(member)
        self._start(member)

    def restart(self, member: Member) -> None:
        """A clean one: drains, closes, and repeats nothing that the handler finished."""
        source = member.source
        member.loop.stop(self.clock() + 50.0)
        before, undisturbed = source.returns.copy(), not source.events and not self.disowned
        self._drain(member)
        self._check_nothing_repeats(member)
        if self.plan.counts and undisturbed and member.loop.failure is None and not member.loop.probing:  # a flood starts nothing
            self._check_what_went_back(source.returns - before)
        self.kill(member)

    def _drain(self, member: Member) -> None:
        for _ in range(10_000):
            if member.loop.closed:
                break
            if member.loop.ready and len(member.hands) < self.plan.threads:
                self.begin_one(member)
            elif member.hands:
                self.end_one(member)
            else:
                self.publish_some(member)
            member.loop.turn(0.01)
        if not member.loop.closed:
            raise Violated("a drain without end")
        while member.hands:  # a handler that is not waited for goes on all the same
            self.end_one(member)

    def _check_what_went_back(self, returned: Counter[tuple[Partition, int | str]]) -> None:
        """A broker that counts returns gets back only what failed and waits for another try, and what is behind that."""
        tried = {which[0] for which in returned if self.ledger.tries[which]}
        if untouched := {which for which in returned if which[0] not in tried}:
            raise Violated(f"given back without a try: {untouched}")

    def _check_nothing_repeats(self, member: Member) -> None:
        made = self.plan.shape
        if not made.ordered or made.parallel > 1 or self.plan.manner != "failed" or self.disowned:
            return  # elsewhere what is finished behind a failed record comes again
        if member.loop.failure is not None:
            return
        for partition in self.group.of(member):
            durable = self.durable.get(partition, set())
            for record in self.logs[partition]:
                if self.ledger.ended[(partition, record.id)] and record.id not in durable:
                    raise Violated(f"a clean shutdown repeats {record.id} of {partition}")

    def step(self) -> None:
        rng, members = self.rng, self.group.members
        member = members[0] if len(members) == 1 else rng.choice(members)
        choice = rng.random()
        if choice < 0.25:
            if self.produced < self.plan.records:
                self.produce()
            return
        if choice > 0.965:
            self.disturb()
            self._check(member)
        if member.frozen:
            return
        if choice < 0.6:
            member.loop.turn(rng.choice([0.0, 0.005, 0.05]))
            self.group.hand_over()
            self._check(member)
        elif choice < 0.75:
            if member.loop.ready and len(member.hands) < self.plan.threads:
                self.begin_one(member)
        elif choice < 0.9 and member.hands:
            self.end_one(member)
        elif choice < 0.965:
            self.publish_some(member)

    def _check(self, member: Member) -> None:
        loop, made = member.loop, self.plan.shape
        if loop.failure is not None:
            self._stopped(member, loop.failure)
            return
        if loop.closed:
            raise Violated("closed by itself")
        if loop.running or loop.ready:
            working = [work for work in (*loop.running, *loop.ready) if made.ordered or not work.lane.gone]
            if len(working) > made.parallel:
                busy = Counter(work.lane.partition for work in working)
                if max(busy.values()) > made.parallel:
                    raise Violated(f"more than {made.parallel} batches of one partition in flight")
        for lane in loop.lanes.values():
            if lane.position.open > made.room:
                raise Violated(f"{lane.position.open} records open of {made.room}")
        if sum(lane.waiting.count for lane in loop.lanes.values()) >= WAITING + len(loop.lanes) * (made.high + POLL):
            raise Violated("memory is not bounded")

    def _told_flooded(self, member: Member, flooded: bool) -> None:
        self.say(member, "flooded" if flooded else "trusted")
        self.pauses += flooded
        if self.pauses > 2:
            self.mended = True

    def _stopped(self, member: Member, failure: WorkerError) -> None:
        """Because of dead letters: somebody looks what it is, and starts it again. For no other reason."""
        expected = Flooded if self.plan.fuse < 1 else PublishError
        if not isinstance(failure, (expected, PublishError)):
            raise Violated(f"stopped without a reason of the handler's: {failure}")
        self.say(member, "stopped:", type(failure).__name__)
        self.disowned = True
        self._drain(member)
        if isinstance(failure, Flooded):
            self.mended = True  # else the probe of the next one would stop it, too
        else:
            self._mend()
        self.kill(member)

    def run(self) -> None:
        begin = self.begin
        for number in range(self.plan.steps):
            if begin is None or begin(number):
                self.step()
        if begin is None or begin(self.plan.steps):
            while self.produced < self.plan.records:
                self.produce()
        if begin is not None:
            begin(LAST)
        self._calm_down()
        for _ in range(20_000):
            if self._turn_all():
                break
        self._reconcile()

    def _calm_down(self) -> None:
        """All faults end."""
        self.calm = True
        self._mend()
        self.failing_until = 0.0
        for member in self.group.members:
            member.frozen = False

    def _turn_all(self) -> bool:
        """Whether everything is finished."""
        for member in self.group.members:
            self.group.tell(member)
            self.group.hand_over()
            member.source.give_back(self.group.of(member))
            if member.source.opened and member.source.finished():
                return True
            member.loop.turn(0.05)
            while len(member.hands) < self.plan.threads and member.loop.ready:
                self.begin_one(member)
            if member.hands:
                self.end_one(member)
            self.publish_some(member)
            if member.loop.idle:
                self.clock.advance(0.5)
            self._check(member)
        return False

    def _reconcile(self) -> None:
        ended = self.ledger.ended
        if any(len(self.durable.get(partition, ())) != len(log) for partition, log in self.logs.items()):
            raise Violated("it never ends")
        produced = {(record.partition, record.id) for log in self.logs.values() for record in log}
        if lost := {which for which in produced if not ended[which]}:
            raise Violated(f"lost: {lost}")
        named = self.plan.manner in ("mapping", "failed")  # else good ones may go with the bad: Retry and Reject mean all
        if named and not self.failed:
            for which, kind in self.ledger.kinds.items():
                if kind == "good" and not self.ledger.handled[which]:
                    raise Violated(f"a good record was never handled: {which}")
        if self.sink is not None and not self.mended:
            dead = {(letter.record.partition, letter.record.id) for letter in self.sink.letters}
            for which, kind in self.ledger.kinds.items():
                if kind == "poison" and which not in dead:
                    raise Violated(f"poison that is no dead letter: {which}")
