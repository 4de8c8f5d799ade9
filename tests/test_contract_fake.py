"""FakeSource and FakeSink keep the contract, so what a test shows with them holds for a broker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from tests.contract import Broker, Contract, Header
from worker.interface import Batch, Partition, Record
from worker.testing import FakeSink, FakeSource


class SecondMember(FakeSource):
    """Takes every other partition over once the first member has given it back."""

    def __init__(self, first: FakeSource) -> None:
        super().__init__(ordered=first.ordered)
        self.logs, self.durable = first.logs, first.durable
        self.first = first
        self.mine = set(list(first.logs)[::2])
        self._away = set(first.logs)
        first.revoke(self.mine)

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        if self.mine <= self.first._away:
            self.give_back(self.mine)
        return super().poll(max_records, timeout)


class FakeBroker:
    def __init__(self, partitions: int, ordered: bool) -> None:
        self.partitions = partitions
        self.ordered = ordered
        self.members: dict[str, list[FakeSource]] = {}
        self.sinks: dict[str, FakeSink] = {}
        self.names = (f"stream-{number}" for number in itertools.count())

    def stream(self) -> str:
        name = next(self.names)
        source = FakeSource(ordered=self.ordered)
        source.logs = {Partition(name, partition): [] for partition in range(self.partitions)}
        self.members[name] = [source]
        return name

    def put(
        self,
        stream: str,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        where = Partition(stream, partition)
        members = self.members[stream]
        owner = next((member for member in members if where in member._queues), members[0])
        for value in values:
            owner.put(value, key=key, partition=partition, stream=stream, headers=headers, timestamp=timestamp)

    def source(self, stream: str, group: str) -> FakeSource:
        """The one of the stream's only group, which opens again as a restarted worker would; a second one while it is open."""
        members = self.members[stream]
        if members[0].opened:
            members.append(SecondMember(members[0]))
        return members[-1]

    def sink(self, stream: str) -> FakeSink:
        return self.sinks.setdefault(stream, FakeSink())

    def read(self, stream: str) -> list[Record[bytes]]:
        return [letter.record._replace(headers=tuple(letter.headers)) for letter in self.sinks[stream].letters]


class TestFakeLog(Contract):
    checks_destination = False

    @pytest.fixture
    def broker(self) -> Broker:
        return FakeBroker(self.partitions, self.ordered)


class TestFakeQueue(TestFakeLog):
    ordered = False
    partitions = 1
