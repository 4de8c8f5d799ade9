"""ActiveMQ keeps the contract, whichever way messages are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.contract import Broker, Contract, Header
from worker.connectors import activemq as connector
from worker.interface import Connection, Record, Sink, SinkOptions, Source, SourceOptions
from worker.testing import ActiveMQContainer


class ActiveMQBroker:
    def __init__(self, container: ActiveMQContainer, ordered: bool) -> None:
        self.container = container
        self.ordered = ordered
        self.connection = Connection(
            "activemq", "activemq", container.address, username=container.USER, password=container.PASSWORD
        )

    def stream(self) -> str:
        return self.container.queue("contract")

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


class TestIndividual(Contract):
    ordered = False
    tells_lag = False
    partitions = 1
    many = 200  # the broker hands out more unacknowledged messages only with its check for expired ones, every 30 s
    nulls = False
    timestamps = False
    checks_destination = False
    keeps_flooded = False
    binary_headers = False
    in_order = False

    @pytest.fixture
    def broker(self, activemq: ActiveMQContainer) -> Broker:
        return ActiveMQBroker(activemq, self.in_order)


class TestCumulative(TestIndividual):
    """For a handler that is `ordered`."""

    in_order = True
    settles_alone = False
