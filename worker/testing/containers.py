"""Real brokers for tests, as containers (`pip install stream-worker[testing]`, and a container engine).

    @pytest.fixture(scope="session")
    def kafka():
        with KafkaContainer() as kafka:
            yield kafka

    def test_orders_are_charged(kafka):
        topic = kafka.topic("orders", partitions=2)
        kafka.produce(topic, [b'{"id": 1, "total": 2.5}'], key=b"customer-1")
        ...

Ports are chosen beforehand and published on 127.0.0.1 only, so a broker that was stopped and started is found again.
"""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from testcontainers.core.container import DockerContainer

from worker.testing.kafka import Kafka, Silent

KAFKA_IMAGE = "WORKER_TEST_KAFKA_IMAGE"
"""The variable that names another image than the official one."""

_READY = 180.0
_CHANCE = random.SystemRandom()


class BrokerContainer(DockerContainer):
    """A broker that can be stopped, killed and started again under the feet of a test."""

    def publish(self, *ports: int) -> dict[int, int]:
        """Chooses a free port of this machine for each port of the container."""
        chosen = {port: free_port() for port in ports}
        for port, host_port in chosen.items():
            self.ports[str(port)] = ("127.0.0.1", host_port)  # type: ignore[assignment]  # docker takes a tuple, too
        return chosen

    def wait_until_ready(self) -> None:
        """Returns once clients are served; each broker has its own way to tell."""

    def start(self) -> Self:
        super().start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop_broker(self) -> None:
        """An orderly shutdown; its data stay."""
        self.get_wrapped_container().stop(timeout=30)

    def kill_broker(self) -> None:
        """SIGKILL; its data stay as far as it had written them."""
        self.get_wrapped_container().kill()

    def start_broker(self) -> None:
        """Starts it again, on the same ports, and waits until clients are served."""
        self.get_wrapped_container().start()
        self.wait_until_ready()

    def logged(self) -> str:
        """What it has written so far."""
        written: bytes = self.get_wrapped_container().logs()
        return written.decode(errors="replace")


class KafkaContainer(Kafka, BrokerContainer):
    """Apache Kafka with one broker, without authentication.

    >>> with KafkaContainer() as kafka:
    ...     topic = kafka.topic(partitions=4, retention_ms=60_000)
    ...     kafka.produce(topic, [b"1"])
    """

    def __init__(self, image: str | None = None, **environment: str) -> None:
        """`environment`: settings of the broker, as in `KAFKA_LOG_RETENTION_MS="60000"`."""
        super().__init__(image or os.environ.get(KAFKA_IMAGE) or "apache/kafka:4.3.1")
        self._port = self.publish(9092)[9092]
        self.with_envs(**_SINGLE_BROKER)
        self.with_envs(
            KAFKA_LISTENERS="PLAINTEXT://:9092,BROKER://:9093,CONTROLLER://:9094",
            # Brokers talk to themselves about transactions, and inside the container the published port is nobody's.
            KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://127.0.0.1:{self._port},BROKER://localhost:9093",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_INTER_BROKER_LISTENER_NAME="BROKER",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9094",
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
        )
        self.with_envs(**environment)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    def wait_until_ready(self) -> None:
        _wait_for_kafka(self.client)

    def topic(self, name: str = "topic", partitions: int = 4, **config: object) -> str:
        """Makes a topic, `name` with something unique behind it; `config` as in `retention_ms=1000`."""
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        settings = {option.replace("_", "."): str(value) for option, value in config.items()}
        admin = AdminClient(self.client, logger=Silent())
        admin.create_topics([NewTopic(unique, partitions, 1, config=settings)])[unique].result(30)
        while len(admin.list_topics(unique, timeout=10).topics[unique].partitions) < partitions:
            time.sleep(0.02)
        return unique


class MskContainer(BrokerContainer):
    """Kafka with the listeners of Amazon MSK: needs an image that takes `MSK=1`, named by WORKER_TEST_KAFKA_IMAGE.

    >>> with MskContainer(MSK_CLIENT_AUTH="required") as msk:
    ...     bootstrap, ca = msk.bootstrap("TLS"), msk.pem("ca.pem", tmp_path)
    """

    LISTENERS: ClassVar = {"PLAINTEXT": 9092, "TLS": 9094, "SCRAM": 9096, "IAM": 9098}
    SECRETS = "/etc/kafka/secrets"

    def __init__(self, image: str | None = None, **environment: str) -> None:
        super().__init__(image or os.environ[KAFKA_IMAGE])
        self._published = self.publish(*self.LISTENERS.values())
        advertised = ",".join(f"{name}://{self.bootstrap(name)}" for name in self.LISTENERS)
        self.with_envs(**_SINGLE_BROKER)
        self.with_envs(MSK="1", MSK_ADVERTISED=advertised)
        self.with_envs(**environment)

    def bootstrap(self, listener: str) -> str:
        """`host:port` of PLAINTEXT, TLS, SCRAM or IAM."""
        return f"localhost:{self._published[self.LISTENERS[listener]]}"

    def pem(self, name: str, directory: Path) -> Path:
        """Copies ca.pem, client.pem or client.key, made when the container first started, out of it."""
        path = Path(directory, name)
        self.copy_from_container(f"{self.SECRETS}/{name}", path)
        return path

    def wait_until_ready(self) -> None:
        _wait_for_kafka({"bootstrap.servers": self.bootstrap("PLAINTEXT")})


_SINGLE_BROKER = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    # Else each new group waits 3 s for more members, or 5 s for a heartbeat, and a restarted broker first reads 100
    # partitions of its own.
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "200",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "200",
    # Tests that kill workers ask for short sessions: the broker takes none below 6 s by default.
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    # A broker of a test does not live long enough for optimised code to pay: without it, a start takes a third less CPU.
    "KAFKA_HEAP_OPTS": "-Xmx768m -Xms256m -XX:TieredStopAtLevel=1",
}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    It is below those that the system gives to outgoing connections: one of these could take it before the broker does, or
    while the broker is down. Seeds of a test run must not matter, or all its processes would choose the same ports.
    """
    while True:
        port = _CHANCE.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _wait_for_kafka(client: dict[str, Any]) -> None:
    deadline = time.monotonic() + _READY
    while True:
        try:
            # A client of its own each time: one that failed backs off for up to 10 s.
            if AdminClient({**client, "socket.timeout.ms": 2000}, logger=Silent()).list_topics(timeout=1).brokers:
                return
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no Kafka at {client['bootstrap.servers']} after {_READY:.0f} s") from error
