"""RabbitMQ keeps the contract, with either type of queue."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.contract import Broker, Contract, Header
from worker.connectors import rabbitmq as connector
from worker.interface import Connection, Record, Sink, SinkOptions, Source, SourceOptions
from worker.testing import RabbitMQContainer


class RabbitMQBroker:
    def __init__(self, container: RabbitMQContainer, kind: str, ordered: bool) -> None:
        self.container = container
        self.kind = kind
        self.ordered = ordered
        self.connection = Connection(
            "rabbitmq", "rabbitmq", container.address, username=container.USER, password=container.PASSWORD
        )

    def stream(self) -> str:
        return self.container.queue("contract", self.kind)

    def put(
        self,
        stream: str,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        self.container.produce(stream, [value or b"" for value in values], key=key, headers=headers)

    def source(self, stream: str, group: str) -> Source:
        return connector.source(SourceOptions(self.connection, (stream,), group, ordered=self.ordered, in_flight=1000))

    def sink(self, stream: str) -> Sink:
        return connector.sink(SinkOptions(self.connection, stream, timeout=20))

    def read(self, stream: str) -> list[Record[bytes]]:
        return self.container.read(stream)


class TestQuorum(Contract):
    ordered = False
    tells_lag = False
    partitions = 1
    nulls = False
    timestamps = False
    keeps_flooded = False
    kind = "quorum"
    in_order = False

    @pytest.fixture
    def broker(self, rabbitmq: RabbitMQContainer) -> Broker:
        return RabbitMQBroker(rabbitmq, self.kind, self.in_order)


class TestClassic(TestQuorum):
    kind = "classic"


class TestInOrder(TestQuorum):
    """For a handler that is `ordered`."""

    in_order = True
