"""What RabbitMQ is told: logins, prefetch, acks, rejections, publishes and what an answer to them means."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pika import spec

from tests.brokers import Amqp
from tests.waiting import until
from worker.connectors import rabbitmq
from worker.connectors.rabbitmq_sink import RabbitMQSink
from worker.connectors.rabbitmq_source import RabbitMQSource
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import Batch, Connection, DeadLetter, Partition, Record, SinkOptions, SourceOptions

Q = Partition("q", 0)


@pytest.fixture
def broker() -> Iterator[Amqp]:
    made = Amqp([b"0", b"1", b"2", b"3", b"4"])
    yield made
    made.close()


def connection(broker: Amqp, **options: Any) -> Connection:
    user = {"username": options.pop("username", None), "password": options.pop("password", None)}
    return Connection("shop", "rabbitmq", broker.address, options.pop("path", ""), **user, options=options)


def no_revocation(partitions: Any, *, lost: bool) -> None: ...


@pytest.fixture
def opened(broker: Amqp) -> Iterator[Callable[..., RabbitMQSource]]:
    made: list[RabbitMQSource] = []

    def make(on_revoke: Any = no_revocation, **options: Any) -> RabbitMQSource:
        names = [name for name in ("ordered", "in_flight") if name in options]
        told = {name: options.pop(name) for name in names}
        made.append(rabbitmq.source(SourceOptions(connection(broker, **options), ("q",), "group", **told)))
        made[-1].open(on_revoke)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sink(broker: Amqp) -> Iterator[Callable[..., RabbitMQSink]]:
    made: list[RabbitMQSink] = []

    def make(timeout: float = 20.0, clock: Any = None, **options: Any) -> RabbitMQSink:
        more = {} if clock is None else {"clock": clock}
        made.append(RabbitMQSink(SinkOptions(connection(broker, **options), "dead", timeout), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(source: RabbitMQSource, count: int = 5) -> Batch:
    batches: list[Batch] = []
    until(lambda: sum(map(len, batches)) >= count, lambda: batches.extend(source.poll(count - sum(map(len, batches)), 0.05)))
    return batches[0].join(batches[1:])


def test_the_login_is_the_urls(broker: Amqp, opened: Any) -> None:
    opened(username="ann", password="pw", path="/shop%2fa", heartbeat="33", frame_max="4096", channel_max="7")
    assert broker.login == ("PLAIN", b"\0ann\0pw")
    [start], [tune], [open_] = (
        broker.of(kind) for kind in (spec.Connection.StartOk, spec.Connection.TuneOk, spec.Connection.Open)
    )
    assert (open_.virtual_host, tune.heartbeat, tune.frame_max, tune.channel_max) == ("shop/a", 33, 4096, 7)
    assert start.client_properties["connection_name"] == "group"


def test_without_a_path_it_is_the_default_virtual_host(broker: Amqp, opened: Any) -> None:
    opened(connection_name="mine")
    [start], [open_] = broker.of(spec.Connection.StartOk), broker.of(spec.Connection.Open)
    assert (open_.virtual_host, start.client_properties["connection_name"], broker.login) == (
        "/",
        "mine",
        ("PLAIN", b"\0guest\0guest"),
    )


@pytest.mark.parametrize(("options", "prefetch"), [({"in_flight": 7}, 7), ({"in_flight": 7, "prefetch": 3}, 3)])
def test_no_more_is_prefetched_than_may_be_unsettled(broker: Amqp, opened: Any, options: Any, prefetch: int) -> None:
    source = opened(**options)
    kinds = [type(one) for one in broker.told]
    assert kinds.index(spec.Basic.Qos) < kinds.index(spec.Basic.Consume)
    assert [one.prefetch_count for one in broker.of(spec.Basic.Qos)] == [prefetch] and source.limit == prefetch
    [consume] = broker.of(spec.Basic.Consume)
    assert not consume.no_ack and not consume.exclusive


@pytest.mark.parametrize(("options", "hold"), [({}, 1620.0), ({"consumer_timeout": 100}, 90.0)])
def test_a_record_is_held_for_less_than_the_brokers_patience(opened: Any, options: Any, hold: float) -> None:
    source = opened(**options)
    assert source.hold == source.patience == hold


def test_nothing_is_acknowledged_before_it_is_finished(broker: Amqp, opened: Any) -> None:
    source = opened()
    batch = read(source)
    assert batch.values() == [b"0", b"1", b"2", b"3", b"4"]
    source.poll(0, 0.05)
    assert broker.settled == []
    source.commit([batch.pick([1, 3])])
    source.commit([batch.pick([0])])
    until(lambda: len(broker.settled) == 3, lambda: source.poll(0, 0.01))
    assert broker.settled == [("ack", 2, False), ("ack", 4, False), ("ack", 1, True)]


def test_what_is_rejected_is_not_put_back(broker: Amqp, opened: Any) -> None:
    source = opened()
    batch = read(source)
    source.reject([batch.take(0, 2)])
    until(lambda: len(broker.settled) == 2, lambda: source.poll(0, 0.01))
    assert broker.settled == [("reject", 1, False), ("reject", 2, False)]
    source.commit([batch.take(2)])
    until(lambda: len(broker.settled) == 3, lambda: source.poll(0, 0.01))
    assert broker.settled[2:] == [("ack", 5, True)]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_close_leaves_what_is_not_finished_unsettled_and_sends_what_is(broker: Amqp, opened: Any, ordered: bool) -> None:
    revoked = []
    source = opened(lambda partitions, *, lost: revoked.append((list(partitions), lost)), ordered=ordered)
    batch = read(source)
    source.commit([batch.take(0, 2)])
    source.close()
    until(lambda: broker.ended)
    assert broker.settled == [("ack", 2, True)] and revoked == [([Q], False)]
    assert bool(broker.of(spec.Connection.Close)) is not ordered, "in order no farewell: a waiting consumer would be handed more"


def test_a_drain_takes_nothing_more_and_settles_what_is_here(broker: Amqp, opened: Any) -> None:
    source = opened()
    assert source.finish() and len(broker.of(spec.Basic.Cancel)) == 1
    source.commit([read(source)])
    until(lambda: broker.settled == [("ack", 5, True)], lambda: source.poll(0, 0.01))
    assert not opened(ordered=True).finish()


def test_a_paused_queue_hands_out_nothing(broker: Amqp, opened: Any) -> None:
    source = opened()
    until(lambda: source._consumers[Q].inbox, lambda: source.poll(0, 0.01))
    source.pause([Q])
    assert source.poll(10, 0.05) == []
    source.resume([Q])
    assert len(read(source)) == 5


def test_a_rewind_consumes_anew_and_acknowledges_nothing(broker: Amqp, opened: Any) -> None:
    source = opened()
    read(source)
    source.rewind(Q)
    assert len(read(source)) == 5 and broker.settled == []
    assert len(broker.of(spec.Basic.Consume)) == 2


def test_of_a_poll_no_more_is_handed_out_than_asked_for(opened: Any) -> None:
    source = opened()
    until(lambda: len(source._consumers[Q].inbox) == 5, lambda: source.poll(0, 0.01))
    assert [len(batch) for batch in source.poll(2, 0.0)] == [2]
    assert [batch.values() for batch in source.poll(10, 0.0)] == [[b"2", b"3", b"4"]]


@pytest.mark.parametrize(
    ("declare", "arguments"),
    [("quorum", {"x-queue-type": "quorum", "x-delivery-limit": -1}), ("classic", {"x-queue-type": "classic"})],
)
def test_a_queue_is_declared_if_asked_for(broker: Amqp, opened: Any, declare: str, arguments: Any) -> None:
    broker.missing = True
    opened(declare=declare)
    first = broker.of(spec.Queue.Declare)[0]
    assert (first.queue, first.durable, first.passive, first.arguments) == ("q", True, False, arguments)


def test_a_queue_that_is_missing_is_refused_and_not_made(broker: Amqp, opened: Any, sink: Any) -> None:
    broker.missing = True
    with pytest.raises(Refused, match="queue q does not exist"):
        opened()
    assert all(one.passive for one in broker.of(spec.Queue.Declare)) and not broker.of(spec.Basic.Consume)
    with pytest.raises(Refused, match="queue dead does not exist"):
        sink().open()


def test_a_stream_is_refused(broker: Amqp, opened: Any) -> None:
    broker.stream = True
    with pytest.raises(Refused, match="queue q is a stream"):
        opened()
    assert not broker.of(spec.Basic.Consume)


def test_a_message_that_came_back_often_is_told_once(broker: Amqp, opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    for count in (14, 15, 16):
        broker.put(b"again", spec.BasicProperties(headers={"x-delivery-count": count}), redelivered=True)
    source = opened()
    with caplog.at_level(logging.WARNING):
        assert read(source, 6)[5].properties["redelivered"] and "came back" not in caplog.text
        read(source, 2)
    assert len(re.findall("came back 1[56] times", caplog.text)) == 1  # both may come with one read, or not


def test_what_came_back_more_often_than_a_limit_allows_is_not_worn(broker: Amqp, opened: Any) -> None:
    for count in (20, 21):
        broker.put(b"%d" % count, spec.BasicProperties(headers={"x-delivery-count": count}))
    source, batches = opened(), list[Batch]()
    until(lambda: batches.extend(source.poll(10, 0.01)) or sum(map(len, batches)) == 7)
    whole = batches[0].join(batches[1:])
    with pytest.raises(Refused, match="set delivery-limit -1"):
        source.worn(whole.take(5, 6))
    assert source.worn(whole.take(6)) == []


def test_a_connection_that_is_cut_is_an_outage(broker: Amqp, opened: Any) -> None:
    source = opened()
    broker.close()
    with pytest.raises(Unavailable, match="lost"):
        until(lambda: False, lambda: source.poll(1, 0.01), patience=10)


# Dead letters


def letter(value: bytes | None = b"v", key: bytes | None = b"k", properties: Any = (), **headers: bytes) -> DeadLetter:
    record = Record(value, key, (), 5_000, 1, Q, dict(properties))
    return DeadLetter(record, ValueError(), 1, list(headers.items()))


def test_a_letter_is_persistent_mandatory_and_confirmed(broker: Amqp, sink: Any) -> None:
    sink().publish([letter(own=b"1"), letter(None, None)])
    assert len(broker.of(spec.Confirm.Select)) == 1
    (method, properties, body), (_, bare, nothing) = broker.published
    assert (method.routing_key, method.exchange, bool(method.mandatory)) == ("dead", "", True)
    assert (properties.delivery_mode, properties.timestamp, body) == (2, 5, b"v")
    assert properties.headers == {"own": "1", "dead_letter_key": "k"}
    assert (bare.headers, nothing) == ({"dead_letter_null": "value"}, b"")


def test_a_letter_keeps_what_its_record_was_and_not_what_would_throw_it_away(broker: Amqp, sink: Any) -> None:
    kept = {"content_type": "text/plain", "priority": 3, "correlation_id": "c", "message_id": "m"}
    sink().publish([letter(properties={"routing_key": "q", "expiration": "1000", "user_id": "ann", **kept})])
    [(_, properties, _)] = broker.published
    assert {name: getattr(properties, name) for name in kept} == kept
    assert properties.expiration is None and properties.user_id is None


def test_a_header_that_would_send_copies_elsewhere_does_not(broker: Amqp, sink: Any) -> None:
    sink().publish([letter(key=None, CC=b"other", BCC=b"another")])
    assert broker.published[0][1].headers == {"x-CC": "other", "x-BCC": "another"}


@pytest.mark.parametrize(("answer", "told"), [("nack", "the broker refused 2"), ("return", "no queue takes it")])
def test_a_letter_that_is_not_taken_is_an_error(broker: Amqp, sink: Any, answer: str, told: str) -> None:
    broker.answer = answer
    made = sink()
    with pytest.raises(PublishError, match=told) as raised:
        made.publish([letter(), letter()])
    assert not raised.value.permanent
    broker.answer = "ack"
    made.publish([letter()])


@pytest.mark.parametrize(("timeout", "after"), [(3.0, 3.0), (60.0, 15.0)])
def test_a_letter_that_nobody_confirms_is_an_error_in_time(broker: Amqp, sink: Any, timeout: float, after: float) -> None:
    now, step = [0.0], [0.0]

    def clock() -> float:
        now[0] += step[0]
        return now[0]

    made = sink(timeout, clock)
    made.open()
    broker.answer, step[0], begun = "silence", 0.25, now[0]
    with pytest.raises(PublishError, match="2 not confirmed"):
        made.publish([letter(), letter()])
    assert after <= now[0] - begun <= after + 3
    broker.answer, step[0] = "ack", 0.0
    made.publish([letter()])
    assert len(broker.published) == 3


def test_letters_of_many_publishes_are_confirmed_each_for_itself(broker: Amqp, sink: Any) -> None:
    made = sink()
    for _ in range(3):
        made.publish([letter()] * 50)
    assert len(broker.published) == 150 and len(broker.of(spec.Confirm.Select)) == 1
