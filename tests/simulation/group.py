"""Several workers on one stream: who has which partition, and who only believes so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.dispatch import Dispatch
from worker.interface import Batch, Partition
from worker.lane import Lane, Work
from worker.loop import Loop
from worker.testing.fake import FakeSource
from worker.work import Verdict

RecordId = tuple[Partition, int | str]


class Violated(AssertionError):
    """A promise was broken."""


@dataclass
class Ledger:
    """What really happened, whoever believes what."""

    tries: Counter[RecordId] = field(default_factory=Counter)
    ended: Counter[RecordId] = field(default_factory=Counter)
    """Handled, dead-lettered or discarded: what may be committed."""
    handled: Counter[RecordId] = field(default_factory=Counter)
    kinds: dict[RecordId, str] = field(default_factory=dict)
    history: list[tuple[object, ...]] = field(default_factory=list)

    def say(self, *words: object) -> None:
        self.history.append(words)


class CheckedSource(FakeSource):
    """One member's; holds every commit against the ledger."""

    ledger: Ledger
    member: Member
    fenced: set[Partition]
    """Somebody else's, though this member has not heard of it: the broker takes no commits of it."""

    def commit(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for record in batch:
                if not self.ledger.ended[(record.partition, record.id)]:
                    raise Violated(f"committed and not finished: {record.id} of {record.partition}")
            self.ledger.say(self.member, "commits", batch.partition, [record.id for record in batch])
        super().commit(batches)

    def reject(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for record in batch:
                if not self.ledger.ended[(record.partition, record.id)]:
                    raise Violated(f"rejected and not given up: {record.id} of {record.partition}")
        super().reject(batches)

    def rewind(self, partition: Partition) -> None:
        lane = self.member.last[partition]
        if any(work.lane is lane for work in (*self.member.loop.running, *(work for work, _ in self.member.letters))):
            raise Violated(f"{partition} was rewound with a batch in flight")
        self.ledger.say(self.member, "rewinds", partition)
        super().rewind(partition)

    def keep_off(self, partitions: Iterable[Partition]) -> None:
        """They are not its own when it opens."""
        self._away.update(partitions)

    def has(self, partition: Partition) -> bool:
        return partition in self._queues or (partition not in self._away and not self.opened)

    def _flush(self, committed: Mapping[Partition, set[int | str]]) -> None:
        if self.fenced:
            for partition in self.fenced & committed.keys():
                committed[partition].clear()
        super()._flush(committed)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        partitions = list(partitions)
        if gone := self.fenced.intersection(partitions):
            self._away |= gone
            self.fenced -= gone
        super()._forget(partitions)


@dataclass(eq=False)
class Member:
    """One worker process."""

    number: int
    source: CheckedSource
    loop: Loop = field(init=False)
    dispatch: Dispatch = field(init=False)
    hands: list[tuple[Work, Dispatch, Loop]] = field(default_factory=list)
    """Batches in a handler's hands, also of a loop that is closed."""
    letters: list[tuple[Work, Verdict]] = field(default_factory=list)
    """On their way."""
    frozen: bool = False
    last: dict[Partition, Lane] = field(default_factory=dict)
    """Of each partition the lane whose batch was begun last."""

    def __str__(self) -> str:
        return f"worker {self.number}"


@dataclass
class Group:
    """The broker's view."""

    members: list[Member] = field(default_factory=list)
    owners: dict[Partition, Member] = field(default_factory=dict)
    moving: dict[Partition, Member] = field(default_factory=dict)
    """Being handed over in an orderly way: to whom, once the owner let go."""

    def of(self, member: Member) -> list[Partition]:
        return [partition for partition, owner in self.owners.items() if owner is member]

    def appeared(self, partition: Partition, owner: Member) -> None:
        self.owners[partition] = owner
        for member in self.members:
            if member is not owner:
                member.source.keep_off([partition])

    def move(self, partitions: Collection[Partition], to: Member) -> None:
        for partition in partitions:
            owner = self.owners[partition]
            if owner is not to and partition not in self.moving:
                owner.source.revoke([partition])
                self.moving[partition] = to

    def take(self, partitions: Collection[Partition], to: Member, *, told: bool) -> None:
        """Without asking the owner, who is told now or some time later."""
        for partition in partitions:
            owner = self.owners[partition]
            if owner is to or not owner.source.has(partition):
                continue
            self.moving.pop(partition, None)
            if owner.source.opened:
                owner.source.fenced.add(partition)
                if told:
                    owner.source.revoke([partition], lost=True)
            else:
                owner.source.keep_off([partition])
            self._give(partition, to)

    def tell(self, member: Member) -> None:
        """It hears of what is not its own any more."""
        if member.source.fenced:
            member.source.revoke(list(member.source.fenced), lost=True)

    def hand_over(self) -> None:
        """What owners let go of goes to whom it is for."""
        for partition, to in list(self.moving.items()):
            if not self.owners[partition].source.has(partition):
                del self.moving[partition]
                self._give(partition, to)

    def _give(self, partition: Partition, to: Member) -> None:
        self.owners[partition] = to
        if partition in to.source.fenced:  # it had it, lost it, has not heard of that, and gets it back
            self.tell(to)
            self.moving[partition] = to
        else:
            to.source.give_back([partition])

    def killed(self, member: Member) -> None:
        """Its process is gone, and with it what it believed. Its partitions wait for it, or for `take`."""
        member.source.kill()
        member.source.keep_off(partition for partition, owner in self.owners.items() if owner is not member)
        for partition in [partition for partition in self.moving if self.owners[partition] is member]:
            del self.moving[partition]
