"""The Kafka connector on the broker inside this process, and its parts that need none."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.waiting import until
from worker.connectors import kafka, kafka_embedded
from worker.connectors.kafka_commit import FLOODED
from worker.connectors.kafka_source import KafkaSource
from worker.errors import ConfigError, PublishError, Refused, Unavailable, Unconfirmed
from worker.interface import Batch, Connection, DeadLetter, Partition, Record, SinkOptions, SourceOptions

EMBEDDED = Connection("kafka", "kafka", "embedded")


@pytest.fixture(scope="module")
def producer() -> Producer:
    return Producer({"bootstrap.servers": kafka_embedded.bootstrap(), "linger.ms": 0})


@pytest.fixture
def topic(producer: Producer) -> str:
    name = f"orders-{uuid.uuid4().hex[:8]}"
    producer.list_topics(name, timeout=10)
    return name


def fill(producer: Producer, topic: str, count: int, partitions: int = 4, **more: Any) -> None:
    for i in range(count):
        producer.produce(topic, b"%d" % i, partition=i % partitions, **more)
    assert producer.flush(10) == 0


class Revocations(list[tuple[frozenset[Partition], bool]]):
    def __call__(self, partitions: Collection[Partition], *, lost: bool) -> None:
        self.append((frozenset(partitions), lost))


Open = Callable[..., KafkaSource]


@pytest.fixture
def opened(topic: str) -> Iterator[Open]:
    """A source of the test's topic, closed after it."""
    sources = []

    def source(group: str | None = None, on_revoke: Any = None, **options: Any) -> KafkaSource:
        made = kafka.source(SourceOptions(EMBEDDED, (topic,), group or f"group-{topic}", **options))
        sources.append(made)
        made.open(Revocations() if on_revoke is None else on_revoke)
        return made

    yield source
    for made in sources:
        with suppress(Unconfirmed):  # a test may end while its group rebalances
            made.close()


def read(source: KafkaSource, count: int, *, finish: bool = True, most: int = 500) -> list[Record[bytes]]:
    records: list[Record[bytes]] = []

    def step() -> None:
        for batch in source.poll(most, 0.05):
            records.extend(batch)
            if finish:
                source.commit([batch])

    until(lambda: len(records) >= count, step)
    return records


def committed(group: str, topic: str) -> list[tuple[int, str | None]]:
    client = Consumer({"bootstrap.servers": kafka_embedded.bootstrap(), "group.id": group})
    try:
        return [(p.offset, p.metadata) for p in client.committed([TopicPartition(topic, i) for i in range(4)], timeout=10)]
    finally:
        client.close()


def test_records_come_with_everything_they_have_and_in_order(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40, key=b"k", headers=[("a", b"1"), ("a", None)], timestamp=1234)
    records = read(opened(), 40)
    assert sorted(r.value or b"" for r in records) == sorted(b"%d" % i for i in range(40))
    for partition in range(4):
        assert [r.id for r in records if r.partition == (topic, partition)] == list(range(10))
    assert records[0][1:4] == (b"k", (("a", b"1"), ("a", None)), 1234)


def test_a_tombstone_and_absent_headers(producer: Producer, topic: str, opened: Open) -> None:
    producer.produce(topic, None, partition=0)
    producer.flush()
    (batch,) = _one_poll(opened())
    assert (batch.values(), batch.keys(), batch.sizes(), batch.size()) == ([None], [None], [0], 0)
    assert batch[0].headers == ()


def _one_poll(source: KafkaSource) -> list[Batch]:
    batches: list[Batch] = []
    until(lambda: batches, lambda: batches.extend(source.poll(500, 0.05)))
    return batches


def test_a_closed_source_has_committed_what_is_finished_and_nothing_else(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40)
    source = opened(commit_interval=300.0)
    read(source, 40)
    (partition0,) = [p for p in source._positions if p.id == 0]
    source._positions._owned[partition0].next = 4
    source.close()
    assert [offset for offset, _ in committed(f"group-{topic}", topic)] == [4, 10, 10, 10]


def test_commits_go_out_by_themselves(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 4)
    source = opened(commit_interval=0.05)
    read(source, 4)
    until(lambda: [o for o, _ in committed(f"group-{topic}", topic)] == [1, 1, 1, 1], lambda: source.poll(500, 0.05))


