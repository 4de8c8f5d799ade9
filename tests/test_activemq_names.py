"""Names of queues and topics: as this project writes them, and as others do."""

from __future__ import annotations

import pytest

from worker.connectors import activemq as connector
from worker.connectors.activemq_batch import ActiveMQBatch
from worker.connectors.activemq_errors import said
from worker.connectors.activemq_headers import Header
from worker.deadletter import letter
from worker.errors import ConfigError, Refused
from worker.interface import Connection, Partition, SinkOptions, SourceOptions
from worker.letters import Letter
from worker.work import GivenUp

A = Connection("a", "activemq", "localhost:61613")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("/queue/orders", "a:orders"),
        ("queue/orders", "a:orders"),
        ("queue://orders", "a:orders"),
        ("QUEUE://orders", "a:orders"),
        ("//queue//orders", "a:orders"),
        ("/topic/prices", "a:topic/prices"),
        ("topic://prices", "a:topic/prices"),
        ("Topic/prices", "a:topic/prices"),
        ("temp-queue://x", "a:x"),
        ("/temp-queue/x", "a:x"),
        ("/exchange/x", "a:x"),
        ("/amq/queue/x", "a:x"),
    ],
)
def test_names_as_other_clients_write_them_are_refused(name: str, write: str) -> None:
    """They were queues of such a name, which nobody writes to and nobody looks at."""
    with pytest.raises(ConfigError, match=f'write "{write}"'):
        connector.source(SourceOptions(A, (name,), "group"))
    with pytest.raises(ConfigError, match=f'write "{write}"'):
        connector.sink(SinkOptions(A, name))


@pytest.mark.parametrize("name", ["orders", "orders.queue", "queue", "queues/orders", "topic/prices", "topic/a.>", "a.>", "a/b"])
def test_names_that_are_fine(name: str) -> None:
    connector.source(SourceOptions(A, (name,), "group"))


def test_advisories_are_refused_once() -> None:
    with pytest.raises(ConfigError, match="advisories"):
        connector.source(SourceOptions(A, ("topic/ActiveMQ.Advisory.Queue",), "group"))
    frame = b"ERROR\nmessage:Cannot create a durable subscription for an advisory Topic", b""
    assert isinstance(said(A, frame), Refused)


def test_a_letter_of_a_topic_is_refused_for_its_own_reason() -> None:
    with pytest.raises(ConfigError, match="every subscriber would get it"):
        connector.sink(SinkOptions(A, "topic/prices", partitions=True))
    with pytest.raises(ConfigError, match="name a queue"):
        connector.sink(SinkOptions(A, "topic/prices"))
    with pytest.raises(ConfigError, match="many queues"):
        connector.sink(SinkOptions(A, "orders.>"))


@pytest.mark.parametrize(
    ("subscribed", "stream", "gets"),
    [
        *[("orders", "orders", True), ("orders", "orders.eu", False), ("orders.>", "orders.eu", True)],
        *[("orders.>", "orders.eu.north", True), ("orders.>", "orders", True), ("orders.>", "other.eu", False)],
        *[("orders.*", "orders.eu", True), ("orders.*", "orders.eu.north", False), ("*.eu", "orders.eu", True)],
        *[("orders.*.x", "orders.eu.x", True), (">", "anything.at.all", True), (">", "topic/a", False)],
        *[
            ("topic/a.>", "topic/a.b", True),
            ("topic/a.>", "a.b", False),
            ("orders.>", "orders.>", False),
            ("orders.>", "", False),
        ],
    ],
)
def test_what_a_subscription_gets(subscribed: str, stream: str, gets: bool) -> None:
    assert connector.matches(subscribed, stream) is gets


@pytest.mark.parametrize(
    ("destination", "stream"),
    [("/queue/orders.eu", "orders.eu"), ("/queue/elsewhere", "orders.>"), ("", "orders.>"), ("/queue/orders.>", "orders.>")],
)
def test_a_letter_names_the_queue_that_its_record_was_in(destination: str, stream: str) -> None:
    """It named the pattern, and a redrive gave it to the consumers of every queue that fits."""
    head = f"MESSAGE\nack:1\ndestination:{destination}".encode()
    [record] = ActiveMQBatch(Partition("orders.>", 0), [(0, head, b"v")])
    assert record.partition == Partition(stream, 0)
    own: list[Header] = list(letter(GivenUp(0, ValueError(), 1), record, "shop.take", 1.0).headers)
    assert Letter(record._replace(headers=own)).partition.stream == stream
