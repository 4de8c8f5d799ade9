"""Writes numbered records, each key to one partition for good, and remembers in which order and what the broker confirmed."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pika
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from tests.waiting import PATIENCE
from worker.interface import Partition
from worker.testing import ActiveMQContainer, RabbitMQContainer
from worker.testing.activemq import Stomp, destination
from worker.testing.kafka import Silent

BURST = 10
KEYS = 16
"""Of each partition."""
KINDS = {"good": 985, "flaky": 4, "named": 3, "poison": 3, "reject": 3, "whole": 2}
"""Of a thousand records."""


class Sent(NamedTuple):
    name: str
    """number.copy: where the broker goes away unheard, the number is sent again as the next copy."""
    place: Partition
    key: str

    def value(self, kind: str) -> bytes:
        return f"{self.name} {kind}".encode()


class Load(threading.Thread, ABC):
    """Produces until `finish`, a burst at a time."""

    def __init__(self, places: Sequence[Partition], seed: int, rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self.places = places
        """The stage's own: more may be added."""
        self.sent: list[Sent] = []
        """In the order of each partition, confirmed or not."""
        self.confirmed: set[str] = set()
        self.failure: BaseException | None = None
        self._rng = random.Random(seed)
        self._rate = rate
        self._enough = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self._enough.wait(BURST / self._rate):
                self._send([self._next(number + i) for i in range(BURST)])
                number += BURST
            self._end()
        except BaseException as error:
            self.failure = error

    def _next(self, number: int) -> tuple[Sent, str]:
        place = self._rng.choice(self.places)
        key = f"{self.places.index(place)}-{self._rng.randrange(KEYS)}"
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        return Sent(f"{number}.0", place, key), kind

    @abstractmethod
    def _send(self, burst: Sequence[tuple[Sent, str]]) -> None:
        """Returns when it is on its way, or confirmed."""

    def _end(self) -> None:
        """All that was sent is confirmed."""

    def finish(self) -> None:
        self._enough.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "the producer hangs"
        assert self.failure is None, f"the producer failed: {self.failure!r}"


class KafkaLoad(Load):
    def __init__(self, client: dict[str, Any], places: Sequence[Partition], seed: int, rate: float) -> None:
        super().__init__(places, seed, rate)
        more = {"enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 120_000}
        self._producer = Producer({**client, **more, "topic.metadata.refresh.interval.ms": 1_000}, logger=Silent())

    def _send(self, burst: Sequence[tuple[Sent, str]]) -> None:
        for one, kind in burst:
            with suppress(KafkaException):  # a partition that is too new
                self._producer.produce(
                    *(one.place.stream, one.value(kind), one.key), partition=int(one.place.id), on_delivery=self._delivered
                )
                self.sent.append(one)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.confirmed.add((message.value() or b"").decode().split()[0])

    def _end(self) -> None:
        self._producer.flush(PATIENCE)


class QueueLoad(Load):
    """One connection, made anew when it breaks; what was not confirmed then goes out again, as another copy."""

    def _send(self, burst: Sequence[tuple[Sent, str]]) -> None:
        rest = list(burst)
        while rest:
            with suppress(AMQPError, OSError, EOFError):
                while rest:
                    one, kind = rest[0]
                    self.sent.append(one)
                    self._publish(one, one.value(kind))
                    self.confirmed.add(one.name)
                    del rest[0]
                return
            self._disconnect()
            self._enough.wait(0.2)
            number, copy = rest[0][0].name.split(".")
            rest[0] = rest[0][0]._replace(name=f"{number}.{int(copy) + 1}"), rest[0][1]

    def _end(self) -> None:
        self._disconnect()

    @abstractmethod
    def _publish(self, one: Sent, value: bytes) -> None:
        """Returns once the broker has it."""

    @abstractmethod
    def _disconnect(self) -> None: ...


class RabbitMQLoad(QueueLoad):
    def __init__(self, broker: RabbitMQContainer, places: Sequence[Partition], seed: int, rate: float) -> None:
        super().__init__(places, seed, rate)
        self._broker = broker
        self._channel: BlockingChannel | None = None

    def _publish(self, one: Sent, value: bytes) -> None:
        if self._channel is None:
            url = self._broker.url.replace("rabbitmq://", "amqp://")
            self._channel = pika.BlockingConnection(pika.URLParameters(f"{url}/%2f?heartbeat=0")).channel()
            self._channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, headers={"dead_letter_key": one.key})
        self._channel.basic_publish("", one.place.stream, value, properties, mandatory=True)

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(AMQPError, OSError):
                channel.connection.close()


class ActiveMQLoad(QueueLoad):
    def __init__(self, broker: ActiveMQContainer, places: Sequence[Partition], seed: int, rate: float) -> None:
        super().__init__(places, seed, rate)
        self._broker = broker
        self._client: Stomp | None = None

    def _publish(self, one: Sent, value: bytes) -> None:
        if self._client is None:
            port = int(self._broker.address.rpartition(":")[2])
            self._client = Stomp(port, self._broker.USER, self._broker.PASSWORD)
        told = {"destination": destination(one.place.stream), "persistent": "true", "dead_letter_key": one.key}
        self._client.send("SEND", told | {"receipt": one.name, "content-length": str(len(value))}, value)
        while self._client.frame()[1].get("receipt-id") != one.name:
            pass

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
