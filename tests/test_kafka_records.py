"""Records that other clients write to Kafka and ours cannot read whole: each is one record, and stops nothing else."""

from __future__ import annotations

import logging
import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from tests.raw_kafka import Raw, write
from tests.waiting import until
from worker import App, Batch, Invalid, Record
from worker.capture import Captured
from worker.connectors.kafka_batch import KafkaBatch, split, weight
from worker.interface import Partition
from worker.lane import Lane, Shape
from worker.letters import Overview, Selection, browse
from worker.logs import Json, People, running
from worker.plain import PlainBatch, columns
from worker.run import Worker
from worker.settings import load
from worker.testing import EmbeddedKafka

BAD = Raw(b"2", b"key", [(b"good", b"1"), (b"n\xff\xfeme", b"v"), (b"none", None)])
"""A header's name that is no UTF-8."""
THREE = [Raw(b"1", headers=[(b"good", b"1")]), BAD, Raw(b"3", headers=[("köpf".encode(), b"\xff")])]

pytestmark = pytest.mark.embedded


@pytest.fixture
def topic(embedded: EmbeddedKafka) -> str:
    return embedded.topic()


def app() -> App:
    return App("shop", connections={"kafka": "kafka://embedded"})


def run(made: App, condition: Callable[[], object], capture: Path | None = None) -> int:
    """Its exit code; it is stopped when the condition is true."""
    worker = Worker(made, load(made, environ={}), capture=capture)

    def look() -> None:
        until(lambda: condition() or all(one.loop.closed for one in worker.handlers))
        worker.stop()

    threading.Thread(target=look, daemon=True).start()
    return worker.run()


