"""What a test does to a RabbitMQ in a container: make a queue, write to it, read it back, ask for its depth."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from worker.interface import KEY_HEADER, Partition, Record
from worker.testing.containers import BrokerContainer

RABBITMQ_IMAGE = "WORKER_TEST_RABBITMQ_IMAGE"

_READY = 180.0


class RabbitMQContainer(BrokerContainer):
    """RabbitMQ with one node.

    >>> with RabbitMQContainer() as rabbitmq:
    ...     queue = rabbitmq.queue("orders")
    ...     rabbitmq.produce(queue, [b"1", b"2"])
    """

    USER, PASSWORD = "test", "secret"

    def __init__(self, image: str | None = None, **environment: str) -> None:
        super().__init__(image or os.environ.get(RABBITMQ_IMAGE) or "rabbitmq:4-management")
        ports = self.publish(5672, 5671)
        self._port, self.tls_port = ports[5672], ports[5671]
        self.with_envs(RABBITMQ_DEFAULT_USER=self.USER, RABBITMQ_DEFAULT_PASS=self.PASSWORD)
        # Its data are kept in a folder of the node's name, and the container's own would be another at each start.
        self.with_envs(RABBITMQ_NODENAME="rabbit@localhost")
        self.with_envs(**environment)

    @property
    def address(self) -> str:
        """`host:port`"""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """For `App(connections={"rabbitmq": rabbitmq.url})`."""
        return f"rabbitmq://{self.USER}:{self.PASSWORD}@{self.address}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY
        while True:
            try:
                with self.channel():
                    return
            except (AMQPError, OSError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no RabbitMQ at {self.address} after {_READY:.0f} s") from None
                time.sleep(0.1)

    def stop_broker(self) -> None:
        """An orderly shutdown; its data stay. The node itself is asked: where a script is the container's first process, the
        signal of `docker stop` does not reach it, and ten or thirty seconds later it is killed."""
        container = self.get_wrapped_container()
        container.exec_run(["rabbitmqctl", "stop"])
        container.wait(timeout=60)

    def ctl(self, *command: str) -> str:
        """`rabbitmqctl`, inside the container."""
        code, written = self.get_wrapped_container().exec_run(["rabbitmqctl", *command])
        if code:
            raise RuntimeError(f"rabbitmqctl {' '.join(command)}: {written.decode(errors='replace')}")
        return str(written.decode())

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """pika's own, on a connection that is closed afterwards."""
        credentials = pika.PlainCredentials(self.USER, self.PASSWORD)
        connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self._port, credentials=credentials))
        try:
            yield connection.channel()
        finally:
            with suppress(AMQPError):
                connection.close()

    def queue(self, name: str = "queue", kind: str = "quorum", **arguments: Any) -> str:
        """Declares a durable queue, `name` with something unique behind it, bound to an exchange of its name that gives it all
        it gets; `arguments` as in `x_max_priority=5`. A quorum queue keeps messages that come back often."""
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        told = {option.replace("_", "-"): value for option, value in arguments.items()} | {"x-queue-type": kind}
        if kind == "quorum":
            told.setdefault("x-delivery-limit", -1)
        with self.channel() as channel:
            channel.queue_declare(unique, durable=True, arguments=told)
            channel.exchange_declare(unique, "fanout", durable=True)
            channel.queue_bind(unique, unique)
        return unique

    def produce(
        self,
        queue: str,
        values: Iterable[bytes],
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        **properties: Any,
    ) -> None:
        """Writes `values` in order, persistent, with `key` as routing key; returns once the broker has them all."""
        told = pika.BasicProperties(headers=dict(headers) or None, delivery_mode=2, **properties)
        with self.channel() as channel:
            channel.confirm_delivery()
            for value in values:
                channel.basic_publish(queue, (key or b"").decode(), value, told, mandatory=True)

    def read(self, queue: str) -> list[Record[bytes]]:
        """All that is ready in `queue`; it stays there, and in order as long as nothing else that came back waits in it."""
        if not (count := self.depth(queue)):
            return []
        found: list[Record[bytes]] = []
        with self.channel() as channel:
            channel.basic_qos(prefetch_count=count)
            for method, properties, body in channel.consume(queue, inactivity_timeout=_READY):  # a consumer's come back in order
                assert method is not None, f"{len(found)} of {count} messages came from {queue}"
                found.append(_record(queue, method, properties, body))
                if len(found) == count:
                    break
        while self.depth(queue) < count:
            time.sleep(0.01)
        return found

    def depth(self, queue: str) -> int:
        """Messages that wait; those that are delivered and not settled do not count."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)


def _record(queue: str, method: Any, properties: Any, body: bytes) -> Record[bytes]:
    headers = {name: value.encode() if isinstance(value, str) else value for name, value in (properties.headers or {}).items()}
    key = headers.pop(KEY_HEADER, method.routing_key.encode())
    return Record(body, key, tuple(headers.items()), None, method.delivery_tag, Partition(queue, 0), vars(properties))
