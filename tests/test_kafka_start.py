"""Where a partition begins, asked of a client that the test plays."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from worker.connectors import kafka_start
from worker.interface import Partition

ORDERS = Partition("orders", 0)


class Client:
    def __init__(self, *failures: int) -> None:
        self.failures = list(failures)

    def offsets_for_times(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.failures:
            raise KafkaException(KafkaError(self.failures.pop()))
        return [TopicPartition(one.topic, one.partition, 17) for one in asked]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("worker.connectors.kafka_start.time.sleep", waited.append)
    return waited


def test_a_leader_that_moves_is_asked_again(waits: list[float]) -> None:
    client: Any = Client(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert kafka_start.lookup(client, [ORDERS], OFFSET_BEGINNING) == {ORDERS: 17}
    assert len(waits) == 2


def test_a_leader_that_stays_away_and_any_other_failure_are_errors(waits: list[float]) -> None:
    lasting: Any = Client(*[KafkaError.NOT_LEADER_FOR_PARTITION] * 9)
    with pytest.raises(KafkaException):
        kafka_start.lookup(lasting, [ORDERS], OFFSET_BEGINNING)
    assert 0 < sum(waits) < 3
    denied: Any = Client(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        kafka_start.lookup(denied, [ORDERS], OFFSET_BEGINNING)
