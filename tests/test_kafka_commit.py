"""Positions: what is committed, when, and what becomes of a commit that failed. The client is one that only notes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from worker.connectors.kafka_batch import KafkaBatch
from worker.connectors.kafka_commit import Positions
from worker.connectors.kafka_errors import Explain
from worker.interface import Batch, Partition

ORDERS = Partition("orders", 0)


def message(partition: int, offset: int) -> Message:
    return Message(topic="orders", partition=partition, offset=offset, value=b"v")


class Commits:
    """Takes the place of the client: keeps what is committed, and refuses it when told to."""

    def __init__(self) -> None:
        self.sent: list[list[tuple[int, int]]] = []
        self.error: KafkaError | None = None

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.sent.append([(o.partition, o.offset) for o in offsets])
        if not asynchronous and self.error:
            raise KafkaException(self.error)
        return offsets


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def positions(now: list[float]) -> Positions:
    made = Positions(1.0, Explain("kafka", {}, stream="orders"), lambda: now[0])
    made.own(ORDERS, 5, committed=True)
    return made


def finished(offset: int, partition: int = 0) -> list[Batch]:
    return [KafkaBatch(Partition("orders", partition), [message(partition, offset)])]


def test_a_commit_that_failed_goes_again_with_what_was_finished_since(positions: Positions, now: list[float]) -> None:
    client: Any = Commits()
    positions.finish(finished(7))
    positions.send(client)
    positions.finish(finished(8))
    now[0] += 5
    positions.send(client)
    assert client.sent == [[(0, 8)]], "one at a time"
    positions.answered(KafkaError(KafkaError.ILLEGAL_GENERATION), [TopicPartition("orders", 0, 8)])
    now[0] += 5
    positions.send(client)
    positions.answered(None, [TopicPartition("orders", 0, 9)])
    assert client.sent == [[(0, 8)], [(0, 9)]]
    assert positions.pending() == []


def test_an_error_of_one_partition_keeps_only_that_one_pending(positions: Positions) -> None:
    positions.own(Partition("orders", 1), 0, committed=True)
    positions.finish(finished(7) + finished(3, partition=1))
    good, bad = positions.pending()
    failed: Any = SimpleNamespace(topic=bad.topic, partition=1, offset=bad.offset, error=KafkaError(KafkaError.NOT_COORDINATOR))
    positions.answered(None, [good, failed])
    assert [o.partition for o in positions.pending()] == [1]


def test_partitions_given_away_are_committed_no_more(positions: Positions) -> None:
    positions.forget({ORDERS})
    positions.finish(finished(7))
    assert positions.pending() == []


def test_a_flush_gives_up_at_its_bound_or_when_trying_again_is_useless(
    positions: Positions, now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = Commits()
    monkeypatch.setattr("worker.connectors.kafka_commit.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    positions.finish(finished(7))
    client.error = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    assert positions.flush(client, {ORDERS}, 1.0) == client.error
    assert 5 < len(client.sent) < 15
    client.sent.clear()
    client.error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    positions.flush(client, {ORDERS}, 1.0)
    assert len(client.sent) == 1
    assert "these records come again" in caplog.text


def test_a_place_that_only_the_client_knows_is_not_committed(positions: Positions) -> None:
    positions.own(Partition("orders", 1), -1001, committed=False)
    assert positions.pending() == []
    positions.finish(finished(3, partition=1))
    assert [(one.partition, one.offset) for one in positions.pending()] == [(1, 4)]


def test_a_commit_names_the_epoch_of_its_record(positions: Positions) -> None:
    """By which a broker tells a log that was truncated since."""
    last: Any = SimpleNamespace(offset=lambda: 7, leader_epoch=lambda: 3)
    positions.finish([KafkaBatch(ORDERS, [last])])
    assert [(one.offset, one.leader_epoch) for one in positions.pending()] == [(8, 3)]


def test_nothing_is_unconfirmed_where_the_broker_has_the_position(positions: Positions) -> None:
    """The answer to a commit may be lost with its connection, and the answer to another one say the same."""
    positions.finish(finished(7))
    assert positions.unconfirmed == 1
    positions.send(Commits())  # type: ignore[arg-type]
    positions._owned[ORDERS].sent = (-1, 0)  # a partition that went and came back has forgotten what was asked for
    positions.answered(None, [TopicPartition("orders", 0, 8)])
    assert positions.unconfirmed == 0
