"""Amazon MSK keeps Kafka's contract, logged in with tokens; what passwords and certificates change is only the login."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.contract import Broker, Contract, Header
from tests.waiting import until
from worker.connectors import msk as connector
from worker.interface import Connection, Record, Sink, SinkOptions, Source, SourceOptions
from worker.testing import Kafka, MskContainer

IAM = {"region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret"}


class Behind(Kafka):
    """The same cluster by its plain listener, for what a test does to it."""

    def __init__(self, container: MskContainer) -> None:
        self.container = container

    @property
    def bootstrap(self) -> str:
        return self.container.bootstrap("PLAINTEXT")

    def topic(self, name: str, partitions: int = 4) -> str:
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        admin = AdminClient(self.client)
        admin.create_topics([NewTopic(unique, partitions, 1)])[unique].result(30)
        until(lambda: len(admin.list_topics(unique, timeout=10).topics[unique].partitions) == partitions)
        return unique


class MskBroker:
    def __init__(self, container: MskContainer, connection: Connection) -> None:
        self.kafka = Behind(container)
        self.connection = connection

    def stream(self) -> str:
        return self.kafka.topic("contract")

    def put(
        self,
        stream: str,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        self.kafka.produce(stream, values, key=key, partition=partition, headers=headers, timestamp=timestamp or 0)

    def source(self, stream: str, group: str) -> Source:
        return connector.source(SourceOptions(self.connection, (stream,), group))

    def sink(self, stream: str) -> Sink:
        return connector.sink(SinkOptions(self.connection, stream, timeout=20))

    def read(self, stream: str) -> list[Record[bytes]]:
        return self.kafka.read(stream)


def connect(container: MskContainer, listener: str, ca: Path, user: str | None = None, **options: Any) -> Connection:
    told = {"ssl.ca.location": str(ca), "heartbeat.interval.ms": "300", **options}
    return Connection("shop", "msk", container.bootstrap(listener), username=user, password=user and "password", options=told)


@pytest.fixture(scope="module")
def ca(msk: MskContainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return msk.pem("ca.pem", tmp_path_factory.mktemp("msk"))


class TestIam(Contract):
    @pytest.fixture
    def broker(self, msk: MskContainer, ca: Path) -> Broker:
        return MskBroker(msk, connect(msk, "IAM", ca, **IAM))

    def test_browsing_takes_nothing(self, broker: MskBroker, stream: str) -> None:
        broker.put(stream, b"1", b"2")
        for _ in range(2):
            told = SourceOptions(broker.connection, (stream,), "look")
            assert [record.value for batch in connector.browse(told) for record in batch] == [b"1", b"2"]
