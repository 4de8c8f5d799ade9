"""What a real ActiveMQ can do to us: nothing is lost, and a refusal is one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.contract import Member, gather, letter, numbers, values
from tests.waiting import until
from worker.connectors import activemq as connector
from worker.connectors.activemq_sink import ActiveMQSink
from worker.connectors.activemq_source import ActiveMQSource
from worker.errors import ConnectorError, PublishError, Refused, Unavailable
from worker.interface import LEFT_OUT_HEADER, Connection, Partition, Record, SinkOptions, SourceOptions
from worker.testing import ActiveMQContainer, ToxiproxyContainer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def members() -> Iterator[list[Member]]:
    made: list[Member] = []
    yield made
    for member in made:
        member.source.close()


@pytest.fixture(params=[False, True], ids=["alone", "cumulative"])
def ordered(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def join(activemq: ActiveMQContainer, members: list[Member]) -> Callable[..., Member]:
    def join(
        *streams: str,
        address: str | None = None,
        in_flight: int = 1000,
        ordered: bool = False,
        group: str = "group",
        **options: Any,
    ) -> Member:
        login = connect(activemq, address, **{name.replace("__", "."): value for name, value in options.items()})
        members.append(Member(connector.source(SourceOptions(login, streams, group, ordered=ordered, in_flight=in_flight))))
        return members[-1].open()

    return join


def connect(activemq: ActiveMQContainer, address: str | None = None, **options: Any) -> Connection:
    return Connection(
        "shop", "activemq", address or activemq.address, username=activemq.USER, password=activemq.PASSWORD, options=options
    )


def sink(connection: Connection, queue: str, timeout: float = 20) -> closing[ActiveMQSink]:
    return closing(connector.sink(SinkOptions(connection, queue, timeout)))


def refusal(connection: Connection) -> ConnectorError:
    """What opening raises: one line, the same for source and sink."""
    source = connector.source(SourceOptions(connection, ("orders",), "group"))
    with pytest.raises(ConnectorError) as raised:
        source.open(lambda partitions, lost: None)
    source.close()
    with sink(connection, "dead") as opened, pytest.raises(type(raised.value)):
        opened.open()
    assert "\n" not in str(raised.value)
    return raised.value


def poll_until_lost(member: Member) -> Unavailable:
    with pytest.raises(Unavailable) as raised:
        member.until(lambda: False)
    member.source.close()
    return raised.value


def record(value: bytes | None = b"1", **properties: Any) -> Record[bytes]:
    return Record(value, None, (), None, 1, Partition("q", 0), properties)


# Delivery


def test_as_many_as_the_limit_come_unsettled(activemq: ActiveMQContainer, join: Callable[..., Member], ordered: bool) -> None:
    """More may not, so a batch of 500 must not wait for them; what is acknowledged makes room."""
    queue = activemq.queue()
    activemq.produce(queue, numbers(500))  # type: ignore[arg-type]
    member = join(queue, ordered=ordered)
    assert member.source.limit == 200
    member.receive(200)
    member.source.commit([gather(member.batches)])
    member.receive(200)
    assert values(member.got) == numbers(400)


def test_the_prefetch_bounds_what_is_unsettled(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(100))  # type: ignore[arg-type]
    member = join(queue, in_flight=30)
    assert member.source.limit == 30
    member.receive(30)
    member.nothing_more()


def test_acks_arrive_before_the_close(activemq: ActiveMQContainer, join: Callable[..., Member], ordered: bool) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(100))  # type: ignore[arg-type]
    for start in range(0, 100, 10):
        member = join(queue, ordered=ordered)
        batch = gather(member.receive(10, most=10))
        assert batch.values() == numbers(start, start + 10)
        member.source.commit([batch])
        member.source.close()
    assert activemq.read(queue) == []


def test_in_order_what_is_finished_behind_a_gap_is_held_back(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(10))  # type: ignore[arg-type]
    member = join(queue, ordered=True)
    batch = gather(member.receive(10))
    member.source.commit([batch.take(3, 6)])
    member.source.commit([batch.take(0, 2)])
    member.source.close()
    member.open()
    again = gather(member.receive(8))
    assert again.values() == numbers(2, 10)
    assert all(one.properties["redelivered"] for one in again)
    member.source.commit([again.take(1, 5)])
    member.source.commit([again.take(0, 1)])
    member.source.close()
    assert values(activemq.read(queue)) == numbers(7, 10)


def test_a_record_that_comes_back_again_and_again_stays(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(3))  # type: ignore[arg-type]
    for _ in range(25):
        member = join(queue)
        member.receive(3)
        member.source.rewind(Partition(queue, 0))
        member.receive(3)
        assert values(member.got) == [*numbers(3), *numbers(3)]
        member.source.close()


def test_what_is_rewound_and_paused_waits_at_the_broker(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(10))  # type: ignore[arg-type]
    member = join(queue)
    member.source.commit([gather(member.receive(10)).take(0, 3)])
    member.source.pause([Partition(queue, 0)])
    member.source.rewind(Partition(queue, 0))
    member.nothing_more()
    join(queue).receive(7)
    member.source.resume([Partition(queue, 0)])
    member.nothing_more()


def test_an_exclusive_consumer_hands_over_in_order(
    activemq: ActiveMQContainer, join: Callable[..., Member], ordered: bool
) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(100))  # type: ignore[arg-type]
    first, second = (join(queue, in_flight=20, ordered=ordered, activemq__exclusive="true") for _ in range(2))
    batch = gather(first.receive(20))
    second.nothing_more()
    first.source.commit([batch.take(0, 7)])
    first.source.close()
    second.receive(20)
    assert values(second.got) == numbers(7, 27)


def test_a_durable_topic_keeps_what_comes_meanwhile(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    topic = "topic/" + activemq.queue()
    group = "group-" + topic[6:]
    member = join(topic, group=group)
    activemq.produce(topic, numbers(5))  # type: ignore[arg-type]
    member.source.commit([gather(member.receive(5)).take(0, 3)])
    member.source.close()
    activemq.produce(topic, [b"meanwhile"])
    again = join(topic, group=group)
    again.receive(3)
    assert values(again.got) == [b"3", b"4", b"meanwhile"]


def test_a_client_id_in_use_is_refused_only_to_a_worker_that_never_had_it(
    activemq: ActiveMQContainer, members: list[Member]
) -> None:
    """It may be in use by our own connection of before, whose end the broker has not noticed."""
    topic = "topic/" + activemq.queue()
    options = SourceOptions(connect(activemq), (topic,), "group-" + topic[6:])
    later = 0.0
    one, other = (Member(ActiveMQSource(options, clock=lambda: time.monotonic() + later)) for _ in range(2))
    members += one, other
    one.open()
    with pytest.raises(Unavailable, match="one consumer at a time, and its client_id is in use"):
        other.open()
    one.source.close()
    other.open()
    later = 60.0
    with pytest.raises(Unavailable):
        one.open()
    stranger = Member(ActiveMQSource(options, clock=lambda: time.monotonic() + later))
    members.append(stranger)
    with pytest.raises(Unavailable):
        stranger.open()
    later = 91.0
    with pytest.raises(Refused, match="one consumer at a time, and its client_id is in use"):
        stranger.open()
    other.source.close()
    one.open_again()


def test_two_durable_topics_of_one_handler(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    topics = ["topic/" + activemq.queue(), "topic/" + activemq.queue()]
    group = "group-" + topics[0][6:]
    member = join(*topics, group=group)
    member.source.close()
    for topic in topics:
        activemq.produce(topic, [b"meanwhile"])
    member.open()
    member.receive(2)
    assert {record.partition.stream for record in member.got} == set(topics)


def test_a_selector(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    for number in range(6):
        activemq.produce(queue, [b"%d" % number], colour="red" if number % 2 else "blue")
    member = join(queue, selector="colour = 'red'")
    member.receive(3)
    assert values(member.got) == [b"1", b"3", b"5"]


def test_a_selector_that_cannot_be_read(join: Callable[..., Member]) -> None:
    with pytest.raises(Refused, match=r"orders: selector= cannot be read: \(\(nonsense"):
        join("orders", selector="((nonsense")


def test_several_queues_of_one_source(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    one, two = activemq.queue(), activemq.queue()
    for queue in (one, two):
        activemq.produce(queue, numbers(50))  # type: ignore[arg-type]
    member = join(one, two)
    member.receive(100, most=7)
    for queue in (one, two):
        mine = gather(member.batches, Partition(queue, 0))
        assert mine.values() == numbers(50)
        member.source.commit([mine])


def test_a_wildcard_gets_at_once_what_was_there(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    name = activemq.queue()
    for number in range(5):
        activemq.produce(f"{name}.{number}", [b"%d" % number])
    member = join(f"{name}.>")
    began = time.monotonic()
    member.receive(5)
    assert time.monotonic() - began < 10  # every 30 s the broker looks for itself
    assert {(one.value, one.properties["destination"]) for one in member.got} == {
        (b"%d" % number, f"/queue/{name}.{number}") for number in range(5)
    }
    member.source.commit(member.batches)
    member.source.close()
    member.open()
    member.nothing_more()


# Messages


@pytest.mark.parametrize("size", [1, 300_000])
def test_a_text_alone_comes_at_once(activemq: ActiveMQContainer, join: Callable[..., Member], size: int) -> None:
    """It has no length, and its end is known only by what comes behind it."""
    queue = activemq.queue()
    member = join(queue)
    for _ in range(3):
        with activemq.session() as client:
            client.send("SEND", {"destination": "/queue/" + queue}, b"x" * size)
            client.sync()
        member.receive(1)
    assert values(member.got) == [b"x" * size] * 3


def test_everything_of_a_message_can_be_seen_and_kept(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue, dead = activemq.queue(), activemq.queue()
    far = str(int(time.time() * 1000) + 600_000)
    told = {"priority": "7", "correlation-id": "c:1", "type": "order", "reply-to": "/queue/r", "content-type": "text/plain"}
    with activemq.session() as client:
        headers = {"destination": "/queue/" + queue, "persistent": "true", "expires": far, "own": "a:b\\\nc", **told}
        client.send("SEND", headers, "text: ä".encode())
        client.sync()
    activemq.produce(queue, [b"\0bytes"], persistent=False)
    member = join(queue)
    member.receive(2)
    text, plain = member.got
    wanted = {"priority": 7, "correlation_id": "c:1", "type": "order", "reply_to": "/queue/r", "content_type": "text/plain"}
    wanted |= {"persistent": True, "redelivered": False, "text": True, "expires": int(far), "destination": "/queue/" + queue}
    assert text.properties == wanted
    assert (text.value, list(text.headers)) == ("text: ä".encode(), [("own", b"a:b\\\nc")])
    assert text.timestamp and abs(text.timestamp / 1000 - time.time()) < 60
    assert str(text.id).startswith("ID:")
    assert (plain.value, plain.properties["text"], plain.properties["persistent"]) == (b"\0bytes", False, False)
    with sink(connect(activemq), dead) as opened:
        opened.publish([letter(one) for one in member.got])
    kept_text, kept_plain = activemq.read(dead)
    assert {name: kept_text.properties.get(name) for name in told} == told
    assert kept_text.properties["persistent"] == kept_plain.properties["persistent"] == "true"
    assert "content-length" not in kept_text.properties and "content-length" in kept_plain.properties
    assert kept_text.properties.get("expires", "0") == "0"


def test_a_letter_survives_with_any_key_and_headers(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    """What the broker would act on, refuse or change comes back as it was: the letters of other brokers' records have it."""
    dead = activemq.queue()
    meant = ("expires", "timestamp", "persistent", "priority", "transaction", "reply-to", "JMSXGroupSeq", "AMQ_SCHEDULED_CRON")
    own: list[tuple[str, bytes | None]] = [(name, b"odd") for name in (*meant, "amq-msg-type", "JMSXDeliveryCount", "browser")]
    own += [("binary", b"\xff\x00"), ("null", None), ("", b"nameless"), ("twice", b"1"), ("twice", b"2"), ("o:d d\n", b" \r ")]
    one = Record(b"v", b"\xffkey", own, None, 1, Partition("q", 0))
    with sink(connect(activemq), dead) as opened:
        opened.publish([letter(one)])
    member = join(dead)
    member.receive(1)
    [found] = member.got
    assert (found.value, found.key) == (b"v", b"\xffkey")
    assert sorted(found.headers, key=repr) == sorted(own, key=repr)


