"""Kafka's source with a client that is played by the test: where a group begins, what is committed when, what a loss means."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition

from worker.connectors import kafka, kafka_sink, kafka_source
from worker.connectors.kafka_commit import FLOODED
from worker.connectors.kafka_config import ClientLog
from worker.connectors.kafka_source import KafkaSource
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions, SourceOptions

P0, P1 = Partition("orders", 0), Partition("orders", 1)
START = datetime(2026, 1, 2, tzinfo=UTC)


class Client:
    """One broker and this group's member in one: offsets are those of `committed`, the log goes from `first` to `end`."""

    first, end, at_a_time = 3, 10, 7
    trouble: KafkaError | None = None
    """With its topic."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.config = config
        self.stored: dict[Partition, tuple[int, str]] = {}
        self.partitions = 2
        self.commits: list[tuple[bool, dict[Partition, tuple[int, str]]]] = []
        """Each: whether it was waited for, and what it says."""
        self.assigned: dict[Partition, int] = {}
        self.paused: set[Partition] = set()
        self.seeks: list[tuple[Partition, int]] = []
        self.failing: KafkaError | None = None
        """What commits are answered with."""
        self.records: list[Message] = []
        self.pending: list[Callable[[], None]] = []
        """Callbacks for the next poll."""
        self.closed = False
        self.tick: Callable[[float], None] = lambda seconds: None
        """Called with how long a poll may wait."""

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        told = SimpleNamespace(partitions=dict.fromkeys(range(self.partitions)), error=self.trouble)
        return SimpleNamespace(topics={topic or "orders": told})

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.topics, self.on_assign, self.on_revoke, self.on_lost = topics, on_assign, on_revoke, on_lost

    def unsubscribe(self) -> None:
        places = [TopicPartition(p.stream, int(p.id)) for p in self.assigned]
        self.pending.append(lambda: self.on_revoke(self, places))

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        found = [self.stored.get(Partition(p.topic, p.partition), (OFFSET_INVALID, "")) for p in places]
        return [TopicPartition(p.topic, p.partition, *told) for p, told in zip(places, found, strict=True)]

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        special = {OFFSET_BEGINNING: self.first, OFFSET_END: self.end, int(START.timestamp() * 1000): self.at_a_time}
        return [TopicPartition(p.topic, p.partition, special.get(p.offset, OFFSET_END)) for p in places]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        told = {Partition(o.topic, o.partition): (o.offset, o.metadata or "") for o in offsets}
        self.commits.append((not asynchronous, told))
        if self.failing is None:
            self.stored |= told
        elif not asynchronous:
            raise KafkaException(self.failing)
        if asynchronous:
            error = self.failing
            self.pending.append(lambda: self.config["on_commit"](error, offsets))
        return offsets

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.assigned |= {Partition(p.topic, p.partition): p.offset for p in places}

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        for p in places:
            self.assigned.pop(Partition(p.topic, p.partition), None)

    def pause(self, places: list[TopicPartition]) -> None:
        self.paused |= {Partition(p.topic, p.partition) for p in places}

    def resume(self, places: list[TopicPartition]) -> None:
        self.paused -= {Partition(p.topic, p.partition) for p in places}

    def seek(self, place: TopicPartition) -> None:
        self.seeks.append((Partition(place.topic, place.partition), place.offset))

    def position(self, places: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, self.assigned[Partition(p.topic, p.partition)]) for p in places]

    def get_watermark_offsets(self, place: TopicPartition, cached: bool) -> tuple[int, int]:
        return self.first, self.end

    def _serve(self) -> None:
        pending, self.pending = self.pending, []
        for one in pending:
            one()

    def poll(self, timeout: float) -> Message | None:
        self.tick(timeout)
        self._serve()
        return self.records.pop(0) if self.records else None

    def consume(self, most: int, timeout: float) -> list[Message]:
        taken, self.records = self.records[:most], self.records[most:]
        return taken

    def close(self) -> None:
        self.closed = True


class Opened:
    """A source whose client is `client`, and whose time is `now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.made: list[Client] = []
        self.now = 1_000.0
        self.stored: dict[Partition, tuple[int, str]] = options.pop("stored", {})
        self.revoked: list[tuple[set[Partition], bool]] = []
        self.on_revoke: Callable[[], None] = lambda: None
        self.connection = Connection("shop", "kafka", "broker", options=options.pop("connection", {}))
        monkeypatch.setattr(kafka_source, "Consumer", self._client)
        monkeypatch.setattr("worker.connectors.kafka_commit.time.sleep", self._sleep)
        told = {"commit_interval": 5.0, **options}
        self.source = KafkaSource(SourceOptions(self.connection, ("orders",), "group", **told), clock=lambda: self.now)
        self.source.open(self._revoked)

    def _client(self, config: dict[str, Any], logger: Any) -> Client:
        client = Client(config)
        client.stored, client.tick = dict(self.stored), self._sleep
        self.made.append(client)
        return client

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _revoked(self, partitions: Any, *, lost: bool) -> None:
        self.revoked.append((set(partitions), lost))
        self.on_revoke()

    @property
    def client(self) -> Client:
        return self.made[-1]

    def assign(self, *partitions: Partition) -> Opened:
        places = [TopicPartition(p.stream, int(p.id)) for p in partitions or (P0, P1)]
        self.client.pending.append(lambda: self.client.on_assign(self.client, places))
        self.poll()
        return self

    def revoke(self, *partitions: Partition, lost: bool = False) -> None:
        places = [TopicPartition(p.stream, int(p.id)) for p in partitions]
        callback = self.client.on_lost if lost else self.client.on_revoke
        self.client.pending.append(lambda: callback(self.client, places))
        self.poll()

    def poll(self, after: float = 0.2) -> list[Any]:
        self.now += after
        return self.source.poll(100, 0.0)

    def read(self, partition: Partition, *offsets: int) -> Any:
        self.client.records += [
            Message(topic=partition.stream, partition=int(partition.id), offset=at, value=b"v") for at in offsets
        ]
        [batch] = self.poll()
        return batch


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def make(**options: Any) -> Opened:
        made.append(Opened(monkeypatch, **options))
        return made[-1]

    yield make
    for one in made:
        one.client.failing = None
        one.source.close()


# Where a group begins


@pytest.mark.parametrize(("start", "at"), [("earliest", Client.first), ("latest", Client.end), (START, Client.at_a_time)])
def test_a_group_without_a_position_begins_where_it_is_told_and_that_is_durable_at_once(
    opened: Callable[..., Opened], start: Any, at: int
) -> None:
    """A restart before the first commit would begin at a later "latest", and skip."""
    run = opened(start=start).assign()
    assert run.client.assigned == {P0: at, P1: at}
    assert run.client.commits == [(True, {P0: (at, ""), P1: (at, "")})]


def test_a_group_with_positions_goes_on_there_and_writes_nothing(opened: Callable[..., Opened]) -> None:
    run = opened(start="latest", stored={P0: (4, ""), P1: (9, "")}).assign()
    assert run.client.assigned == {P0: 4, P1: 9} and run.client.commits == []


def test_a_time_behind_the_last_record_is_the_end(opened: Callable[..., Opened]) -> None:
    assert opened(start=datetime(2030, 1, 1, tzinfo=UTC)).assign().client.assigned == {P0: Client.end, P1: Client.end}


def test_a_partition_that_is_added_later_begins_at_its_first_record(opened: Callable[..., Opened]) -> None:
    """Whatever `start` says: what was written to it before we heard of it would be skipped."""
    run = opened(start="latest").assign()
    new = Partition("orders", 2)
    run.assign(new)
    assert run.client.assigned[new] == Client.first


def test_a_start_that_cannot_be_made_durable_for_want_of_a_permission_is_refused(opened: Callable[..., Opened]) -> None:
    run = opened(start="latest")
    run.client.failing = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(Refused, match="group"):
        run.assign()


def test_the_client_is_told_never_to_commit_by_itself_nor_to_reset(opened: Callable[..., Opened]) -> None:
    config = opened().client.config
    assert (config["enable.auto.commit"], config["enable.auto.offset.store"]) == (False, False)
    assert (config["auto.offset.reset"], config["group.id"]) == ("error", "group")


# Commits


def test_a_commit_names_the_record_behind_the_last_finished_one(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    batch = run.read(P0, 4, 5, 9)
    run.source.commit([batch.take(0, 2)])
    run.poll(6.0)
    assert run.client.commits == [(False, {P0: (6, "")})]
    run.source.commit([batch.take(2)])
    run.poll(6.0)
    assert run.client.commits[1:] == [(False, {P0: (10, "")})]


def test_commits_are_no_more_often_than_the_interval_and_no_later(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}, commit_interval=5.0).assign()
    times, begun = [], run.now
    for offset in range(80):
        run.source.commit([run.read(P0, offset)])
        times += [run.now - begun] * (len(run.client.commits) - len(times))
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) >= 3 and all(5.0 <= gap <= 5.5 for gap in gaps)


def test_one_commit_is_on_its_way_at_a_time_and_a_failed_one_goes_again_soon(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}, commit_interval=60.0).assign()
    run.client.failing = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
    run.source.commit([run.read(P0, 0)])
    run.poll(61.0)
    assert len(run.client.commits) == 1
    run.client.failing = None
    for _ in range(20):
        run.poll(0.1)
    assert [told for _, told in run.client.commits] == [{P0: (1, "")}] * 2, "within a second, not a minute"
    run.poll(300.0)
    assert len(run.client.commits) == 2


def test_what_is_given_away_is_committed_first_and_what_is_lost_is_not(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}).assign()
    first, second = run.read(P0, 0), run.read(P1, 0)
    run.on_revoke = lambda: run.source.commit([first, second])
    run.revoke(P0)
    assert run.client.commits == [(True, {P0: (1, "")})] and run.revoked == [({P0}, False)]
    assert set(run.client.assigned) == {P1}
    run.revoke(P1, lost=True)
    run.poll(60.0)
    assert len(run.client.commits) == 1 and run.revoked[1:] == [({P1}, True)]


def test_a_revocation_after_a_poll_that_came_too_late_is_a_loss(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}, connection={"max.poll.interval.ms": 60_000}).assign()
    assert run.source.patience == 60.0
    places = [TopicPartition("orders", 0)]
    run.client.pending.append(lambda: run.client.on_revoke(run.client, places))
    run.poll(61.0)
    assert run.revoked == [({P0}, True)]


def test_a_flush_is_tried_again_while_a_rebalance_refuses_it_and_no_longer_than_its_bound(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}).assign()
    batch = run.read(P0, 0)
    run.on_revoke = lambda: run.source.commit([batch])
    run.client.failing = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    begun = run.now
    run.revoke(P0)
    assert 4 <= run.now - begun <= 7 and len(run.client.commits) > 10 and P0 not in run.client.assigned


def test_a_close_commits_what_is_finished_and_gives_back_the_rest(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (0, ""), P1: (0, "")}, commit_interval=300.0).assign()
    run.source.commit([run.read(P0, 0, 1)])
    run.read(P1, 0)
    run.source.close()
    assert run.client.stored == {P0: (2, ""), P1: (0, "")}
    assert run.client.closed and run.revoked == [({P0, P1}, False)]


def test_a_flood_is_noted_with_every_position_and_read_by_the_next(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "foreign")}).assign()
    assert not run.source.flooded
    run.source.flooded = True
    run.poll()
    assert run.client.stored == {P0: (4, FLOODED), P1: (4, FLOODED)}
    after = opened(stored=run.client.stored).assign()
    assert after.source.flooded
    after.source.flooded = False
    after.poll()
    assert after.client.stored == {P0: (4, ""), P1: (4, "")}


# What is handed out


def test_what_was_handed_out_and_is_not_finished_comes_again_after_a_rewind(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    batch = run.read(P0, 4, 5, 6)
    run.source.commit([batch.take(0, 1)])
    run.source.rewind(P0)
    assert run.client.seeks == [(P0, 5)]


def test_a_paused_partition_stays_so_and_is_resumed_once(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.source.pause([P0])
    run.source.pause([P0])
    assert run.client.paused == {P0}
    run.source.resume([P0, P1])
    assert run.client.paused == set()


def test_records_of_a_partition_that_goes_in_the_same_poll_are_not_handed_out(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.client.records += [Message(topic="orders", partition=n, offset=4, value=b"v") for n in (0, 1)]
    places = [TopicPartition("orders", 0)]
    run.client.pending.append(lambda: run.client.on_revoke(run.client, places))
    assert [batch.partition for batch in run.poll()] == [P1]


def test_lag_is_what_lies_behind_the_position(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (9, "")}).assign()
    assert run.source.lag() == (Client.end - 4) + (Client.end - 9)


@pytest.mark.parametrize(("policy", "at"), [(None, Client.first), ("earliest", Client.first), ("latest", Client.end)])
def test_a_position_that_retention_passed_goes_on_as_told(opened: Callable[..., Opened], policy: str | None, at: int) -> None:
    options = {} if policy is None else {"out_of_range": policy}
    run = opened(stored={P0: (1, ""), P1: (4, "")}, connection=options).assign()
    gone = KafkaError(KafkaError._AUTO_OFFSET_RESET)
    run.client.records.append(Message(topic="orders", partition=0, offset=1, error=gone))
    run.poll()
    run.poll()
    assert run.client.assigned == {P0: at, P1: 4}
    run.poll(10.0)
    assert run.client.stored[P0][0] == at


def test_a_position_that_retention_passed_stops_where_that_is_asked_for(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (1, ""), P1: (4, "")}, connection={"out_of_range": "stop"}).assign()
    gone = KafkaError(KafkaError._AUTO_OFFSET_RESET)
    run.client.records.append(Message(topic="orders", partition=0, offset=1, error=gone))
    with pytest.raises(Refused, match="the 2 offsets from there on are gone, it begins at 3"):
        run.poll()
        run.poll()
    assert run.client.stored[P0][0] == 1


def test_a_log_that_was_made_again_is_read_from_its_beginning_and_old_results_count_no_more(
    opened: Callable[..., Opened],
) -> None:
    run = opened(stored={P0: (50, ""), P1: (4, "")}, connection={"out_of_range": "latest"}).assign()
    gone = KafkaError(KafkaError.OFFSET_OUT_OF_RANGE)
    run.client.records.append(Message(topic="orders", partition=0, offset=50, error=gone))
    run.poll()
    run.poll()
    assert run.client.assigned[P0] == Client.first and run.revoked == [({P0}, True)]


def test_records_of_the_old_log_that_were_held_back_are_not_handed_out(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (49, ""), P1: (4, "")}).assign()
    gone = KafkaError(KafkaError.OFFSET_OUT_OF_RANGE)
    run.client.records.append(Message(topic="orders", partition=0, offset=49, value=b"old"))
    run.client.records.append(Message(topic="orders", partition=0, offset=50, error=gone))
    for _ in range(4):  # the core has no room
        run.now += 0.2
        run.source.poll(0, 0.0)
    assert run.client.assigned[P0] == Client.first
    assert run.poll() == []


# Whether the broker is there


@pytest.mark.parametrize(("session", "given_up"), [(60_000, 60), (6_000, 45)])
def test_a_broker_that_is_away_for_long_is_an_outage(
    session: int, given_up: int, opened: Callable[..., Opened], caplog: pytest.LogCaptureFixture
) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}, connection={"session.timeout.ms": session}).assign()

    def away(*_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    run.client.list_topics = away  # type: ignore[method-assign]
    run.client.config["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN))
    begun = run.now
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable, match=r"no broker reached for (45|46|60|61) s"):
        while run.now - begun < 100:
            run.poll(0.5)
    assert given_up <= run.now - begun <= given_up + 2
    assert caplog.text.count("waiting for it") == 1


def test_a_broker_that_is_back_in_time_is_none(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.client.config["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN))
    for _ in range(200):
        run.poll(0.5)
    assert not run.source._health.doubtful


def test_a_topic_that_is_missing_is_refused_at_the_start_and_waited_for_later(
    opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    monkeypatch.setattr(Client, "trouble", KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(Refused, match="there is no topic orders"):
        opened()
    run.source.close()
    run.source.open(run._revoked)
    assert "topic orders is gone" in caplog.text


def test_a_login_that_is_refused_later_is_an_outage(opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that starts refuses logins that it will accept."""
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()

    def refuse(self: Client, *_: object, **__: object) -> None:
        self.config["error_cb"](KafkaError(KafkaError._AUTHENTICATION))
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    run.source.close()
    monkeypatch.setattr(Client, "list_topics", refuse)
    with pytest.raises(Unavailable):
        run.source.open(run._revoked)
    with pytest.raises(Refused):
        opened()


# Dead letters


class Producer:
    """Confirms nothing by itself."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.errors: list[KafkaError | None] = []

    def produce(self, topic: str, value: Any, key: Any, partition: int, *, on_delivery: Any, headers: Any) -> None:
        self.sent.append((topic, value, key, partition, headers))
        if self.errors:
            error = self.errors.pop(0)
            on_delivery(error, SimpleNamespace(__len__=lambda self: 1))

    def poll(self, timeout: float) -> int:
        NOW[0] += 0.5
        return 0


NOW = [0.0]


@pytest.fixture
def producing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[kafka_sink.KafkaSink, Producer]]]:
    def make(timeout: float = 10.0, partitions: bool = False) -> tuple[kafka_sink.KafkaSink, Producer]:
        monkeypatch.setattr(kafka_sink, "Producer", Producer)
        options = SinkOptions(Connection("shop", "kafka", "broker"), "dead", timeout, partitions)
        sink = kafka_sink.KafkaSink(options, clock=lambda: NOW[0])
        producer: Any = sink._connected()
        return sink, producer

    yield make


def letter(partition: int = 1, value: bytes | None = b"v") -> DeadLetter:
    return DeadLetter(Record(value, b"k", (), 5, 1, Partition("orders", partition)), ValueError(), 1, [("h", b"1")])


def test_a_letter_goes_with_its_value_key_and_headers(producing: Any) -> None:
    sink, producer = producing()
    producer.errors = [None]
    sink.publish([letter()])
    assert producer.sent == [("dead", b"v", b"k", -1, [("h", b"1")])]


def test_a_redriven_record_goes_to_its_old_partition(producing: Any) -> None:
    sink, producer = producing(partitions=True)
    sink._partitions = 2
    producer.errors = [None, None]
    sink.publish([letter(1), letter(2)])
    assert [partition for _, _, _, partition, _ in producer.sent] == [1, -1]


@pytest.mark.parametrize("timeout", [3.0, 30.0])
def test_a_letter_that_is_not_confirmed_in_time_is_an_error(producing: Any, timeout: float) -> None:
    sink, _ = producing(timeout)
    begun = NOW[0]
    with pytest.raises(PublishError, match="1 not confirmed") as raised:
        sink.publish([letter()])
    assert timeout <= NOW[0] - begun <= timeout + 2 and not raised.value.permanent


@pytest.mark.parametrize(
    ("code", "permanent"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, True),
        (KafkaError.NOT_ENOUGH_REPLICAS, False),
        (KafkaError._MSG_TIMED_OUT, False),
    ],
)
def test_a_letter_that_is_refused_is_an_error_and_says_whether_to_try_again(producing: Any, code: int, permanent: bool) -> None:
    sink, producer = producing()
    producer.errors = [None, KafkaError(code)]
    with pytest.raises(PublishError) as raised:
        sink.publish([letter(), letter()])
    assert raised.value.permanent is permanent


def configured(made: Any, client: Any, caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """As librdkafka itself says what it is configured with, as far as that is not its default."""
    with caplog.at_level(logging.DEBUG, "worker.kafka.client"):
        client.poll(0.2)
    told = {line for record in caplog.records for line in record.getMessage().split("]: ")[1:]}
    made.close()
    return dict(line.strip().split(" = ", 1) for line in told if " = " in line)


def sink_configured(caplog: pytest.LogCaptureFixture, **options: Any) -> dict[str, str]:
    connection = Connection("shop", "kafka", "127.0.0.1:1", options={"debug": "conf", **options})
    sink: Any = kafka.sink(SinkOptions(connection, "dead", 7.0))
    return configured(sink, sink._connected(), caplog)


def test_what_reaches_the_client_for_dead_letters(caplog: pytest.LogCaptureFixture) -> None:
    """All in-sync replicas, in order, none twice, none for ever, and no topic by mistake."""
    found = sink_configured(caplog)
    assert found.get("request.required.acks", found.get("acks")) in ("-1", "all")
    assert (found["enable.idempotence"], found["message.timeout.ms"]) == ("true", "7000")
    assert int(found.get("max.in.flight.requests.per.connection", "5")) <= 5
    assert found["allow.auto.create.topics"] == "false"


@pytest.mark.parametrize("name", ["delivery_timeout_ms", "message.timeout.ms"])
def test_a_timeout_of_the_connection_wins(caplog: pytest.LogCaptureFixture, name: str) -> None:
    assert sink_configured(caplog, **{name: "1234"})["message.timeout.ms"] == "1234"


def test_what_reaches_the_client_for_records(caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection("shop", "kafka", "127.0.0.1:1", options={"debug": "conf"})
    source = kafka.source(SourceOptions(connection, ("orders",), "group"))
    client = kafka_source.Consumer({**source._config, "bootstrap.servers": "127.0.0.1:1"}, logger=ClientLog())
    found = configured(source, client, caplog)
    client.close()
    assert (found["group.id"], found["enable.auto.commit"], found["enable.auto.offset.store"]) == ("group", "false", "false")
    assert found.get("isolation.level", "read_committed") == "read_committed", "nothing of a transaction that was aborted"
    assert found.get("allow.auto.create.topics", "false") == "false"
    assert (found["session.timeout.ms"], found["heartbeat.interval.ms"]) == ("6000", "1000")


def test_records_held_back_come_again_only_once_after_a_rewind(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.client.records += [Message(topic="orders", partition=n, offset=4, value=b"v") for n in (0, 1)]
    for _ in range(2):
        run.now += 0.2
        assert run.source.poll(0, 0.0) == []
    run.source.rewind(P0)
    assert [batch.partition for batch in run.poll()] == [P1]


def test_records_held_back_of_a_paused_partition_wait_for_its_resume(opened: Callable[..., Opened]) -> None:
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.client.records += [Message(topic="orders", partition=n, offset=4, value=b"v") for n in (0, 1)]
    for _ in range(2):
        run.now += 0.2
        run.source.poll(0, 0.0)
    run.source.pause([P0])
    assert [batch.partition for batch in run.poll()] == [P1] and run.poll() == []
    run.source.resume([P0])
    assert [batch.partition for batch in run.poll()] == [P0]


def test_a_core_that_has_no_room_pauses_everything_and_later_only_what_it_paused_itself(
    opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_HELD", 2)
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    run.source.pause([P0])
    run.client.records += [Message(topic="orders", partition=1, offset=at, value=b"v") for at in (4, 5)]
    for _ in range(2):
        run.now += 0.2
        run.source.poll(0, 0.0)
    assert run.client.paused == {P0, P1}
    new = Partition("orders", 2)
    places = [TopicPartition("orders", 2)]
    run.client.on_assign(run.client, places)
    assert run.client.paused == {P0, P1, new}
    assert [len(batch) for batch in run.poll()] == [2]
    run.poll()
    assert run.client.paused == {P0}


@pytest.mark.parametrize(("headers", "paused"), [(100, False), (5_000, True)])
def test_records_with_heavy_headers_are_not_fetched_while_there_is_no_room(
    opened: Callable[..., Opened], headers: int, paused: bool
) -> None:
    """The client bounds values only, and would fetch 20,000 of a partition, whatever they weigh."""
    run = opened(stored={P0: (4, ""), P1: (4, "")}).assign()
    beside = [("name", b"x" * headers)]
    run.client.records += [Message(topic="orders", partition=1, offset=at, value=b"v", headers=beside) for at in (4, 5)]
    assert [len(batch) for batch in run.source.poll(1, 0.0)] == [1]
    run.now += 0.2
    assert run.source.poll(0, 0.0) == []
    assert bool(run.client.paused) == paused
    assert [len(batch) for batch in run.poll()] == [1]
    run.poll()
    assert not run.client.paused
