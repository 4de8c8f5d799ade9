"""Every way to log in that works, and permissions: records there and back, dead letters too."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.conftest import KAFKA_IMAGE, need_engine
from worker.connectors import kafka as connector
from worker.connectors.kafka_config import ClientLog
from worker.errors import ConnectorError, Refused
from worker.interface import Batch, Connection, DeadLetter, Partition, Record, SinkOptions, SourceOptions
from worker.testing import KafkaContainer, MskContainer

RECORD = Record(b"v", b"k", (("h", b"1"),), 7, 0, Partition("orders", 0))


def ignore(partitions: Collection[Partition], *, lost: bool) -> None: ...


def there_and_back(connection: Connection, topic: str, group: str = "group") -> None:
    sink = connector.sink(SinkOptions(connection, topic))
    sink.open()
    sink.publish([DeadLetter(RECORD, ValueError("x"), 1, RECORD.headers)])
    sink.close()
    assert {(record.value, record.key) for record in read(connection, topic, group)} == {(b"v", b"k")}


def read(connection: Connection, topic: str, group: str = "group") -> list[Record[bytes]]:
    source = connector.source(SourceOptions(connection, (topic,), group))
    source.open(ignore)
    try:
        deadline = time.monotonic() + 20
        got: list[Batch] = []
        while not got and time.monotonic() < deadline:
            got = source.poll(500, 0.1)
        return [record for batch in got for record in batch]
    finally:
        source.close()


def connection(hosts: str, user: str | None = None, password: str | None = None, **options: Any) -> Connection:
    dotted = {name.replace("__", "."): str(value) for name, value in options.items()}
    return Connection("shop", "kafka", hosts, username=user, password=password, options=dotted)


class PlainContainer(KafkaContainer):
    """Asks clients for SASL PLAIN."""

    def __init__(self) -> None:
        super().__init__(
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="PLAINTEXT:SASL_PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_SASL_ENABLED_MECHANISMS="PLAIN",
            KAFKA_LISTENER_NAME_PLAINTEXT_PLAIN_SASL_JAAS_CONFIG=(
                'org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="right";'
            ),
        )

    @property
    def client(self) -> dict[str, Any]:
        login = {"sasl.mechanism": "PLAIN", "sasl.username": "ann", "sasl.password": "right"}
        return {"bootstrap.servers": self.bootstrap, "security.protocol": "SASL_PLAINTEXT", **login}


@pytest.mark.docker
def test_sasl_plain() -> None:
    need_engine()
    with PlainContainer() as kafka:
        options = {"security__protocol": "sasl_plaintext"}
        there_and_back(connection(kafka.bootstrap, "ann", "right", **options), kafka.topic())
        with pytest.raises(Refused) as refused:
            read(connection(kafka.bootstrap, "ann", "hunter2", **options), "orders")
        assert "hunter2" not in str(refused.value) and "login failed: check user, password" in str(refused.value)


@pytest.fixture(scope="module")
def guarded() -> Iterator[MskContainer]:
    """With permissions, and client certificates required."""
    import os

    need_engine()
    if not os.environ.get(KAFKA_IMAGE):
        pytest.skip(f"no image with the listeners of Amazon MSK: {KAFKA_IMAGE} is not set")
    with MskContainer(
        KAFKA_AUTHORIZER_CLASS_NAME="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        KAFKA_SUPER_USERS="User:ANONYMOUS;User:CN=client",
        MSK_CLIENT_AUTH="required",
    ) as container:
        yield container


def admin(container: MskContainer) -> AdminClient:
    return AdminClient({"bootstrap.servers": container.bootstrap("PLAINTEXT")}, logger=ClientLog())


def allow(container: MskContainer, kind: ResourceType, name: str, operation: AclOperation, user: str) -> None:
    binding = AclBinding(kind, name, ResourcePatternType.LITERAL, user, "*", operation, AclPermissionType.ALLOW)
    client = admin(container)
    for done in client.create_acls([binding]).values():
        done.result()


def create(container: MskContainer, topic: str) -> None:
    client = admin(container)
    client.create_topics([NewTopic(topic, 1, 1)])[topic].result()


@pytest.mark.docker
def test_permissions_are_named_one_by_one(guarded: MskContainer, tmp_path: Path) -> None:
    create(guarded, "guarded")
    ca = guarded.pem("ca.pem", tmp_path)
    user = connection(guarded.bootstrap("SCRAM"), "user", "password", ssl__ca__location=ca, sasl__mechanism="SCRAM-SHA-512")

    def refusal() -> str:
        with pytest.raises(ConnectorError) as refused:
            for _ in range(20):
                read(user, "guarded", "readers")
        assert isinstance(refused.value, Refused)
        return str(refused.value)

    assert "guarded" in refusal()
    allow(guarded, ResourceType.TOPIC, "guarded", AclOperation.READ, "User:user")
    until_refusal_names("readers", refusal)
    allow(guarded, ResourceType.GROUP, "readers", AclOperation.READ, "User:user")
    allow(guarded, ResourceType.TOPIC, "guarded", AclOperation.WRITE, "User:user")
    deadline = time.monotonic() + 20
    while True:  # permissions take a moment to reach the broker
        try:
            there_and_back(user, "guarded", "readers")
            return
        except ConnectorError:
            assert time.monotonic() < deadline


def until_refusal_names(word: str, refusal: Any) -> None:
    deadline = time.monotonic() + 20
    while word not in refusal():
        assert time.monotonic() < deadline


@pytest.mark.docker
def test_mutual_tls(guarded: MskContainer, tmp_path: Path) -> None:
    pems = {name: guarded.pem(name, tmp_path) for name in ("ca.pem", "client.pem", "client.key")}
    without = connection(guarded.bootstrap("TLS"), ssl__ca__location=pems["ca.pem"])
    with pytest.raises(Refused, match="certificate"):
        read(without, "mutual")
    name = client_name(pems["client.pem"])
    create(guarded, "mutual")
    for kind, resource in ((ResourceType.TOPIC, "mutual"), (ResourceType.GROUP, "group")):
        allow(guarded, kind, resource, AclOperation.ALL, f"User:{name}")
    secure = connection(
        guarded.bootstrap("TLS"),
        ssl__ca__location=pems["ca.pem"],
        ssl__certificate__location=pems["client.pem"],
        ssl__key__location=pems["client.key"],
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            there_and_back(secure, "mutual")
            return
        except ConnectorError:
            assert time.monotonic() < deadline


def client_name(certificate: Path) -> str:
    """The distinguished name as Kafka writes it."""
    import ssl

    decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    parts = [f"{short[name]}={value}" for relative in decoded["subject"] for name, value in relative]
    return ",".join(reversed(parts))
