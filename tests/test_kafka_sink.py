"""Several threads publish dead letters at once; a topic that is made when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.waiting import until
from worker.connectors import kafka_sink
from worker.connectors.kafka_reach import find
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions


class Producer:
    """Its reports come in whichever thread polls first; every other poll sleeps for as long as it may."""

    def __init__(self, *_: object, **__: object) -> None:
        self.reports: list[Callable[[None, None], None]] = []
        self.go = threading.Event()
        self.polls = 0

    def produce(self, *_: object, on_delivery: Any, **__: object) -> None:
        self.reports.append(on_delivery)

    def poll(self, timeout: float) -> int:
        self.polls += 1
        if self.polls > 1:
            threading.Event().wait()  # for ever: whoever sleeps here is found by the test
        self.go.wait()
        for report in self.reports:
            report(None, None)
        return len(self.reports)


def test_one_thread_polls_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each polled, one would sleep in its poll while another one's serves its reports: 50 ms for each batch of letters."""
    monkeypatch.setattr(kafka_sink, "Producer", Producer)
    sink = kafka_sink.KafkaSink(SinkOptions(Connection("k", "kafka", "nowhere:9092"), "dead"))
    producer: Any = sink._connected()
    letter = DeadLetter(Record(b"v", None, (), None, 1, Partition("t", 0)), ValueError(), 1, ())
    threads = [threading.Thread(target=sink.publish, args=([letter],), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(producer.reports) == 3 and producer.polls == 1)
    producer.go.set()
    until(lambda: not any(thread.is_alive() for thread in threads), patience=10)
    assert producer.polls == 1


class Making:
    """A broker that makes a topic when it is asked for, which takes it a moment."""

    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers

    def list_topics(self, topic: str, timeout: float) -> Any:
        code = self.answers.pop(0)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None if code is None else KafkaError(code))})

    def poll(self, timeout: float) -> None: ...


MISSING, WAITS = KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE


@pytest.mark.parametrize("creates", [True, "true"])
def test_a_topic_that_is_made_when_asked_for_is_waited_for(creates: object) -> None:
    client: Any = Making([MISSING, WAITS, None])
    assert find(client, "orders", {"allow.auto.create.topics": creates}).error is None
    assert client.answers == []


def test_without_that_and_after_a_while_it_is_missing() -> None:
    client: Any = Making([MISSING, None])
    assert find(client, "orders", {"allow.auto.create.topics": False}).error.code() == MISSING
    clock, never = iter([0.0, 1.0, 6.0]), [MISSING, MISSING]
    client = Making(never)
    assert find(client, "orders", {"allow.auto.create.topics": True}, lambda: next(clock)).error.code() == MISSING
    assert never == []
