"""What a real Kafka can do to us: each becomes one clear line, heals where it can, and is refused where it cannot."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.waiting import until
from worker.connectors import kafka as connector
from worker.connectors.kafka_config import ClientLog
from worker.connectors.kafka_source import KafkaSource
from worker.errors import ConnectorError, PublishError, Refused, Unavailable, Unconfirmed
from worker.interface import Connection, DeadLetter, OnRevoke, Partition, Record, SinkOptions, SourceOptions


def ignore(partitions: Collection[Partition], *, lost: bool) -> None: ...


def connect(hosts: str, user: str | None = None, password: str | None = None, **options: Any) -> Connection:
    dotted = {name.replace("__", "."): value for name, value in options.items()}
    return Connection("shop", "kafka", hosts, username=user, password=password, options=dotted)


def refusal(connection: Connection, topic: str = "orders") -> ConnectorError:
    """What opening raises: one line, the same for source and sink, without waiting long."""
    started = time.monotonic()
    source = connector.source(SourceOptions(connection, (topic,), "group"))
    with pytest.raises(ConnectorError) as raised:
        source.open(ignore)
    with pytest.raises(type(raised.value)):
        connector.sink(SinkOptions(connection, topic)).open()
    assert "\n" not in str(raised.value)
    assert time.monotonic() - started < 10
    return raised.value


class Cluster:
    """A topic of the real broker, with what a test does to it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap}, logger=ClientLog())
        self.sources: list[KafkaSource] = []

    def create(self, name: str | None = None, partitions: int = 4, **config: str) -> str:
        name = name or f"orders-{uuid.uuid4().hex[:8]}"
        dotted = {key.replace("__", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=dotted)])[name].result()
        until(lambda: name in self.admin.list_topics(timeout=10).topics)
        return name

    def delete(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result()
        until(lambda: name not in self.admin.list_topics(timeout=10).topics)

    def fill(self, topic: str, count: int, partitions: Collection[int] = range(4)) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "topic.metadata.refresh.interval.ms": 200}, logger=ClientLog())
        for i in range(count):
            producer.produce(topic, b"v", partition=list(partitions)[i % len(partitions)])
        assert producer.flush(20) == 0
        producer.close()

    def open(
        self,
        topic: str,
        group: str | None = None,
        *,
        start: Any = "earliest",
        on_revoke: OnRevoke = ignore,
        commit_interval: float = 1.0,
        **options: Any,
    ) -> KafkaSource:
        where = connect(self.bootstrap, **({"topic.metadata.refresh.interval.ms": "500"} | options))
        source = connector.source(
            SourceOptions(where, (topic,), group or f"group-{topic}", start=start, commit_interval=commit_interval)
        )
        self.sources.append(source)
        source.open(on_revoke)
        return source

    def stand_at(self, topic: str, offset: int) -> None:
        """Puts the group of the topic there."""
        client = Consumer({"bootstrap.servers": self.bootstrap, "group.id": f"group-{topic}"}, logger=ClientLog())
        client.commit(offsets=[TopicPartition(topic, i, offset) for i in range(4)], asynchronous=False)
        client.close()


@pytest.fixture
def cluster(kafka: Any) -> Iterator[Cluster]:
    made = Cluster(kafka.bootstrap)
    yield made
    for source in made.sources:
        with suppress(Unconfirmed):  # a test may end while its group rebalances
            source.close()


def read(source: KafkaSource, count: int) -> list[tuple[Partition, Any]]:
    found: list[tuple[Partition, Any]] = []

    def step() -> None:
        for batch in source.poll(500, 0.05):
            found.extend((r.partition, r.id) for r in batch)
            source.commit([batch])

    until(lambda: len(found) >= count, step)
    return found


def assigned(source: KafkaSource, partitions: int = 4) -> None:
    until(lambda: len(source._positions) == partitions, lambda: source.poll(500, 0.05))


# -- logging in ----------------------------------------------------------------------------------------------------------------


def test_nobody_there() -> None:
    error = refusal(connect("127.0.0.1:1"))
    assert isinstance(error, Unavailable)
    assert "127.0.0.1:1" in str(error) and "refused" in str(error)


def test_a_name_that_does_not_resolve() -> None:
    error = refusal(connect("broker.invalid"))
    assert isinstance(error, Unavailable)
    assert "broker.invalid:9092" in str(error)