@pytest.mark.parametrize("size", [5_000_000, 60_000_000])
def test_large_messages(activemq: ActiveMQContainer, join: Callable[..., Member], size: int) -> None:
    queue, dead = activemq.queue(), activemq.queue()
    activemq.produce(queue, [b"a", b"x" * size, b"b"])
    member = join(queue)
    began = time.process_time()
    member.receive(3)
    assert [len(value or b"") for value in values(member.got)] == [1, size, 1]
    assert time.process_time() - began < 5, "not in linear time"
    member.source.commit([gather(member.batches)])
    with sink(connect(activemq), dead) as opened:
        opened.publish([letter(member.got[1])])
    reader = join(dead)
    reader.receive(1)
    assert reader.got[0].value == b"x" * size


# Dead letters


def test_the_brokers_own_dead_letters(activemq: ActiveMQContainer, join: Callable[..., Member], ordered: bool) -> None:
    """A NACK would lose the message that is not persistent."""
    queue = activemq.queue()
    prefix = queue.encode() + b" "
    activemq.produce(queue, [prefix + b"%d" % number for number in range(6)])
    activemq.produce(queue, [prefix + b"6"], persistent=False, key=b"k", AMQ_SCHEDULED_DELAY="1", priority="7")
    member = join(queue, ordered=ordered)
    batch = gather(member.receive(7))
    member.source.commit([batch.pick([0])])
    member.source.reject([batch.pick([1, 3])])
    member.source.commit([batch.pick([2, 4, 5])])
    member.source.reject([batch.pick([6])])
    member.source.close()
    assert activemq.read(queue) == []
    found = [one for one in activemq.read("ActiveMQ.DLQ") if one.value and one.value.startswith(prefix)]
    assert sorted(map(str, values(found))) == sorted(str(prefix + number) for number in (b"1", b"3", b"6"))
    assert all(one.properties["persistent"] == "true" for one in found)
    [sent] = [one for one in found if one.value == prefix + b"6"]
    assert (sent.key, sent.properties["priority"], sent.properties["x-AMQ_SCHEDULED_DELAY"]) == (b"k", "7", "1")
    assert "AMQ_SCHEDULED_DELAY" not in sent.properties


