"""What ActiveMQ is told: logins, subscriptions, acks, rejections, publishes and what an answer to them means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.brokers import Stomp
from tests.waiting import until
from worker.connectors import activemq
from worker.connectors.activemq_sink import ActiveMQSink
from worker.connectors.activemq_source import ActiveMQSource
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import Batch, Connection, DeadLetter, Partition, Record, SinkOptions, SourceOptions

Q = Partition("q", 0)


@pytest.fixture
def broker() -> Iterator[Stomp]:
    made = Stomp([b"0", b"1", b"2", b"3", b"4"])
    yield made
    made.close()


def connection(broker: Stomp, **options: Any) -> Connection:
    user = {"username": options.pop("username", None), "password": options.pop("password", None)}
    return Connection("shop", "activemq", broker.address, **user, options=options)


def no_revocation(partitions: Any, *, lost: bool) -> None: ...


@pytest.fixture
def opened(broker: Stomp) -> Iterator[Callable[..., ActiveMQSource]]:
    made: list[ActiveMQSource] = []

    def make(on_revoke: Any = no_revocation, clock: Any = None, stream: str = "q", **options: Any) -> ActiveMQSource:
        told = {name: options.pop(name) for name in ("ordered", "in_flight") if name in options}
        more = {} if clock is None else {"clock": clock}
        made.append(ActiveMQSource(SourceOptions(connection(broker, **options), (stream,), "group", **told), **more))
        made[-1].open(on_revoke)
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(source: ActiveMQSource, count: int = 5) -> Batch:
    batches: list[Batch] = []
    until(lambda: sum(map(len, batches)) >= count, lambda: batches.extend(source.poll(count - sum(map(len, batches)), 0.05)))
    return batches[0].join(batches[1:])


def settled(broker: Stomp) -> list[tuple[str, str]]:
    return [(command, head["id"]) for command, head, _ in broker.told if command in ("ACK", "NACK")]


def test_the_login_is_the_urls(broker: Stomp, opened: Any) -> None:
    opened(username="ann", password="pw", heartbeat="3", client_id="me")
    [told] = broker.of("CONNECT")
    assert (told["login"], told["passcode"], told["heart-beat"], told["client-id"]) == ("ann", "pw", "3000,3000", "me")


def test_without_a_user_none_is_sent(broker: Stomp, opened: Any) -> None:
    opened()
    [told] = broker.of("CONNECT")
    assert not {"login", "passcode", "client-id"} & told.keys() and told["heart-beat"] == "10000,10000"


@pytest.mark.parametrize(
    ("options", "prefetch", "limit"),
    [
        ({"in_flight": 7}, "7", 7),
        ({"in_flight": 7, "prefetch": 3}, "3", 3),
        ({"in_flight": 1000}, "1000", 200),
        ({"in_flight": 1000, "limit": 500}, "1000", 500),
    ],
)
def test_no_more_is_prefetched_than_may_be_unsettled(broker: Stomp, opened: Any, options: Any, prefetch: str, limit: int) -> None:
    source = opened(**options)
    [told] = broker.of("SUBSCRIBE")
    assert (told["activemq.prefetchSize"], told["destination"], source.limit) == (prefetch, "/queue/q", limit)


@pytest.mark.parametrize(("ordered", "mode"), [(True, "client"), (False, "client-individual")])
def test_a_subscription_is_settled_by_us(broker: Stomp, opened: Any, ordered: bool, mode: str) -> None:
    opened(ordered=ordered)
    assert [told["ack"] for told in broker.of("SUBSCRIBE")] == [mode]


def test_what_a_subscription_asks_for_besides(broker: Stomp, opened: Any) -> None:
    opened(selector="a > 1", transformation="jms-json", **{"activemq.exclusive": "true"})
    [told] = broker.of("SUBSCRIBE")
    assert (told["selector"], told["transformation"], told["activemq.exclusive"]) == ("a > 1", "jms-json", "true")


def test_a_durable_topic_has_a_name_and_a_client(broker: Stomp, opened: Any) -> None:
    opened(stream="topic/news")
    assert broker.of("CONNECT")[0]["client-id"] == "group"
    [told] = broker.of("SUBSCRIBE")
    assert (told["destination"], told["activemq.subscriptionName"]) == ("/topic/news", "group.news")


def test_nothing_is_acknowledged_before_it_is_finished(broker: Stomp, opened: Any) -> None:
    source = opened()
    batch = read(source)
    assert batch.values() == [b"0", b"1", b"2", b"3", b"4"]
    source.poll(0, 0.05)
    assert settled(broker) == []
    source.commit([batch.pick([1, 3])])
    source.commit([batch.pick([0])])
    until(lambda: len(settled(broker)) == 3)
    assert settled(broker) == [("ACK", "a1"), ("ACK", "a3"), ("ACK", "a0")]


def test_in_order_one_ack_stands_for_all_and_none_passes_a_gap(broker: Stomp, opened: Any) -> None:
    source = opened(ordered=True)
    batch = read(source)
    source.commit([batch.take(0, 2)])
    source.commit([batch.take(3)])
    source._open_link.sync()
    assert settled(broker) == [("ACK", "a1")]
    source.commit([batch.pick([2])])
    source._open_link.sync()
    assert settled(broker) == [("ACK", "a1"), ("ACK", "a4")]


def test_what_is_rejected_goes_to_the_brokers_dead_letters(broker: Stomp, opened: Any) -> None:
    source = opened()
    batch = read(source)
    source.reject([batch.take(0, 2)])
    source._open_link.sync()
    assert settled(broker) == [("NACK", "a0"), ("NACK", "a1")]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_close_leaves_what_is_not_finished_unsettled_and_sends_what_is(broker: Stomp, opened: Any, ordered: bool) -> None:
    revoked = []
    source = opened(lambda partitions, *, lost: revoked.append((list(partitions), lost)), ordered=ordered)
    batch = read(source)
    source.commit([batch.take(0, 1)])
    source.close()
    until(lambda: broker.ended)
    assert settled(broker) == [("ACK", "a0")] and revoked == [([Q], False)]
    assert broker.told[-1][0] == "DISCONNECT"


def test_a_rewind_subscribes_anew_under_another_id(broker: Stomp, opened: Any) -> None:
    source = opened(ordered=True)
    batch = read(source)
    source.commit([batch.take(0, 2)])
    source.rewind(Q)
    again = read(source)
    assert len(again) == 5 and settled(broker) == [("ACK", "a1")]
    first, second = (told["id"] for told in broker.of("SUBSCRIBE"))
    assert [told["id"] for told in broker.of("UNSUBSCRIBE")] == [first] and second != first
    source.commit([again.take(0, 1)])
    source._open_link.sync()
    assert settled(broker) == [("ACK", "a1"), ("ACK", "a0")], "counted from the start again"


def test_a_paused_queue_hands_out_nothing_and_is_not_subscribed_to_again(broker: Stomp, opened: Any) -> None:
    source = opened()
    source.pause([Q])
    source.rewind(Q)
    assert source.poll(10, 0.05) == [] and len(broker.of("SUBSCRIBE")) == 1
    source.resume([Q])
    assert len(read(source)) == 5


# Connections


@pytest.mark.parametrize("heartbeat", ["1", "5"])
def test_a_broker_that_falls_silent_is_an_outage_after_two_heartbeats(heartbeat: str) -> None:
    broker, now = Stomp(beat="0,1000"), [0.0]
    broker.beat = f"{int(heartbeat) * 1000},1000"
    source = ActiveMQSource(SourceOptions(connection(broker, heartbeat=heartbeat), ("q",), "group"), clock=lambda: now[0])
    source.open(no_revocation)
    now[0] += 2 * int(heartbeat) - 0.1
    source.poll(0, 0.0)
    now[0] += 0.2
    with pytest.raises(Unavailable, match="no heartbeat"):
        source.poll(0, 0.0)
    source.close()
    broker.close()


def test_heartbeats_are_sent_as_often_as_the_broker_wants_them() -> None:
    broker, now = Stomp(beat="0,20000"), [0.0]
    source = ActiveMQSource(SourceOptions(connection(broker), ("q",), "group"), clock=lambda: now[0])
    source.open(no_revocation)
    link: Any = source._link
    sent = []
    for _ in range(100):
        now[0] += 1.0
        source.poll(0, 0.0)
        sent.append(link._sent)
    assert 4 <= len({at for at in sent if at}) <= 8
    source.close()
    broker.close()


@pytest.mark.parametrize("patience", ["2", "6"])
def test_a_broker_that_does_not_answer_a_login_is_not_waited_for(broker: Stomp, patience: str) -> None:
    broker.quiet, now = {"CONNECT"}, [0.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    source = ActiveMQSource(SourceOptions(connection(broker, connect_timeout=patience), ("q",), "group"), clock=clock)
    with pytest.raises(Unavailable, match=f"no answer in {patience} s"):
        source.open(no_revocation)
    assert float(patience) <= now[0] <= float(patience) + 5
    source.close()


def test_a_second_host_is_tried_where_the_first_does_not_answer(broker: Stomp) -> None:
    where = Connection("shop", "activemq", f"127.0.0.1:1,{broker.address}")
    source = activemq.source(SourceOptions(where, ("q",), "group"))
    source.open(no_revocation)
    assert len(read(source)) == 5
    source.close()


def test_a_connection_that_is_cut_is_an_outage(broker: Stomp, opened: Any) -> None:
    source = opened()
    broker.close()
    with pytest.raises(Unavailable, match=r"the broker closed|lost"):
        until(lambda: False, lambda: source.poll(1, 0.01), patience=10)


# Dead letters


def letter(value: bytes | None = b"v", key: bytes | None = b"k", properties: Any = (), **headers: bytes) -> DeadLetter:
    record = Record(value, key, (), 5_000, 1, Q, dict(properties))
    return DeadLetter(record, ValueError(), 1, list(headers.items()))


def sink_of(broker: Stomp, timeout: float = 20.0, clock: Any = None, **options: Any) -> ActiveMQSink:
    more = {} if clock is None else {"clock": clock}
    return ActiveMQSink(SinkOptions(connection(broker, **options), "dead", timeout), **more)


def test_a_letter_is_persistent_and_confirmed(broker: Stomp) -> None:
    sink = sink_of(broker)
    sink.publish([letter(own=b"1"), letter(None, None)])
    sink.close()
    first, second = broker.of("SEND")
    assert (first["destination"], first["persistent"], first["JMSXGroupID"], first["own"]) == ("/queue/dead", "true", "k", "1")
    assert (second["persistent"], second["dead_letter_null"]) == ("true", "value")
    assert first["receipt"] != second["receipt"]
    assert broker.of("CONNECT")[0]["heart-beat"].startswith("0,"), "nobody pumps it between two publishes"


def test_a_letter_keeps_what_its_record_was_and_not_its_expiry(broker: Stomp) -> None:
    sink = sink_of(broker)
    sink.publish(
        [letter(properties={"text": True, "priority": 7, "expires": 1000, "correlation_id": "c", "destination": "/queue/q"})]
    )
    sink.close()
    [told] = broker.of("SEND")
    assert (told["priority"], told["correlation-id"], told["destination"]) == ("7", "c", "/queue/dead")
    assert "expires" not in told and "content-length" not in told


@pytest.mark.parametrize("timeout", [3.0, 12.0])
def test_a_letter_that_nobody_confirms_is_an_error_in_time(broker: Stomp, timeout: float) -> None:
    now, step = [0.0], [0.0]

    def clock() -> float:
        now[0] += step[0]
        return now[0]

    sink = sink_of(broker, timeout, clock)
    sink.open()
    broker.quiet, step[0], begun = {"SEND"}, 0.25, now[0]
    with pytest.raises(PublishError, match="2 not confirmed"):
        sink.publish([letter(), letter()])
    assert timeout <= now[0] - begun <= timeout + 10, "and no longer at the farewell than that takes"
    broker.quiet, step[0] = set(), 0.0
    sink.publish([letter()])
    assert len(broker.of("SEND")) == 3 and len(broker.of("CONNECT")) == 2
    sink.close()


def test_a_letter_that_is_refused_is_an_error_and_the_next_one_is_not(broker: Stomp) -> None:
    sink = sink_of(broker)
    broker.error = "User ann is not authorized to write"
    with pytest.raises(PublishError, match="no permission") as raised:
        sink.publish([letter()])
    assert raised.value.permanent
    broker.error = None
    sink.publish([letter()])
    sink.close()


def test_an_idle_connection_is_tried_before_it_is_trusted(broker: Stomp) -> None:
    now = [0.0]
    sink = sink_of(broker, clock=lambda: now[0])
    sink.publish([letter()])
    assert not broker.of("BEGIN")
    now[0] += 6.0
    sink.publish([letter()])
    assert len(broker.of("BEGIN")) == 1
    sink.close()


def test_a_wrong_login_is_refused(broker: Stomp, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"ERROR\nmessage:User name [ann] or password is invalid.\n\n\0"
    monkeypatch.setattr(broker, "_answers", lambda command, head, body: iter([said]))
    source = activemq.source(SourceOptions(connection(broker, username="ann"), ("q",), "g"))
    with pytest.raises(Refused, match="user ann or its password is refused"):
        source.open(no_revocation)
    sink = sink_of(broker, username="ann")
    with pytest.raises(Refused, match="user ann or its password is refused"):
        sink.open()
