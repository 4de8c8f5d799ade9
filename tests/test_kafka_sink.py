"""Several threads publish dead letters at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import until
from worker.connectors import kafka_sink
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
