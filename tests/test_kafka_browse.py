"""Looking at a topic without joining its group, with a client that is played by the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition

from worker.connectors import kafka_browse
from worker.errors import Refused, Unavailable
from worker.interface import Connection, SourceOptions

LOG = {0: (3, 8), 1: (0, 2), 2: (5, 5), 3: (0, 4)}
"""Of each partition the first offset and the end."""


POSITIONS = {0: OFFSET_INVALID, 1: 1, 2: 5, 3: 4}


class Client:
    later = 0
    """Records that are written while it reads."""
    failure: KafkaError | None = None

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.config, self.closed, self.commits = config, False, 0
        self.assigned: list[Message] = []

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=LOG, error=self.failure)})

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, POSITIONS[p.partition]) for p in places]

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return LOG[place.partition]

    def assign(self, places: list[TopicPartition]) -> None:
        self.assigned = [
            Message(topic=p.topic, partition=p.partition, offset=offset, value=b"%d" % offset)
            for p in places
            for offset in range(p.offset, LOG[p.partition][1] + self.later)
        ]

    def consume(self, most: int, timeout: float) -> list[Message]:
        taken, self.assigned = self.assigned[:most], self.assigned[most:]
        return taken

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    made: list[Client] = []
    monkeypatch.setattr(kafka_browse, "Consumer", lambda config, logger: made.append(Client(config)) or made[-1])
    return made


def browsed(batch_size: int = 2) -> dict[Any, list[Any]]:
    options = SourceOptions(Connection("shop", "kafka", "broker"), ("dead",), "group", batch_size=batch_size)
    found: dict[Any, list[Any]] = {}
    for batch in kafka_browse.browse(options):
        assert len(batch) <= batch_size
        found.setdefault(batch.partition.id, []).extend(record.id for record in batch)
    return found


@pytest.mark.parametrize("later", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_all_between_the_position_and_the_end_of_now(
    client: list[Client], monkeypatch: pytest.MonkeyPatch, later: int, batch_size: int
) -> None:
    monkeypatch.setattr(Client, "later", later)
    assert browsed(batch_size) == {0: [3, 4, 5, 6, 7], 1: [1]}
    assert client[0].closed and not client[0].config["enable.auto.commit"]


def test_a_topic_that_is_missing_is_refused(client: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "failure", KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(Refused, match="there is no topic dead"):
        browsed()
    assert client[0].closed


def test_a_coordinator_that_moves_is_asked_again(client: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = Client.committed, list[int]()

    def busy(self: Client, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        asked.append(1)
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
        return real(self, places, timeout)

    monkeypatch.setattr(Client, "committed", busy)
    monkeypatch.setattr("worker.connectors.kafka_browse.time.sleep", lambda seconds: None)
    assert browsed() == {0: [3, 4, 5, 6, 7], 1: [1]} and len(asked) == 3


def test_records_that_do_not_come_are_not_waited_for_for_ever(client: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def silent(self: Client, most: int, timeout: float) -> list[Message]:
        now[0] += timeout
        return []

    monkeypatch.setattr(Client, "consume", silent)
    monkeypatch.setattr("worker.connectors.kafka_browse.time.monotonic", lambda: now[0])
    with pytest.raises(Unavailable, match="nothing came of dead for 30 s"):
        browsed()
    assert 30 <= now[0] <= 32