def test_closing_twice_and_before_open_is_fine(topic: str, opened: Open) -> None:
    source = opened()
    source.close()
    source.close()
    kafka.source(SourceOptions(EMBEDDED, (topic,), "group")).close()
    with pytest.raises(Unavailable):
        source.poll(1, 0)


def test_start_latest_is_made_durable_at_once(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40)
    source = opened(start="latest", commit_interval=300.0)
    until(lambda: len(source._positions) == 4, lambda: source.poll(500, 0.05))
    assert [offset for offset, _ in committed(f"group-{topic}", topic)] == [10, 10, 10, 10]


def test_start_says_where_and_how_much(producer: Producer, topic: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.kafka")
    fill(producer, topic, 40)
    read(opened(), 40)
    assert f"group group-{topic} has no position on {topic}[0..3]: starting at earliest, 40 records waiting" in caplog.messages


def test_the_embedded_broker_cannot_start_at_a_time(topic: str) -> None:
    from datetime import UTC, datetime

    with pytest.raises(ConfigError, match="cannot look up a time"):
        kafka.source(SourceOptions(EMBEDDED, (topic,), "group", start=datetime.now(UTC)))


def test_without_room_nothing_is_lost_or_reordered(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 400)
    source = opened()
    before = read(source, 1, most=1)
    until(lambda: len(source._held) >= 3, lambda: source.poll(0, 0))
    records = before + read(source, 400 - len(before))
    for partition in range(4):
        assert [r.id for r in records if r.partition.id == partition] == list(range(100))
    assert not source._held


def test_a_core_that_has_no_room_for_long_pauses_everything_and_goes_on(
    producer: Producer, topic: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.connectors.kafka_source._HELD", 3)
    fill(producer, topic, 400)
    source = opened()
    until(lambda: source._choked, lambda: source.poll(0, 0))
    records = read(source, 400)
    assert not source._choked
    for partition in range(4):
        assert [r.id for r in records if r.partition.id == partition] == list(range(100))


def test_records_held_back_of_a_paused_partition_wait_for_resume(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 10, partitions=1)
    source = opened()
    until(lambda: source._held, lambda: source.poll(0, 0))
    partition = Partition(topic, 0)
    source.pause([partition])
    assert [source.poll(500, 0.05) for _ in range(5)] == [[]] * 5
    source.resume([partition])
    assert [r.id for r in read(source, 10)] == list(range(10))


def test_rewind_gives_back_everything_unfinished_also_what_was_held_back(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 100, partitions=1)
    source = opened()
    partition = Partition(topic, 0)
    first = read(source, 10, most=10)
    read(source, 5, most=5, finish=False)
    until(lambda: source._held, lambda: source.poll(0, 0))
    source.rewind(partition)
    assert [r.id for r in first + read(source, 100 - len(first))] == list(range(100))


def test_rewind_of_a_paused_partition_starts_over_after_resume(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 100, partitions=1)
    source = opened()
    partition = Partition(topic, 0)
    read(source, 10, most=10, finish=False)
    source.pause([partition])
    source.rewind(partition)
    source.resume([partition])
    assert [r.id for r in read(source, 100)] == list(range(100))


def test_a_flood_is_remembered_with_the_positions_and_forgotten_again(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40)
    source = opened()
    read(source, 40)
    assert source.flooded is False
    source.flooded = True
    source.close()
    assert committed(f"group-{topic}", topic) == [(10, FLOODED)] * 4
    source = opened()
    until(lambda: source.flooded, lambda: source.poll(500, 0.05))
    source.flooded = False
    source.close()
    assert [offset for offset, _ in committed(f"group-{topic}", topic)] == [10] * 4
    assert FLOODED not in [metadata for _, metadata in committed(f"group-{topic}", topic)]


def test_lag_is_what_is_behind_the_position(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40)
    source = opened()
    assert source.lag() is None
    got = read(source, 1, most=1)
    until(lambda: source.lag() is not None, lambda: got.extend(r for b in source.poll(1, 0.05) for r in b))
    assert source.lag() == 40 - len(got)


def test_a_rebalance_wakes_the_client_for_what_we_keep(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is kept stands still for a second."""
    source, asked = kafka.source(SourceOptions(EMBEDDED, (topic,), "group")), list[set[int]]()

    class Client:
        def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> None:
            assert timeout < 0.1
            asked.append({place.partition for place in places})
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

        poll = consume = commit = incremental_unassign = lambda self, *_, **__: []

    client: Any = Client()
    source._consumer = client
    source._on_revoke = Revocations()
    monkeypatch.setattr(source, "_receive", lambda *_: [])
    for number in range(4):
        source._positions.own(Partition(topic, number), 0, committed=True)
    for gone, kept in (([0, 1], [{2, 3}]), ([2, 3], [])):
        asked.clear()
        source._revoked(client, [TopicPartition(topic, number) for number in gone])
        source.poll(10, 0)
        source.poll(10, 0)
        assert asked == kept


def test_an_error_in_a_callback_is_raised_by_poll_and_not_in_the_client(producer: Producer, topic: str, opened: Open) -> None:
    fill(producer, topic, 40)

    def broken(partitions: Collection[Partition], *, lost: bool) -> None:
        raise ZeroDivisionError

    one = opened(on_revoke=broken)
    read(one, 40)
    two = opened()
    with pytest.raises(ZeroDivisionError):
        until(lambda: False, lambda: (two.poll(500, 0.01), one.poll(500, 0.05)))
    with pytest.raises(ZeroDivisionError):
        one.close()


def test_a_poll_that_came_too_late_finds_its_partitions_lost(topic: str, opened: Open) -> None:
    now = [0.0]
    revocations = Revocations()
    source = KafkaSource(SourceOptions(EMBEDDED, (topic,), "late"), clock=lambda: now[0])
    source.open(revocations)
    real = time.monotonic() + 20
    while len(source._positions) < 4 and time.monotonic() < real:
        source.poll(500, 0.05)
    now[0] += source.patience + 1
    source.close()
    assert [lost for _, lost in revocations] == [True]


def test_dead_letters_keep_key_headers_and_order(producer: Producer, topic: str, opened: Open) -> None:
    sink = kafka.sink(SinkOptions(EMBEDDED, topic, 10))
    sink.open()
    letters = [
        DeadLetter(
            Record(b"%d" % i, b"key", (), 1000 + i, i, Partition("orders", 0)), ValueError(), 1, (("why", b"x"), ("n", None))
        )
        for i in range(100)
    ]
    sink.publish(letters)
    sink.close()
    sink.close()
    records = read(opened(), 100)
    assert [r.value for r in records] == [b"%d" % i for i in range(100)]
    assert {r.partition for r in records} == {records[0].partition}
    assert records[7][1:3] == (b"key", (("why", b"x"), ("n", None)))


def test_dead_letters_nobody_takes_are_an_error_within_the_timeout() -> None:
    sink = kafka.sink(SinkOptions(Connection("kafka", "kafka", "127.0.0.1:1"), "dead", 0.3))
    with pytest.raises(PublishError, match=r"not confirmed in 0\.3 s: .*refused") as raised:
        sink.publish([DeadLetter(Record(b"v", None, (), None, 1, Partition("orders", 0)), ValueError(), 1, ())])
    assert not raised.value.permanent
    sink.close()


def test_kafka_rejects_nothing(topic: str) -> None:
    with pytest.raises(Refused, match="dead_letter"):
        kafka.source(SourceOptions(EMBEDDED, (topic,), "group")).reject([])


def message(partition: int, offset: int, topic: str = "orders", error: KafkaError | None = None) -> Message:
    return Message(topic=topic, partition=partition, offset=offset, value=b"v", error=error)


def test_an_error_among_records_is_never_dropped_nor_are_the_records(topic: str) -> None:
    source = kafka.source(SourceOptions(EMBEDDED, (topic,), "group"))
    denied = message(0, 5, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(Refused, match="no permission for topic orders"):
        source._without_errors([message(0, 1), denied])
    gone = message(0, 5, error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    kept = source._without_errors([message(0, 1), gone, message(0, 2)])
    assert [m.offset() for m in kept] == [1, 2]
    assert source._gone == {"orders"}
