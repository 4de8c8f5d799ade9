"""The Kafka connector on the broker inside this process, and its parts that need none."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from connectors import kafka, kafka_embedded
from connectors.kafka_batch import KafkaBatch, split
from connectors.kafka_commit import FLOODED, Positions
from connectors.kafka_errors import Explain
from connectors.kafka_source import KafkaSource
from connectors.kafka_start import spans
from tests.waiting import until
from worker.errors import ConfigError, PublishError, Refused, Unavailable
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
    monkeypatch.setattr("connectors.kafka_source._HELD", 3)
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


def shape(batches: list[KafkaBatch]) -> dict[Partition, list[int | None]]:
    assert len({batch.partition for batch in batches}) == len(batches)
    return {batch.partition: [m.offset() for m in batch.native] for batch in batches}


def test_one_poll_is_cut_into_partitions_in_the_order_delivered() -> None:
    mixed = [message(i % 3, i) for i in range(12)]
    assert shape(split(mixed, "orders")) == {
        Partition("orders", 0): [0, 3, 6, 9],
        Partition("orders", 1): [1, 4, 7, 10],
        Partition("orders", 2): [2, 5, 8, 11],
    }
    assert shape(split([message(2, i) for i in range(3)], "orders")) == {Partition("orders", 2): [0, 1, 2]}


def test_one_poll_of_several_topics_keeps_them_apart() -> None:
    mixed = [message(0, i, "ab"[i % 2]) for i in range(6)]
    assert shape(split(mixed, None)) == {Partition("a", 0): [0, 2, 4], Partition("b", 0): [1, 3, 5]}


def test_an_error_among_records_is_never_dropped_nor_are_the_records(topic: str) -> None:
    source = kafka.source(SourceOptions(EMBEDDED, (topic,), "group"))
    denied = message(0, 5, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(Refused, match="no permission for topic orders"):
        source._without_errors([message(0, 1), denied])
    gone = message(0, 5, error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    kept = source._without_errors([message(0, 1), gone, message(0, 2)])
    assert [m.offset() for m in kept] == [1, 2]
    assert source._gone == {"orders"}


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
    made.own(Partition("orders", 0), 5, committed=True)
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
    positions.forget({Partition("orders", 0)})
    positions.finish(finished(7))
    assert positions.pending() == []


def test_a_flush_gives_up_at_its_bound_or_when_trying_again_is_useless(
    positions: Positions, now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = Commits()
    monkeypatch.setattr("connectors.kafka_commit.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    positions.finish(finished(7))
    client.error = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    assert positions.flush(client, {Partition("orders", 0)}, 1.0) == client.error
    assert 5 < len(client.sent) < 15
    client.sent.clear()
    client.error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    positions.flush(client, {Partition("orders", 0)}, 1.0)
    assert len(client.sent) == 1
    assert "these records come again" in caplog.text


def test_partitions_in_few_words() -> None:
    assert spans([Partition("b", 7), *(Partition("a", i) for i in (3, 0, 1, 2, 9))]) == "a[0..3,9], b[7]"
