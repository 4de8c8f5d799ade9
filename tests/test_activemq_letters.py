"""What a dead letter for ActiveMQ looks like."""

from __future__ import annotations

import pytest

from connectors.activemq_frames import headers
from connectors.activemq_sink import ActiveMQSink
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions


@pytest.mark.parametrize(
    "name", ["expires", "JMSExpiration", "timestamp", "priority", "transaction", "id", "AMQ_SCHEDULED_DELAY"]
)
def test_a_records_own_header_does_not_tell_the_broker_anything(name: str) -> None:
    sink = ActiveMQSink(SinkOptions(Connection("a", "activemq", "localhost:61613"), "dead"))
    record = Record(b"v", b"k", ((name, b"1000"), ("plain", b"1")), None, 1, Partition("q", 0))
    frame = sink._frame(DeadLetter(record, ValueError(), 1, record.headers), "receipt-1")
    told = headers(frame.partition(b"\n\n")[0].partition(b"\n")[2])
    assert name not in told
    assert (told[f"x-{name}"], told["plain"]) == ("1000", "1")