def batch_of(embedded: EmbeddedKafka, topic: str, count: int) -> KafkaBatch:
    """As a poll delivers it: nobody has looked at its headers yet."""
    consumer = Consumer({**embedded.client, "group.id": "batch"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = []
    until(lambda: len(messages) >= count, lambda: messages.extend(consumer.consume(count, 0.05)))
    consumer.close()
    return KafkaBatch(Partition(topic, 0), messages)


def test_such_headers_are_invalid_for_who_looks_at_them_and_everything_else_is_there(embedded: EmbeddedKafka, topic: str) -> None:
    write(embedded.bootstrap, topic, THREE)
    batch = batch_of(embedded, topic, 3)
    for _ in range(3):
        before, bad, behind = batch
        assert (bad.value, bad.key, bad.id, bad.timestamp) == (b"2", b"key", 1, BAD.timestamp)
        assert before.headers == (("good", b"1"),) and behind.headers == (("köpf", b"\xff"),)
        for look in (len, list, dict, tuple, lambda headers: headers[0], lambda headers: "x" in headers):
            with pytest.raises(Invalid, match="not UTF-8"):
                look(bad.headers)
    assert "not UTF-8" in repr(bad)


@pytest.mark.parametrize("timestamp, told", [(-1, None), (-(2**40), None), (0, 0), (1, 1)])
def test_a_time_below_0_is_none(embedded: EmbeddedKafka, topic: str, timestamp: int, told: int | None) -> None:
    write(embedded.bootstrap, topic, [Raw(b"1", timestamp=timestamp)])
    batch = batch_of(embedded, topic, 1)
    assert (batch.timestamps(), batch[0].timestamp) == ([told], told)


def records(seen: list[bytes | None]) -> Any:
    def handle(values: list[Record[bytes]]) -> None:
        for record in values:
            dict(record.headers)
        seen.extend(record.value for record in values)

    return handle


def whole_batch(seen: list[bytes | None]) -> Any:
    def handle(batch: Batch) -> None:
        seen.extend([record.value for record in batch if dict(record.headers) is not None])

    return handle


def one(seen: list[bytes | None]) -> Any:
    def handle(record: Record[int]) -> None:
        dict(record.headers)
        seen.append(b"%d" % record.value)  # type: ignore[str-bytes-safe]

    return handle


def coroutine(seen: list[bytes | None]) -> Any:
    async def handle(record: Record[bytes]) -> None:
        dict(record.headers)
        seen.append(record.value)

    return handle


def failing(seen: list[bytes | None]) -> Any:
    def handle(value: bytes) -> None:
        """Never looks at headers, but its dead letters have some."""
        logging.getLogger("shop").warning("at %r", value)
        if value == BAD.value:
            raise ValueError("no")
        seen.append(value)

    return handle


def careless(seen: list[bytes | None]) -> Any:
    def handle(values: list[Record[bytes]]) -> None:
        seen.extend(record.value for record in values)

    return handle


FORMS = [records, whole_batch, one, coroutine, failing, careless]


def test_it_becomes_one_dead_letter_and_the_others_are_handled(
    embedded: EmbeddedKafka, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In whatever form a handler takes its records; and one that does not look at headers gets it."""
    shop, seen, dead = app(), dict[str, list[bytes | None]](), dict[str, str]()
    for form in FORMS:
        name = form.__name__
        handle = form(seen.setdefault(name, []))
        handle.__name__ = name
        dead[name] = embedded.topic("dead")
        retries = 0 if form is failing else 5
        shop.handler(f"kafka:{topic}", dead_letter=f"kafka:{dead[name]}", retries=retries, window=0.0)(handle)
    write(embedded.bootstrap, topic, THREE)
    groups = [f"shop.{form.__name__}" for form in FORMS]
    assert run(shop, lambda: all(embedded.committed(group, topic).get(0) == 3 for group in groups), tmp_path) == 0
    assert "a bug" not in caplog.text
    for form in FORMS:
        name = form.__name__
        if form is careless:
            assert seen[name] == [b"1", b"2", b"3"] and not embedded.read(dead[name])
            continue
        assert sorted(set(seen[name]), key=str) == [b"1", b"3"]
        (letter,) = embedded.read(dead[name])
        assert (letter.value, letter.key) == (BAD.value, BAD.key)
        headers = dict(letter.headers)
        assert headers["dead_letter_attempts"] in (b"1", b"2", b"3") and headers["dead_letter_id"] == b"1"
        assert headers["unreadable_headers"] == b"a name is not UTF-8"
        captured = [
            record for file in tmp_path.glob(f"{name}-*") for record in Captured.load(file).records if record.value == b"2"
        ]
        assert [captured[0].headers] == [[("unreadable_headers", b"a name is not UTF-8")]]


def test_without_dead_letters_the_handler_stops_and_says_why(
    embedded: EmbeddedKafka, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen, shop = list[bytes | None](), app()
    shop.handler(f"kafka:{topic}", window=0.0)(whole_batch(seen))
    write(embedded.bootstrap, topic, THREE)
    assert run(shop, lambda: False) == 1
    assert "Invalid: headers that cannot be read: a name is not UTF-8" in caplog.text and "a bug" not in caplog.text
    assert embedded.committed("shop.handle", topic).get(0, 0) <= 1 and b"2" not in seen


def test_log_lines_of_a_handler_name_its_batch(embedded: EmbeddedKafka, topic: str) -> None:
    write(embedded.bootstrap, topic, [BAD])
    batch = batch_of(embedded, topic, 1)
    token = running.set(("handle", batch))
    try:
        line = logging.LogRecord("shop", logging.INFO, "", 1, "said", None, None)
        assert f"{topic}[0] 0-0" in People(False).format(line) and '"first": 0' in Json().format(line)
    finally:
        running.reset(token)


def test_another_process_finds_them_unreadable_too(embedded: EmbeddedKafka, topic: str) -> None:
    write(embedded.bootstrap, topic, [BAD])
    sent = pickle.loads(pickle.dumps(columns(batch_of(embedded, topic, 1))))
    (record,) = PlainBatch(Partition(topic, 0), sent)
    with pytest.raises(Invalid, match="not UTF-8"):
        dict(record.headers)


def test_such_a_record_among_dead_letters_stops_no_command(embedded: EmbeddedKafka, topic: str) -> None:
    """It is no letter of ours: counted, left where it is, and put back behind those that are."""
    dead, shop = embedded.topic("dead"), app()
    shop.handler(f"kafka:{topic}", dead_letter=f"kafka:{dead}", retries=0)(failing([]))
    write(embedded.bootstrap, dead, [BAD])
    settings = load(shop, environ={}).handlers["handle"]
    (letter,) = browse(settings)
    assert (letter.handler, letter.original().value, letter.original().headers) == (
        "",
        BAD.value,
        [("unreadable_headers", b"a name is not UTF-8")],
    )
    assert letter.put_back("run").headers[-1] == ("dead_letter_pass", b"run")
    assert Overview.of([letter], Selection("shop.handle")).others == {"": 1}


def test_whatever_a_record_carries_it_is_handled_or_a_letter_with_its_value(embedded: EmbeddedKafka) -> None:
    """300 records of random bytes as key, value, and names and values of headers."""
    topic, dead, chance, seen, shop = embedded.topic("fuzz"), embedded.topic("dead"), random.Random(19), set[bytes](), app()

    def some(most: int) -> bytes:
        return chance.randbytes(chance.randint(0, most))

    written = [
        Raw(
            b"%d " % number + some(30),
            chance.choice([None, some(20)]),
            [(some(4), chance.choice([None, some(9)])) for _ in range(chance.randint(0, 4))],
            chance.choice([-1, 0, 1, 2**45, 1_700_000_000_000]),
        )
        for number in range(300)
    ]

    @shop.handler(f"kafka:{topic}", dead_letter=f"kafka:{dead}", retries=3, flood=1, window=0.0, max_age=3e8)
    def handle(batch: Batch) -> None:
        values = [record.value for record in batch if len(record.headers) >= 0]
        seen.update(filter(None, values))

    write(embedded.bootstrap, topic, written)
    assert run(shop, lambda: embedded.committed("shop.handle", topic).get(0) == 300) == 0
    letters = {record.value for record in embedded.read(dead)}
    assert seen.isdisjoint(letters) and seen | letters == {raw.value for raw in written}
    assert len(seen) > 50 and len(letters) > 50


@pytest.mark.parametrize("where", ["key", "headers", "value"])
def test_keys_and_headers_count_in_the_bounds_of_memory(where: str) -> None:
    """Else a lane takes 2,000 records whatever they weigh, and is never paused."""
    big = b"x" * 1_000_000
    made: dict[str, Any] = {"value": b"", where: [("name", big)] if where == "headers" else big}
    polled = [Message(topic="t", partition=0, offset=number, **made) for number in range(20)]
    (batch,) = split(polled, "t") or ()
    lane = Lane(batch.partition, Shape())
    lane.waiting.add(batch, 0.0)
    assert batch.size() >= 20_000_000 and lane.huge
    assert len(lane.waiting.take(100)) == (20 if where == "headers" else 6)  # headers are weighed by one, and not apart


def test_what_is_held_back_is_bounded_by_what_it_weighs() -> None:
    one = Message(topic="t", partition=0, offset=0, value=b"abc", key=b"de", headers=[("name", b"fgh"), ("none", None)])
    assert weight(one) == 3 + 2 + 4 + 3 + 4
