"""What a real RabbitMQ can do to us: consumers come back by themselves, nothing is lost, and a refusal is one clear line."""

from __future__ import annotations

import logging
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest
import trustme
from pika import spec

from tests.contract import Member, gather, letter, numbers, values
from tests.test_rabbitmq_frames import any_properties
from tests.waiting import until
from worker.connectors import rabbitmq as connector
from worker.connectors.rabbitmq_frames import Properties, ack, publish
from worker.connectors.rabbitmq_link import Link
from worker.connectors.rabbitmq_sink import RabbitMQSink
from worker.errors import ConnectorError, PublishError, Refused, Unavailable
from worker.interface import LEFT_OUT_HEADER, Connection, Partition, Record, SinkOptions, SourceOptions
from worker.lane import Shape
from worker.loop import Loop
from worker.testing import RabbitMQContainer, ToxiproxyContainer

pytestmark = pytest.mark.timeout(180)

LATE = Properties(b"\x20\x00\x00\x00\x00\x0c\x02atT" + (1_700_000_000_000).to_bytes(8, "big"))
"""With a header that pika has no date for."""
FUZZED = int(os.environ.get("FUZZED", "300"))
"""10,000 were tried before a release."""


@pytest.fixture(params=["quorum", "classic"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def members() -> Iterator[list[Member]]:
    made: list[Member] = []
    yield made
    for member in made:
        member.source.close()


@pytest.fixture
def join(rabbitmq: RabbitMQContainer, members: list[Member]) -> Callable[..., Member]:
    def join(*queues: str, address: str | None = None, in_flight: int = 1000, ordered: bool = False, **options: Any) -> Member:
        login = connect(rabbitmq, address, **options)
        made = connector.source(SourceOptions(login, queues, "group", ordered=ordered, in_flight=in_flight))
        members.append(Member(made))
        return members[-1].open()

    return join


def connect(rabbitmq: RabbitMQContainer, address: str | None = None, **options: Any) -> Connection:
    return Connection(
        "shop", "rabbitmq", address or rabbitmq.address, username=rabbitmq.USER, password=rabbitmq.PASSWORD, options=options
    )


def sink(connection: Connection, queue: str, timeout: float = 20) -> closing[RabbitMQSink]:
    return closing(connector.sink(SinkOptions(connection, queue, timeout)))


def refusal(connection: Connection, queue: str = "orders") -> ConnectorError:
    """What opening raises: one line, the same for source and sink."""
    source = connector.source(SourceOptions(connection, (queue,), "group"))
    with pytest.raises(ConnectorError) as raised:
        source.open(lambda partitions, lost: None)
    source.close()
    with sink(connection, queue) as opened, pytest.raises(type(raised.value)):
        opened.open()
    assert "\n" not in str(raised.value)
    return raised.value


def poll_until_lost(member: Member) -> Unavailable:
    """The loop's part: it closes a source that says it is not available."""
    with pytest.raises(Unavailable) as raised:
        member.until(lambda: False)
    member.source.close()
    return raised.value


def any_bytes_publish(channel: int, exchange: str, key: bytes, properties: bytes, body: bytes) -> bytes:
    """Frames that no client of Python writes."""
    told = struct.pack(">IH", spec.Basic.Publish.INDEX, 0) + bytes([len(exchange)]) + exchange.encode() + bytes([len(key)]) + key
    head = struct.pack(">HHQ", 60, 0, len(body)) + properties
    frames = [(1, told + b"\0"), (2, head), *((3, body[at : at + 100_000]) for at in range(0, len(body), 100_000))]
    return b"".join(struct.pack(">BHI", kind, channel, len(part)) + part + b"\xce" for kind, part in frames)


def record(value: bytes = b"1", queue: str = "q") -> Record[bytes]:
    return Record(value, None, (), None, 1, Partition(queue, 0))


# Queues


def test_a_stream_is_refused(rabbitmq: RabbitMQContainer) -> None:
    queue = rabbitmq.queue(kind="stream")
    source = connector.source(SourceOptions(connect(rabbitmq), (queue,), "group"))
    with pytest.raises(Refused, match=f"{queue} is a stream: over AMQP 0-9-1 it has no position"):
        source.open(lambda partitions, lost: None)
    source.close()


def test_a_stream_is_refused_where_its_type_may_not_be_asked(rabbitmq: RabbitMQContainer) -> None:
    queue = rabbitmq.queue(kind="stream")
    rabbitmq.ctl("add_user", f"reader-{queue}", "secret")
    rabbitmq.ctl("set_permissions", f"reader-{queue}", "^$", "^$", ".*")
    connection = Connection("shop", "rabbitmq", rabbitmq.address, username=f"reader-{queue}", password="secret")
    member = Member(connector.source(SourceOptions(connection, (queue,), "group"))).open()
    rabbitmq.produce(queue, [b"1"])
    with pytest.raises(Refused, match="is a stream"):
        member.until(lambda: False)
    member.source.close()


def test_a_user_who_may_only_read_is_enough(rabbitmq: RabbitMQContainer) -> None:
    queue = rabbitmq.queue()
    rabbitmq.ctl("add_user", f"reader-{queue}", "secret")
    rabbitmq.ctl("set_permissions", f"reader-{queue}", "^$", "^$", ".*")
    connection = Connection("shop", "rabbitmq", rabbitmq.address, username=f"reader-{queue}", password="secret")
    member = Member(connector.source(SourceOptions(connection, (queue,), "group"))).open()
    rabbitmq.produce(queue, [b"1"])
    member.source.commit(member.receive(1))
    member.source.close()


def test_a_missing_queue_is_declared_if_asked_for(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    queue = f"declared-{kind}"
    member = join(queue, declare=kind)
    with rabbitmq.channel() as channel:
        channel.basic_publish("", queue, b"1")
    member.receive(1)
    arguments = rabbitmq.ctl("list_queues", "name", "type", "durable", "arguments")
    [line] = [line for line in arguments.splitlines() if line.startswith(queue)]
    assert kind in line and "true" in line
    assert ('"x-delivery-limit",-1' in line.replace(" ", "")) == (kind == "quorum")
    assert "inequivalent" in str(refusal(connect(rabbitmq, declare="classic" if kind == "quorum" else "quorum"), queue))


def test_a_declared_quorum_queue_keeps_what_comes_back_often(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    """Twenty-five workers that stop cleanly, each after a look: by default the broker drops everything after 20."""
    queue = "returned"
    join(queue, declare="quorum").source.close()
    with rabbitmq.channel() as channel:
        for number in range(30):
            channel.basic_publish("", queue, b"%d" % number)
    for _ in range(25):
        member = join(queue)
        member.receive(30)
        assert values(member.got) == numbers(30)
        member.source.close()


def test_a_message_that_came_back_often_is_warned_of(
    rabbitmq: RabbitMQContainer, join: Callable[..., Member], caplog: pytest.LogCaptureFixture
) -> None:
    queue = rabbitmq.queue(x_delivery_limit=20)
    rabbitmq.produce(queue, [b"1"])
    for _ in range(15):
        member = join(queue)
        member.receive(1)
        member.source.close()
    assert not caplog.records
    join(queue).receive(1)
    assert "came back 15 times" in caplog.text and "x-delivery-limit=-1" in caplog.text


def test_what_was_fetched_can_be_finished(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    """`finish` stops the flow; what is on its way is delivered and can be acknowledged, and is not put back."""
    queue = rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(200))  # type: ignore[arg-type]
    member = join(queue, in_flight=50)
    first = member.receive(10, most=10)
    assert member.source.finish()
    while member.poll(500, 0.0):
        pass
    assert values(member.got) == numbers(50)
    member.source.commit([gather(member.batches)])
    assert first
    member.source.close()
    left = rabbitmq.read(queue)
    assert values(left) == numbers(50, 200)
    assert not any(one.properties["headers"] for one in left), "a return was counted"


def test_what_is_lost_while_finishing_is_not_consumed_again(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, numbers(3))  # type: ignore[arg-type]
    member = join(queue)
    member.receive(3)
    assert member.source.finish()
    source: Any = member.source
    source._since = dict.fromkeys(source._since, 0.0)
    source._link.write(ack(source._consumers[Partition(queue, 0)]._open.number, 999, False))  # the broker closes the channel
    member.until(lambda: member.revoked)
    for _ in range(20):
        member.poll(500, 0.05)
    assert len(member.got) == 3 and rabbitmq.depth(queue) == 3


def test_a_queue_that_is_deleted_and_made_again_is_consumed_again(
    rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str
) -> None:
    queue = rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(3))  # type: ignore[arg-type]
    member = join(queue)
    member.receive(3)
    with rabbitmq.channel() as channel:
        channel.queue_delete(queue)
    assert queue in str(poll_until_lost(member))
    assert {Partition(queue, 0)} in member.revoked
    with pytest.raises(Unavailable, match="does not exist"):  # it was there once, so it may come back
        member.open()
    member.source.close()
    with rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
        channel.basic_publish("", queue, b"again")
    member.open_again()
    member.receive(1)
    assert values(member.got) == [*numbers(3), b"again"]


def test_a_delivery_that_waits_too_long_comes_again(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    """The broker closes the channel; the consumer is back on another one, in order, without losing its connection."""
    queue = rabbitmq.queue(x_consumer_timeout=1_000)
    rabbitmq.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
    try:
        rabbitmq.produce(queue, numbers(5))  # type: ignore[arg-type]
        member = join(queue)
        batch = gather(member.receive(5))
        member.source.commit([batch.take(0, 2)])
        lost: list[bool] = []
        member.on_revoke = lambda partitions, how: lost.append(how)
        deadline = time.monotonic() + 60
        while len(member.got) < 8:
            assert time.monotonic() < deadline
            try:
                member.poll()
            except Unavailable:  # it happened soon after the start
                member.source.close()
                member.open()
        assert lost[0] is True
        assert values(member.got)[5:] == numbers(2, 5)
    finally:
        rabbitmq.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 60000).")


def test_a_single_active_consumer_hands_over_in_order(
    rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str
) -> None:
    queue = rabbitmq.queue(kind=kind, x_single_active_consumer=True)
    rabbitmq.produce(queue, numbers(100))  # type: ignore[arg-type]
    first, second = (join(queue, in_flight=20, ordered=True) for _ in range(2))
    batch = gather(first.receive(20))
    second.nothing_more()
    first.source.commit([batch.take(0, 7)])
    assert not first.source.finish()  # else the second would begin while the first is at it
    first.source.close()
    second.receive(20)
    assert values(second.got) == numbers(7, 27)


def test_a_single_active_consumer_rewinds_in_order(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    """The one that waits takes over, from the first that is not settled; other queues of the source come again."""
    queue, other = rabbitmq.queue(kind=kind, x_single_active_consumer=True), rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(100))  # type: ignore[arg-type]
    rabbitmq.produce(other, numbers(5))  # type: ignore[arg-type]
    first = join(queue, other, in_flight=20, ordered=True)
    first.receive(25)
    second = join(queue, in_flight=20, ordered=True)
    first.source.commit([gather(first.batches, Partition(queue, 0)).take(0, 7)])
    first.source.pause([Partition(queue, 0)])
    first.source.rewind(Partition(queue, 0))
    assert first.revoked == [{Partition(other, 0)}]
    second.receive(20)
    assert values(second.got) == numbers(7, 27)
    first.receive(5)
    assert {one.partition.stream for one in first.got[25:]} == {other}
    first.source.resume([Partition(queue, 0)])
    second.source.close()
    first.receive(20)
    assert values(first.got)[30:] == numbers(7, 27)


def test_what_is_rewound_and_paused_waits_at_the_broker(
    rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str
) -> None:
    queue = rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(10))  # type: ignore[arg-type]
    member = join(queue)
    member.source.commit([gather(member.receive(10)).take(0, 3)])
    member.source.pause([Partition(queue, 0)])
    member.source.rewind(Partition(queue, 0))
    member.nothing_more()
    assert rabbitmq.depth(queue) == 7
    member.source.resume([Partition(queue, 0)])
    member.receive(7)
    assert values(member.got)[10:] == numbers(3, 10)


def test_a_batch_does_not_wait_past_the_prefetch(rabbitmq: RabbitMQContainer) -> None:
    source = connector.source(SourceOptions(connect(rabbitmq, prefetch="10"), ("q",), "group", in_flight=1000))
    assert source.limit == 10


def test_more_queues_than_channels(rabbitmq: RabbitMQContainer) -> None:
    queues = tuple(rabbitmq.queue() for _ in range(3))
    source = connector.source(SourceOptions(connect(rabbitmq, channel_max=2), queues, "group"))
    with pytest.raises(Refused, match=r"no more than 2 channels \(channel_max"):
        source.open(lambda partitions, lost: None)
    source.close()


def test_several_queues_of_one_source(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    one, two = rabbitmq.queue(kind=kind), rabbitmq.queue(kind=kind)
    for queue in (one, two):
        rabbitmq.produce(queue, numbers(50))  # type: ignore[arg-type]
    member = join(one, two)
    member.receive(100, most=7)
    for queue in (one, two):
        mine = gather(member.batches, Partition(queue, 0))
        assert mine.values() == numbers(50)
        member.source.commit([mine])
    member.source.pause([Partition(one, 0)])
    for queue in (one, two):
        rabbitmq.produce(queue, [b"more"])
    member.receive(1)
    assert member.got[-1].partition.stream == two
    member.nothing_more()


# Messages


def test_everything_of_a_message_can_be_seen(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue(kind="classic", x_max_priority=5)
    told = {
        "content_type": "application/json",
        "content_encoding": "identity",
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "600000",
        "message_id": "m-1",
        "timestamp": 1_700_000_000,
        "type": "order",
        "app_id": "shop",
    }
    with rabbitmq.channel() as channel:
        headers = {"text": "ä", "number": 7, "yes": True, "none": None, "bytes": b"\xff", "table": {"a": [1]}}
        channel.basic_publish(queue, "eu.berlin", b"{}", pika.BasicProperties(headers=headers, delivery_mode=2, **told))
    member = join(queue)
    member.receive(1)
    [seen] = member.got
    assert {name: seen.properties[name] for name in told} == told
    assert (seen.properties["exchange"], seen.properties["routing_key"], seen.properties["redelivered"]) == (
        queue,
        "eu.berlin",
        False,
    )
    assert seen.properties["headers"] == headers
    assert dict(seen.headers) == {
        "text": "ä".encode(),
        "number": b"7",
        "yes": b"true",
        "none": None,
        "bytes": b"\xff",
        "table": b'{"a": [1]}',
    }
    assert (seen.key, seen.id, seen.timestamp) == (b"eu.berlin", "m-1", 1_700_000_000_000)
    dead = rabbitmq.queue()
    with sink(connect(rabbitmq), dead) as opened:
        opened.publish([letter(seen)])
    [kept] = rabbitmq.read(dead)
    assert {name: kept.properties[name] for name in told if name != "expiration"} == {
        name: value for name, value in told.items() if name != "expiration"
    }
    assert kept.properties["expiration"] is None
    assert kept.properties["headers"] == headers | {"dead_letter_key": "eu.berlin"}
    assert kept.properties["delivery_mode"] == 2


@pytest.mark.parametrize("size", [131_064, 131_065, 5_000_000])
def test_large_messages(rabbitmq: RabbitMQContainer, join: Callable[..., Member], size: int) -> None:
    """The first fits into one frame, the second just not."""
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.produce(queue, [b"a", b"x" * size, b"b"])
    member = join(queue)
    member.receive(3)
    assert values(member.got) == [b"a", b"x" * size, b"b"]
    with sink(connect(rabbitmq), dead) as opened:
        opened.publish([letter(one) for one in member.got])
    assert values(rabbitmq.read(dead)) == values(member.got)


@pytest.mark.parametrize("size", [1, 300_000])
def test_headers_that_the_client_cannot_decode_stop_nothing(
    rabbitmq: RabbitMQContainer, join: Callable[..., Member], size: int
) -> None:
    """A timestamp of milliseconds, for which pika has no date; larger messages come in several frames."""
    queue = rabbitmq.queue()
    member = join(queue)
    link = member.source._open_link  # type: ignore[attr-defined]
    link.write(publish(link.channel().number, queue, [(LATE, b"x" * size)], 100_000))
    member.receive(1)
    rabbitmq.produce(queue, [b"after"])
    member.receive(1)
    assert values(member.got) == [b"x" * size, b"after"]
    assert member.got[0].headers == (("at", b"1700000000000"),)
    member.source.commit([gather(member.batches)])


def test_whatever_bytes_a_publisher_writes(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    """Handled or dead-lettered, with the value as it was; here all of them both."""
    chance = random.Random(7)
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    with closing(join(rabbitmq.queue()).source) as other:
        writer = other._open_link  # type: ignore[attr-defined]
        number, sent = writer.channel().number, []
        for at in range(FUZZED):
            sent.append(b"%d " % at + chance.randbytes(300_000 if at % 500 == 1 else chance.choice((0, 9, 1_000))))
            told = any_properties(chance, "tbBsuIilDSATFVx", without=(8, 4))  # the others the broker does not take
            writer.write(any_bytes_publish(number, queue, chance.randbytes(chance.randrange(256)), told, sent[-1]))
        until(lambda: rabbitmq.depth(queue) == FUZZED, lambda: writer.pump(0.05))
    member = join(queue, in_flight=FUZZED)
    member.receive(FUZZED)
    assert set(values(member.got)) == set(sent)
    with sink(connect(rabbitmq), dead, timeout=60) as opened:
        opened.publish([letter(one) for one in member.got])
    back = join(dead, in_flight=FUZZED)
    back.receive(FUZZED)
    assert {(one.value, one.key) for one in back.got} == {(one.value, one.key) for one in member.got}


def test_a_rewind_while_such_headers_are_on_their_way(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    writer = join(rabbitmq.queue()).source._open_link  # type: ignore[attr-defined]
    writer.write(publish(writer.channel().number, queue, [(LATE, b"x" * 2_000)] * 5_000, 100_000))
    until(lambda: rabbitmq.depth(queue) == 5_000, lambda: writer.pump(0.05))
    member = join(queue, in_flight=5_000)
    for _ in range(3):
        member.receive(1)
        member.source.rewind(Partition(queue, 0))
    assert member.source._open_link.alive  # type: ignore[attr-defined]


def test_a_header_of_the_name_of_a_streams_offset(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, [b"1"], headers=[("x-stream-offset", b"7")])
    assert dict(join(queue).receive(1)[0].record(0).headers) == {"x-stream-offset": b"7"}


def test_a_look_sees_more_than_the_prefetch(rabbitmq: RabbitMQContainer) -> None:
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, numbers(10))  # type: ignore[arg-type]
    found = list(connector.browse(SourceOptions(connect(rabbitmq, prefetch=3), (queue,), "look")))
    assert sum(map(len, found)) == 10


def test_headers_that_the_client_cannot_read_stop_nothing(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, [b"1"])
    member = join(queue)
    [batch] = member.receive(1)
    tag, redelivered, route, _, body = batch.native[0]
    broken = type(batch)(batch.partition, [(tag, redelivered, route, b"\x20\x00\x00\x00\x00\x05\x01aZ??", body)])
    assert broken.record(0).value == b"1"
    assert "undecodable" in dict(broken.record(0).headers)


# Dead letters


def test_the_brokers_own_policy(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    dead = rabbitmq.queue("dead")
    queue = rabbitmq.queue(kind=kind, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    rabbitmq.produce(queue, numbers(10))  # type: ignore[arg-type]
    member = join(queue)
    batch = gather(member.receive(10))
    member.source.commit([batch.pick([0, 1, 3])])
    member.source.reject([batch.pick([2, 5])])
    member.source.commit([batch.pick([4, 6, 7, 8, 9])])
    member.source.close()
    assert rabbitmq.depth(queue) == 0
    reader = join(dead)
    reader.receive(2)
    assert values(reader.got) == [b"2", b"5"]
    assert reader.got[0].properties["x-death"][0]["queue"] == queue
    assert "x-death" not in dict(reader.got[0].headers)


def test_a_letter_that_no_queue_takes_is_an_error(rabbitmq: RabbitMQContainer) -> None:
    dead = rabbitmq.queue()
    with sink(connect(rabbitmq), dead) as opened:
        opened.open()
        with rabbitmq.channel() as channel:
            channel.queue_delete(dead)
        with pytest.raises(PublishError, match="no queue takes it: NO_ROUTE"):
            opened.publish([letter(record())])


def test_a_full_queue_refuses_letters(rabbitmq: RabbitMQContainer) -> None:
    dead = rabbitmq.queue(kind="classic", x_max_length=2, x_overflow="reject-publish")
    with sink(connect(rabbitmq), dead) as opened, pytest.raises(PublishError, match="refused"):
        opened.publish([letter(record(b"%d" % number)) for number in range(10)])


def test_a_letter_larger_than_the_broker_takes(rabbitmq: RabbitMQContainer) -> None:
    dead = rabbitmq.queue()
    with sink(connect(rabbitmq), dead) as opened:
        with pytest.raises(PublishError, match="larger than configured max size") as raised:
            opened.publish([letter(record(b"x" * 17_000_000))])
        assert raised.value.permanent
        opened.publish([letter(record(b"small"))])
    assert values(rabbitmq.read(dead)) == [b"small"]


def test_many_letters_are_confirmed_together(rabbitmq: RabbitMQContainer, kind: str) -> None:
    dead = rabbitmq.queue(kind=kind)
    with sink(connect(rabbitmq), dead) as opened:
        opened.publish([letter(record(b"%d" % number)) for number in range(5_000)])
    assert rabbitmq.depth(dead) == 5_000


def test_an_alarm_blocks_letters_and_not_deliveries(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.produce(queue, numbers(100))  # type: ignore[arg-type]
    member = join(queue, in_flight=10)
    with sink(connect(rabbitmq), dead, timeout=2) as opened:
        opened.publish([letter(record(b"before"))])
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(PublishError, match=r"not confirmed in 2 s: the broker blocks publishers \(low on memory\)"):
                opened.publish([letter(record(b"blocked"))])
            while len(member.got) < 100:
                member.source.commit(member.receive(10))
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
        opened.publish([letter(record(b"after"))])
    assert {b"before", b"after"} <= set(values(rabbitmq.read(dead)))


def test_a_sink_reconnects(rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer) -> None:
    dead = rabbitmq.queue()
    proxy = toxiproxy.proxy(rabbitmq.address)
    with sink(connect(rabbitmq, proxy.address), dead, timeout=5) as opened:
        opened.publish([letter(record(b"0"))])
        proxy.cut()
        with pytest.raises((PublishError, Unavailable)):
            opened.publish([letter(record(b"1"))])
        proxy.restore()
        opened.publish([letter(record(b"2"))])
        proxy.silence()
        with pytest.raises(PublishError, match="not confirmed in 5 s"):
            opened.publish([letter(record(b"3"))])
        proxy.restore()
        opened.publish([letter(record(b"4"))])
    assert {b"0", b"2", b"4"} <= set(values(rabbitmq.read(dead)))


def test_an_idle_connection_that_died_costs_little(
    rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall forgot it: nothing is answered, and nobody says so."""
    monkeypatch.setattr("worker.connectors.rabbitmq_sink._IDLE", 0.5)
    dead = rabbitmq.queue()
    proxy = toxiproxy.proxy(rabbitmq.address)
    with sink(connect(rabbitmq, proxy.address, stack_timeout=1), dead, timeout=60) as opened:
        opened.publish([letter(record(b"0"))])
        proxy.silence()
        opened._used -= 1.0
        began = time.monotonic()
        with pytest.raises(Unavailable):  # nor is the next one
            opened.publish([letter(record(b"1"))])
        assert time.monotonic() - began < 30
        proxy.restore()
        opened.publish([letter(record(b"2"))])
    assert values(rabbitmq.read(dead)) == [b"0", b"2"]


def test_a_connection_that_dies_under_a_publish_costs_no_minute(
    rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.connectors.rabbitmq_sink._SILENT", 1.0)
    proxy = toxiproxy.proxy(rabbitmq.address)
    with sink(connect(rabbitmq, proxy.address), rabbitmq.queue(), timeout=60) as opened:
        opened.publish([letter(record(b"0"))])
        proxy.silence()
        with pytest.raises(PublishError, match="1 not confirmed in 1 s") as raised:
            opened.publish([letter(record(b"1"))])
        assert not raised.value.permanent
        proxy.restore()


def test_a_large_letter_on_a_slow_line_is_no_dead_connection(
    rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.connectors.rabbitmq_sink._SILENT", 2.5)
    dead = rabbitmq.queue(kind="classic")
    proxy = toxiproxy.proxy(rabbitmq.address)
    with sink(connect(rabbitmq, proxy.address), dead, timeout=60) as opened:
        opened.open()
        proxy.narrow(4_000_000)
        opened.publish([letter(record(b"x" * 16_000_000))])
    assert rabbitmq.depth(dead) == 1


def test_large_letters_do_not_pile_up(rabbitmq: RabbitMQContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []
    send = RabbitMQSink._send

    def watched(self: RabbitMQSink, link: Link, *rest: Any) -> int:
        sent = send(self, link, *rest)
        waiting.append(link.unsent)
        return sent

    monkeypatch.setattr(RabbitMQSink, "_send", watched)
    dead = rabbitmq.queue(kind="classic")
    with sink(connect(rabbitmq), dead, timeout=60) as opened:
        opened.publish([letter(record(b"x" * 1_000_000))] * 60)
    assert rabbitmq.depth(dead) == 60
    assert max(waiting) < 12_000_000


def test_a_queue_of_letters_that_is_gone_after_a_reconnect(rabbitmq: RabbitMQContainer) -> None:
    dead = rabbitmq.queue()
    with sink(connect(rabbitmq), dead) as opened:
        opened.open()
        opened._disconnect()
        with rabbitmq.channel() as channel:
            channel.queue_delete(dead)
        with pytest.raises(PublishError, match="does not exist") as raised:
            opened.publish([letter(record())])
        assert not raised.value.permanent, "it may come back"


def test_a_letter_is_copied_to_no_other_queue(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue, dead, other = rabbitmq.queue(), rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.produce(queue, [b"1"], headers=[("CC", [other])])  # type: ignore[list-item]
    member = join(queue)
    member.receive(1)
    with sink(connect(rabbitmq), dead) as opened:
        opened.publish([letter(member.got[0])])
    assert rabbitmq.depth(other) == 0
    assert "x-CC" in dict(rabbitmq.read(dead)[0].headers)


def test_what_of_a_record_does_not_fit_into_a_message_stops_no_letter(rabbitmq: RabbitMQContainer) -> None:
    """The broker ends the connection over it."""
    dead = rabbitmq.queue()
    ones = [
        letter(record(b"%d" % at))._replace(headers=headers)
        for at, headers in enumerate([[("h" * 256, b"1")], [("h", b"1" * 131_050)], [("h", b"1" * 131_000)]])
    ]
    with sink(connect(rabbitmq), dead) as opened:
        opened.publish([*ones, letter(record(b"3")._replace(timestamp=-1_000))])
    back = rabbitmq.read(dead)
    assert values(back) == numbers(4)
    assert [set(dict(one.headers)) for one in back] == [{LEFT_OUT_HEADER}, {LEFT_OUT_HEADER}, {"h"}, set()]


# Connections


def test_a_connection_that_is_cut_comes_back_in_order(
    rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer, join: Callable[..., Member], kind: str
) -> None:
    queue = rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(100))  # type: ignore[arg-type]
    proxy = toxiproxy.proxy(rabbitmq.address)
    member = join(queue, address=proxy.address, in_flight=40)
    batch = gather(member.receive(40))
    member.source.commit([batch.take(0, 15)])
    while rabbitmq.depth(queue) != 45:  # the acks were taken when their room has been filled again
        member.poll(0)
    proxy.cut()
    poll_until_lost(member)
    proxy.restore()
    before = len(member.got)
    until(lambda: rabbitmq.depth(queue) == 85)  # a broker that has not noticed the cut gives the next consumer what comes next
    member.open_again()
    member.receive(40)
    assert values(member.got)[before:] == numbers(15, 55)


def test_silence_is_noticed(rabbitmq: RabbitMQContainer, toxiproxy: ToxiproxyContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    proxy = toxiproxy.proxy(rabbitmq.address)
    member = join(queue, address=proxy.address, heartbeat="2")
    proxy.silence("downstream")
    began = time.monotonic()
    assert "heartbeat" in str(poll_until_lost(member)).lower()
    assert time.monotonic() - began < 20


def test_heartbeats_are_sent_while_nothing_is_polled_for(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    """As behind a handler of several minutes: the loop polls for no records."""
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, [b"1"])
    member = join(queue, heartbeat="1")
    batches = member.receive(1)
    silence = time.monotonic() + 4.0  # of us, for which the broker would end a connection without heartbeats
    until(lambda: time.monotonic() > silence, lambda: member.poll(0, 0.05))
    member.source.commit(batches)
    member.source.close()
    assert rabbitmq.depth(queue) == 0 and not member.revoked[:-1]


def test_a_node_that_restarts(rabbitmq: RabbitMQContainer, join: Callable[..., Member], kind: str) -> None:
    queue = rabbitmq.queue(kind=kind)
    rabbitmq.produce(queue, numbers(100))  # type: ignore[arg-type]
    member = join(queue)
    batch = gather(member.receive(100))
    member.source.commit([batch.take(0, 30)])
    for _ in range(5):
        member.poll(0, 0.05)
    rabbitmq.stop_broker()
    try:
        poll_until_lost(member)
    finally:
        rabbitmq.start_broker()
    before = len(member.got)
    member.open_again()
    member.receive(70)
    assert values(member.got)[before:] == numbers(30, 100)


def test_a_node_that_is_killed_keeps_the_order(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    """A quorum queue that comes back serves a consumer before it gives back what the one before had: three of four times, if that
    comes at once."""
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, numbers(600))  # type: ignore[arg-type]
    member = join(queue, ordered=True, in_flight=200)
    time.sleep(1.0)  # a queue that was declared within the last half second comes back broken: consumers are never answered
    for _ in range(4):
        start = len(member.got)
        member.receive(200)
        assert values(member.got)[start:] == numbers(200)
        rabbitmq.kill_broker()
        poll_until_lost(member)
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(rabbitmq.start_broker)
            while len(member.got) == start + 200:
                member.open_again()
                try:
                    member.poll(200)
                except Unavailable:
                    member.source.close()
            starting.result()
        member.until(lambda end=start + 400: len(member.got) >= end)
        assert values(member.got)[start + 200 :] == numbers(200)
        member.source.close()
        member.open()


def test_a_queue_that_goes_leaves_no_consumer_on_the_others(rabbitmq: RabbitMQContainer) -> None:
    """A source that cannot be opened again is closed: else each try left a connection that holds messages of the other queue."""
    stays, goes = rabbitmq.queue(), rabbitmq.queue()
    source = connector.source(SourceOptions(connect(rabbitmq), (stays, goes), "group"))
    opening, opens = source.open, []
    source.open = lambda on_revoke: (opens.append(on_revoke), opening(on_revoke))[-1]  # type: ignore[method-assign, func-returns-value]
    loop = Loop("handler", source, Shape(positioned=False, ordered=False), clock=time.monotonic)
    try:
        until(lambda: loop.counters.polls, lambda: loop.turn(0.05))
        assert stays in rabbitmq.ctl("list_consumers", "queue_name")
        with rabbitmq.channel() as channel:
            channel.queue_delete(goes)
        until(lambda: len(opens) >= 3, lambda: loop.turn(0.05))
        until(lambda: stays not in rabbitmq.ctl("list_consumers", "queue_name"), patience=10)
    finally:
        loop.stop(time.monotonic())
        until(lambda: loop.closed, lambda: loop.turn(0.05))


def test_the_next_host_is_tried(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    rabbitmq.produce(queue, [b"1"])
    join(queue, address=f"127.0.0.1:1,{rabbitmq.address}").receive(1)


def test_the_connection_has_a_name(rabbitmq: RabbitMQContainer, join: Callable[..., Member]) -> None:
    queue = rabbitmq.queue()
    join(queue)
    join(queue, connection_name="mine")
    named = rabbitmq.ctl("list_connections", "client_properties")
    assert '"connection_name","group"' in named and '"connection_name","mine"' in named


# Refusals


def test_a_wrong_password(rabbitmq: RabbitMQContainer, caplog: pytest.LogCaptureFixture) -> None:
    error = refusal(Connection("shop", "rabbitmq", rabbitmq.address, username="test", password="hunter2"))
    assert isinstance(error, Refused)
    assert str(error) == f"connection shop: {rabbitmq.address} refuses user test or its password"
    assert not caplog.text


def test_a_virtual_host_that_is_not_there(rabbitmq: RabbitMQContainer) -> None:
    connection = Connection("shop", "rabbitmq", rabbitmq.address, "/nowhere", username="test", password="secret")
    error = refusal(connection)
    assert isinstance(error, Refused) and "no virtual host nowhere, or user test may not use it" in str(error)


def test_no_permission(rabbitmq: RabbitMQContainer) -> None:
    queue = rabbitmq.queue()
    rabbitmq.ctl("add_user", f"nobody-{queue}", "secret")
    rabbitmq.ctl("set_permissions", f"nobody-{queue}", "^$", "^$", "^$")
    connection = Connection("shop", "rabbitmq", rabbitmq.address, username=f"nobody-{queue}", password="secret")
    source = connector.source(SourceOptions(connection, (queue,), "group"))
    with pytest.raises(Refused, match=f"queue {queue}: user nobody-{queue} has no permission"):
        source.open(lambda partitions, lost: None)
    source.close()


def test_nobody_listens() -> None:
    error = refusal(Connection("shop", "rabbitmq", "127.0.0.1:1"))
    assert isinstance(error, Unavailable)
    assert str(error) == "connection shop: 127.0.0.1:1 cannot be reached: Connection refused"


def test_an_unknown_host() -> None:
    error = refusal(Connection("shop", "rabbitmq", "broker.invalid"))
    assert isinstance(error, Unavailable) and "broker.invalid:5672: no such host" in str(error)


def test_tls_to_the_plain_port(rabbitmq: RabbitMQContainer) -> None:
    error = refusal(Connection("shop", "amqps", rabbitmq.address))
    assert "no TLS" in str(error) or "does not speak" in str(error) or "cannot be reached" in str(error)


@pytest.fixture(scope="class")
def tls(rabbitmq: RabbitMQContainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A listener on 5671 that wants certificates of one CA; the user `worker` may come in with one. It is gone when the node
    restarts, as another test makes it do: a class is not mixed with others."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = authority.issue_cert("localhost")
    server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.issue_cert("worker@example.com", common_name="worker").private_key_and_cert_chain_pem.write_to_path(
        folder / "client.pem"
    )
    for name in ("ca.pem", "server.pem"):
        rabbitmq.copy_into_container(folder / name, f"/tmp/{name}")
    rabbitmq.ctl("add_user", "worker", "unused")
    rabbitmq.ctl("set_permissions", "worker", ".*", ".*", ".*")
    rabbitmq.ctl("eval", "application:set_env(rabbit, auth_mechanisms, ['PLAIN', 'EXTERNAL']).")
    rabbitmq.ctl("eval", "application:set_env(rabbit, ssl_cert_login_from, common_name).")
    rabbitmq.get_wrapped_container().exec_run(["rabbitmq-plugins", "enable", "rabbitmq_auth_mechanism_ssl"])
    options = '[{cacertfile,"/tmp/ca.pem"},{certfile,"/tmp/server.pem"},{keyfile,"/tmp/server.pem"},{verify,verify_peer}]'
    rabbitmq.ctl("eval", f"application:set_env(rabbit, ssl_options, {options}).")
    rabbitmq.ctl("eval", f"rabbit_networking:start_ssl_listener(5671, {options}, 10).")
    return folder


class TestTls:
    def test_tls_and_a_login_by_certificate(self, rabbitmq: RabbitMQContainer, tls: Path) -> None:
        queue = rabbitmq.queue()
        hosts = f"localhost:{rabbitmq.tls_port}"
        options = {"auth": "external", "cafile": str(tls / "ca.pem"), "certfile": str(tls / "client.pem")}
        member = Member(connector.source(SourceOptions(Connection("shop", "amqps", hosts, options=options), (queue,), "group")))
        rabbitmq.produce(queue, [b"1", b"x" * 300_000])
        member.open().receive(2)
        member.source.close()
        assert "worker" in rabbitmq.ctl("list_users")

    def test_a_certificate_of_another_authority(self, rabbitmq: RabbitMQContainer, tls: Path) -> None:
        error = refusal(Connection("shop", "amqps", f"localhost:{rabbitmq.tls_port}", username="test", password="secret"))
        assert isinstance(error, Refused) and "its certificate is not accepted" in str(error) and "cafile=" in str(error)

    def test_a_certificate_of_another_name(self, rabbitmq: RabbitMQContainer, tls: Path) -> None:
        options = {"cafile": str(tls / "ca.pem")}
        error = refusal(Connection("shop", "amqps", f"127.0.0.1:{rabbitmq.tls_port}", options=options))
        assert isinstance(error, Refused) and "127.0.0.1" in str(error) and "certificate" in str(error)


def test_a_lost_connection_is_told_once(rabbitmq: RabbitMQContainer, caplog: pytest.LogCaptureFixture) -> None:
    """pika writes ten lines of its own for it."""
    with caplog.at_level(logging.INFO):
        refusal(Connection("shop", "rabbitmq", "127.0.0.1:1"))
    assert not [one for one in caplog.records if one.name.startswith("pika")]