def test_many_letters_are_confirmed_together(activemq: ActiveMQContainer) -> None:
    dead = activemq.queue()
    with sink(connect(activemq), dead) as opened:
        opened.publish([letter(record(b"%d" % number)) for number in range(2_000)])
        opened.publish([letter(record(None))])
    found = activemq.read(dead)
    assert found[-1].properties["dead_letter_null"] == "value"


def test_a_letter_larger_than_the_broker_takes(activemq: ActiveMQContainer) -> None:
    dead = activemq.queue()
    with sink(connect(activemq), dead) as opened:
        with pytest.raises(PublishError, match="larger than the broker takes") as raised:
            opened.publish([letter(record(b"x" * 105_000_000))])
        assert raised.value.permanent
        opened.publish([letter(record(b"small"))])
    assert values(activemq.read(dead)) == [b"small"]


@pytest.mark.parametrize(
    "own", [[("long", b"x" * 11_000)], [(f"h{number}", b"1") for number in range(1_100)]], ids=["long", "many"]
)
def test_a_letter_with_headers_that_the_broker_does_not_take(
    activemq: ActiveMQContainer, own: list[tuple[str, bytes | None]]
) -> None:
    dead = activemq.queue()
    with sink(connect(activemq), dead) as opened:
        opened.publish([letter(record(b"1"), own), letter(record(b"2"))])
    found = activemq.read(dead)
    assert values(found) == [b"1", b"2"]
    assert LEFT_OUT_HEADER in dict(found[0].headers)