@pytest.fixture(scope="module")
def ca(msk: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(msk.pem("ca.pem", tmp_path_factory.mktemp("pem")))


@pytest.fixture(scope="module")
def msk_topic(msk: Any) -> str:
    return Cluster(msk.bootstrap("PLAINTEXT")).create("orders")


def test_tls_and_scram_work(msk: Any, ca: str, msk_topic: str) -> None:
    scram = {"sasl.mechanism": "SCRAM-SHA-512", "ssl.ca.location": ca}
    for where in (
        connect(msk.bootstrap("TLS"), ssl__ca__location=ca),
        connect(msk.bootstrap("SCRAM"), "user", "password", **scram),
    ):
        sink = connector.sink(SinkOptions(where, msk_topic, 10))
        sink.open()
        sink.publish([letter(b"v")])
        sink.close()
        source = connector.source(SourceOptions(where, (msk_topic,), f"g-{uuid.uuid4().hex}"))
        source.open(ignore)
        read(source, 1)
        source.close()


def test_a_wrong_password(msk: Any, ca: str, msk_topic: str, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = connect(msk.bootstrap("SCRAM"), "user", "hunter2", ssl__ca__location=ca, sasl__mechanism="SCRAM-SHA-512")
    error = refusal(wrong)
    assert isinstance(error, Refused)
    assert "check user, password and sasl.mechanism" in str(error)
    assert "hunter2" not in str(error)
    assert "rdkafka" not in capfd.readouterr().err


def test_a_mechanism_the_broker_does_not_have(msk: Any, ca: str, msk_topic: str) -> None:
    error = refusal(connect(msk.bootstrap("SCRAM"), "user", "password", ssl__ca__location=ca))
    assert isinstance(error, Refused)
    assert "set sasl.mechanism to one the broker supports, SCRAM-SHA-512" in str(error)


def test_a_login_where_none_is_asked_for(msk: Any, ca: str, msk_topic: str) -> None:
    error = refusal(connect(msk.bootstrap("TLS"), "user", "password", ssl__ca__location=ca))
    assert isinstance(error, Refused)
    assert "asks for no login" in str(error)


def test_no_authority_and_a_wrong_one(msk: Any, ca: str, msk_topic: str, tmp_path: Path) -> None:
    error = refusal(connect(msk.bootstrap("TLS"), security__protocol="ssl"))
    assert isinstance(error, Refused)
    assert "ssl.ca.location is not set" in str(error)
    other = tmp_path / "other.pem"
    bundle = Path("/etc/ssl/certs/ca-certificates.crt").read_text()
    end = "-----END CERTIFICATE-----\n"
    other.write_text(bundle[: bundle.index(end) + len(end)])
    error = refusal(connect(msk.bootstrap("TLS"), ssl__ca__location=str(other)))
    assert isinstance(error, Refused)
    assert f"not trusted by ssl.ca.location={other}" in str(error)


def test_a_name_the_certificate_is_not_for(msk: Any, ca: str, msk_topic: str) -> None:
    # 127.1 is 127.0.0.1 to the resolver and another name to the certificate.
    error = refusal(connect(msk.bootstrap("TLS").replace("localhost", "127.1"), ssl__ca__location=ca))
    assert isinstance(error, Refused)
    assert "the certificate of 127.1 is for localhost" in str(error)


def test_tls_to_a_plaintext_port_and_plaintext_to_a_tls_port(msk: Any, ca: str, msk_topic: str) -> None:
    error = refusal(connect(msk.bootstrap("PLAINTEXT"), ssl__ca__location=ca))
    assert isinstance(error, Refused)
    assert "security.protocol=plaintext" in str(error)
    error = refusal(connect(msk.bootstrap("TLS")))
    assert isinstance(error, Refused)
    assert "speaks TLS and we do not: set security.protocol=ssl" in str(error)


# -- rebalances ----------------------------------------------------------------------------------------------------------------


def test_partitions_move_to_a_newcomer_with_their_positions(cluster: Cluster) -> None:
    """Not on librdkafka's mock: that refuses commits while a group rebalances, and fences who tries again."""
    topic = cluster.create()
    cluster.fill(topic, 400)
    revoked: list[tuple[set[Partition], bool]] = []
    one = cluster.open(
        topic, on_revoke=lambda partitions, *, lost: revoked.append((set(partitions), lost)), commit_interval=300.0
    )
    read(one, 400)
    two = cluster.open(topic)
    until(lambda: len(two._positions) == 2, lambda: (one.poll(500, 0.05), two.poll(500, 0.05)))
    assert revoked == [(set(two._positions), False)]
    # Nothing it finished comes again at the newcomer.
    assert [two._positions.next(partition) for partition in two._positions] == [100, 100]


# -- topics --------------------------------------------------------------------------------------------------------------------


def test_a_topic_that_is_not_there_with_what_may_be_meant(cluster: Cluster) -> None:
    topic = cluster.create()
    assert f"did you mean {topic}?" in str(refusal(connect(cluster.bootstrap), topic + "s"))
    assert isinstance(refusal(connect(cluster.bootstrap), "nowhere"), Refused)


def test_partitions_added_later_are_read_from_their_beginning_whatever_start_says(cluster: Cluster) -> None:
    topic = cluster.create(partitions=2)
    cluster.fill(topic, 20, range(2))
    source = cluster.open(topic, start="latest")
    assigned(source, 2)
    cluster.admin.create_partitions([NewPartitions(topic, 4)])[topic].result()
    until(lambda: len(cluster.admin.list_topics(topic, timeout=10).topics[topic].partitions) == 4)
    cluster.fill(topic, 20, (2, 3))
    assert set(read(source, 20)) == {(Partition(topic, p), i) for p in (2, 3) for i in range(10)}


@pytest.mark.parametrize("extra", [{}, {"partition.assignment.strategy": "range"}], ids=["cooperative", "eager"])
def test_a_topic_deleted_and_made_again_is_read_from_its_beginning(
    cluster: Cluster, extra: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    topic = cluster.create()
    cluster.fill(topic, 400)
    source = cluster.open(topic, **extra)
    read(source, 400)
    cluster.delete(topic)
    cluster.create(topic)
    cluster.fill(topic, 40)
    assert sorted(set(read(source, 40))) == [(Partition(topic, p), i) for p in range(4) for i in range(10)]


def test_a_topic_that_stays_away_is_waited_for(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    topic = cluster.create()
    cluster.fill(topic, 400)
    source = cluster.open(topic, start="latest")
    assigned(source)
    cluster.delete(topic)
    until(lambda: len(source._positions) == 0, lambda: source.poll(500, 0.05))
    cluster.create(topic)
    cluster.fill(topic, 40)
    read(source, 40)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_pattern_takes_topics_that_come_later(cluster: Cluster) -> None:
    name = f"p{uuid.uuid4().hex[:8]}"
    cluster.create(f"{name}-a")
    source = cluster.open(f"^{name}-.*", group=name)
    assigned(source)
    cluster.fill(cluster.create(f"{name}-b"), 40)
    assert {partition.stream for partition, _ in read(source, 40)} == {f"{name}-b"}


# -- positions -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outlived(cluster: Cluster) -> str:
    """A topic of 200 records a partition of which the first 150 are gone, with a group that stands at 100."""
    topic = cluster.create()
    cluster.fill(topic, 800)
    cluster.stand_at(topic, 100)
    for deleted in cluster.admin.delete_records([TopicPartition(topic, i, 150) for i in range(4)]).values():
        deleted.result()
    return topic


@pytest.mark.parametrize(
    "extra",
    [{}, {"partition.assignment.strategy": "range"}, {"group.protocol": "consumer"}],
    ids=["cooperative", "eager", "kip848"],
)
def test_records_that_are_gone_are_counted_and_the_rest_is_read(
    cluster: Cluster, outlived: str, extra: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    source = cluster.open(outlived, **extra)
    assert sorted(set(read(source, 200))) == [(Partition(outlived, p), i) for p in range(4) for i in range(150, 200)]
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert any(
        f"stands at 100 of {outlived}[0], but the 50 offsets from there on are gone, it begins at 150" in line for line in errors
    )


def test_latest_skips_to_the_end_and_stays_there(cluster: Cluster, outlived: str) -> None:
    source = cluster.open(outlived, out_of_range="latest")
    until(lambda: {p.committed for p in source._positions._owned.values()} == {200}, lambda: source.poll(500, 0.05))
    cluster.fill(outlived, 4)
    assert {i for _, i in read(source, 4)} == {200}


def test_stop_stops(cluster: Cluster, outlived: str) -> None:
    source = cluster.open(outlived, out_of_range="stop")
    with pytest.raises(Refused, match=r"50 offsets from there on are gone.*out_of_range"):
        until(lambda: False, lambda: source.poll(500, 0.05))


def test_start_at_a_time(cluster: Cluster) -> None:
    from datetime import UTC, datetime, timedelta

    topic = cluster.create()
    cluster.fill(topic, 40)
    filled = int(time.time() * 1000)
    until(lambda: time.time() * 1000 > filled + 1)  # the clock of the records has milliseconds
    now = datetime.now(UTC)
    cluster.fill(topic, 8)
    assert {i for _, i in read(cluster.open(topic, start=now), 8)} == {10, 11}
    late = cluster.open(topic, group=f"late-{topic}", start=now + timedelta(hours=1))
    assigned(late)
    assert {late._positions.next(p) for p in late._positions} == {12}


def test_the_position_follows_the_log_over_marks_of_transactions(cluster: Cluster) -> None:
    """Else a monitor shows a lag that nobody can work off, and retention makes it "gone"."""
    topic = cluster.create(partitions=1)
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": topic}, logger=ClientLog())
    producer.init_transactions(20)
    for commits in (True, False):
        producer.begin_transaction()
        for _ in range(3):
            producer.produce(topic, b"v", partition=0)
        assert producer.flush(20) == 0
        (producer.commit_transaction if commits else producer.abort_transaction)(20)
    producer.close()
    source = cluster.open(topic, commit_interval=0.05)
    batches: list[Any] = []
    until(lambda: sum(map(len, batches)) == 3, lambda: batches.extend(source.poll(500, 0.05)))
    until(lambda: source._ends, lambda: source.poll(500, 0.05))
    source.poll(0, 0.0)
    assert source._positions.next(Partition(topic, 0)) == 0, "what is in flight is waited for"
    source.commit(batches)
    until(lambda: source._positions.next(Partition(topic, 0)) == 8, lambda: source.poll(500, 0.05))
    source.close()
    client = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": f"group-{topic}"}, logger=ClientLog())
    assert [place.offset for place in client.committed([TopicPartition(topic, 0)], timeout=10)] == [8]
    client.close()


# -- groups --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "raised", "told"),
    [("classic", Refused, "each worker process needs its own"), ("consumer", Unavailable, "perhaps the one that was killed")],
)
def test_two_members_with_one_instance_id(cluster: Cluster, protocol: str, raised: type[Exception], told: str) -> None:
    topic = cluster.create()
    options = {"group.instance.id": "one", "group.protocol": protocol}
    first = cluster.open(topic, **options)
    assigned(first)
    second = cluster.open(topic, **options)
    with pytest.raises(raised, match=rf"group\.instance\.id: {told}"):
        until(lambda: False, lambda: (second.poll(500, 0.05), first.poll(500, 0.05)))


# -- dead letters --------------------------------------------------------------------------------------------------------------


def letter(value: bytes) -> DeadLetter:
    return DeadLetter(Record(value, b"key", (), None, 7, Partition("orders", 0)), ValueError(), 1, (("why", b"x"),))


def test_a_dead_letter_larger_than_the_topic_takes(cluster: Cluster) -> None:
    topic = cluster.create(partitions=1, max__message__bytes="2000000")
    sink = connector.sink(SinkOptions(connect(cluster.bootstrap), topic, 10))
    sink.open()
    sink.publish([letter(os.urandom(1_900_000))])
    with pytest.raises(PublishError, match=r"3,000,000 bytes.*max\.message\.bytes \(2,000,000\)") as raised:
        sink.publish([letter(os.urandom(3_000_000))])
    assert raised.value.permanent
    sink.publish([letter(b"small")])
    sink.close()
    assert len(read(cluster.open(topic), 2)) == 2


def test_a_compacted_topic_takes_no_letter_without_a_key_and_all_others(cluster: Cluster) -> None:
    topic = cluster.create(partitions=1, cleanup__policy="compact")
    sink = connector.sink(SinkOptions(connect(cluster.bootstrap), topic, 10))
    sink.open()
    keyless = letter(b"1")._replace(record=letter(b"1").record._replace(key=None))
    with pytest.raises(PublishError, match=r"is compacted and takes no record without a key: set its cleanup\.policy") as raised:
        sink.publish([letter(b"0"), keyless, letter(b"2")])
    assert raised.value.permanent and raised.value.refused == [1]
    sink.close()
    assert len(read(cluster.open(topic), 2)) == 2


def test_letters_that_are_too_large_only_together(cluster: Cluster) -> None:
    """A client joins letters to one batch, and a topic's limit is of a batch."""
    topic = cluster.create(partitions=1, max__message__bytes="50000")
    sink = connector.sink(SinkOptions(connect(cluster.bootstrap), topic, 20))
    sink.open()
    letters = [letter(b"%03d" % n + os.urandom(10_000)) for n in range(200)]
    sink.publish(letters)
    assert len(read(cluster.open(topic), 200)) == 200, "none twice"
    with pytest.raises(PublishError, match=r"max\.message\.bytes \(50,000\)") as raised:
        sink.publish([*letters[:5], letter(os.urandom(60_000)), *letters[5:]])
    assert raised.value.refused == [5]
    sink.close()