def test_a_sink_reconnects(activemq: ActiveMQContainer, toxiproxy: ToxiproxyContainer) -> None:
    dead = activemq.queue()
    proxy = toxiproxy.proxy(activemq.address)
    with sink(connect(activemq, proxy.address), dead, timeout=5) as opened:
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
    assert {b"0", b"2", b"4"} <= set(values(activemq.read(dead)))


def test_an_idle_sink_whose_connection_died_in_silence(activemq: ActiveMQContainer, toxiproxy: ToxiproxyContainer) -> None:
    dead = activemq.queue()
    proxy = toxiproxy.proxy(activemq.address)
    now = [0.0]
    made = connector.sink(SinkOptions(connect(activemq, proxy.address), dead, 20))
    made._clock = lambda: time.monotonic() + now[0]
    with closing(made):
        made.publish([letter(record(b"0"))])
        proxy.silence()
        now[0] = 100.0
        proxy.cut()
        proxy.restore()
        made.publish([letter(record(b"1"))])
    assert values(activemq.read(dead)) == [b"0", b"1"]


# Connections


def test_a_connection_that_is_cut_comes_back_in_order(
    activemq: ActiveMQContainer, toxiproxy: ToxiproxyContainer, join: Callable[..., Member], ordered: bool
) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(100))  # type: ignore[arg-type]
    proxy = toxiproxy.proxy(activemq.address)
    # Exclusive: else a broker that has not noticed the cut gives the new consumer what comes next.
    member = join(queue, address=proxy.address, in_flight=40, ordered=ordered, activemq__exclusive="true")
    batch = gather(member.receive(40))
    member.source.commit([batch.take(0, 15)])
    member.receive(15)  # the acks were taken when their room has been filled again
    proxy.cut()
    poll_until_lost(member)
    proxy.restore()
    before = len(member.got)
    member.open_again()
    member.receive(40)
    assert values(member.got)[before:] == numbers(15, 55)


def test_silence_is_noticed(activemq: ActiveMQContainer, toxiproxy: ToxiproxyContainer, join: Callable[..., Member]) -> None:
    proxy = toxiproxy.proxy(activemq.address)
    member = join(activemq.queue(), address=proxy.address, heartbeat="1")
    proxy.silence("downstream")
    began = time.monotonic()
    assert "no heartbeat for 2 s" in str(poll_until_lost(member))
    assert time.monotonic() - began < 10


def test_heartbeats_are_sent_while_nothing_is_polled_for(
    activemq: ActiveMQContainer, join: Callable[..., Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a handler of several minutes: the loop polls for no records. This is about our heartbeats and not the broker's,
    whose machine may be busy with other brokers."""
    monkeypatch.setattr("worker.connectors.activemq_link._PATIENCE", 20.0)
    queue = activemq.queue()
    activemq.produce(queue, [b"1"])
    member = join(queue, heartbeat="1.5")
    batches = member.receive(1)
    silence = time.monotonic() + 6.0  # of us, for which the broker would end a connection without heartbeats
    until(lambda: time.monotonic() > silence, lambda: member.poll(0, 0.05))
    member.source.commit(batches)
    member.source.close()
    assert activemq.read(queue) == []


def test_a_broker_that_restarts(activemq: ActiveMQContainer, join: Callable[..., Member], ordered: bool) -> None:
    queue = activemq.queue()
    activemq.produce(queue, numbers(100))  # type: ignore[arg-type]
    member = join(queue, ordered=ordered)
    batch = gather(member.receive(100))
    member.source.commit([batch.take(0, 30)])
    for _ in range(5):
        member.poll(0, 0.05)
    activemq.stop_broker()
    try:
        poll_until_lost(member)
    finally:
        activemq.start_broker()
    before = len(member.got)
    member.open_again()
    member.receive(70)
    assert values(member.got)[before:] == numbers(30, 100)


def test_the_next_host_is_tried(activemq: ActiveMQContainer, join: Callable[..., Member]) -> None:
    queue = activemq.queue()
    activemq.produce(queue, [b"1"])
    join(queue, address=f"127.0.0.1:1,{activemq.address}").receive(1)


# Refusals


def test_a_wrong_password(activemq: ActiveMQContainer) -> None:
    error = refusal(Connection("shop", "activemq", activemq.address, username="test", password="hunter2"))
    assert isinstance(error, Refused)
    assert str(error) == "connection shop: user test or its password is refused"


def test_no_password(activemq: ActiveMQContainer) -> None:
    error = refusal(Connection("shop", "activemq", activemq.address))
    assert str(error) == "connection shop: user of no name or its password is refused"


def test_the_port_of_openwire(activemq: ActiveMQContainer) -> None:
    source = connector.source(SourceOptions(connect(activemq, f"127.0.0.1:{activemq.openwire_port}"), ("orders",), "group"))
    errors: list[str] = []

    def refused() -> bool:
        """It may also end the connection before it was heard."""
        with pytest.raises((Refused, Unavailable)) as raised:
            source.open(lambda partitions, lost: None)
        errors.append(str(raised.value))
        return isinstance(raised.value, Refused)

    until(refused)
    assert "speaks OpenWire: write the port of the broker's STOMP connector" in errors[-1]


def test_nobody_listens(activemq: ActiveMQContainer) -> None:
    error = refusal(connect(activemq, "127.0.0.1:1"))
    assert isinstance(error, Unavailable)
    assert str(error) == "connection shop: 127.0.0.1:1 cannot be reached: Connection refused"


def test_an_unknown_host(activemq: ActiveMQContainer) -> None:
    error = refusal(connect(activemq, "broker.invalid"))
    assert isinstance(error, Unavailable) and "broker.invalid:61613: no such host" in str(error)


def test_tls_to_the_plain_port(activemq: ActiveMQContainer) -> None:
    connection = Connection("shop", "activemq+ssl", activemq.address)
    assert "cannot be reached" in str(refusal(connection)) or "no TLS" in str(refusal(connection))


@pytest.fixture(scope="module")
def tls(activemq: ActiveMQContainer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """TLS in front of the broker, for the name localhost, with client certificates of one authority; and their folder."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("worker@example.com").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    host, _, port = activemq.address.partition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection(host, int(port))
        await asyncio.gather(forward(reader, theirs[1]), forward(theirs[0], writer), return_exceptions=True)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"localhost:{server.sockets[0].getsockname()[1]}", folder
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait([*tasks, loop.create_task(server.wait_closed())], timeout=5))
    loop.close()


def secure(activemq: ActiveMQContainer, address: str, folder: Path) -> Connection:
    options = {"cafile": str(folder / "ca.pem"), "certfile": str(folder / "client.pem")}
    return replace(connect(activemq, address, **options), scheme="activemq+ssl")


def test_tls(activemq: ActiveMQContainer, tls: tuple[str, Path], members: list[Member]) -> None:
    address, folder = tls
    queue, connection = activemq.queue(), secure(activemq, address, folder)
    body = bytes(range(256)) * 12_000  # a frame of many TLS records
    with sink(connection, queue) as opened:
        opened.open()
        wheres = [Record(body if n == 5 else b"%d" % n, None, (), None, n, Partition("orders", 0)) for n in range(300)]
        opened.publish([letter(record) for record in wheres])
    member = Member(connector.source(SourceOptions(connection, (queue,), "group", in_flight=1000))).open()
    members.append(member)
    member.until(lambda: len(member.got) >= 200)
    member.source.commit(member.batches)
    member.until(lambda: len(member.got) >= 300)
    assert [record.value for record in member.got] == [record.value for record in wheres]


def test_tls_that_does_not_fit(activemq: ActiveMQContainer, tls: tuple[str, Path]) -> None:
    address, folder = tls
    assert "certificate" in str(refusal(replace(secure(activemq, address, folder), options={})))
    assert "127.0.0.1" in str(refusal(secure(activemq, address.replace("localhost", "127.0.0.1"), folder)))
    assert isinstance(refusal(connect(activemq, address)), ConnectorError)


def test_a_broker_that_is_not_classic_is_named(
    activemq: ActiveMQContainer, join: Callable[..., Member], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        member = join(activemq.queue())
        assert not caplog.text
        member.source._warn_of("ActiveMQ-Artemis/2.40.0")  # type: ignore[attr-defined]
    assert "the broker is ActiveMQ-Artemis/2.40.0, not ActiveMQ Classic: not promised" in caplog.text
