"""What is compiled does the same as what is not."""

from __future__ import annotations

import os
import sys

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from worker.connectors import kafka_scan
from worker.connectors.kafka_batch import split
from worker.connectors.kafka_scan import by_partition, pure
from worker.interface import Partition

if by_partition is pure:
    told = "the compiled scan was not built: no compiler, or a client made in another way"
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told, allow_module_level=True)


def message(
    partition: int, value: bytes | None = b"x", error: int | None = None, topic: str = "t", key: bytes | None = None
) -> Message:
    failure = None if error is None else KafkaError(error)
    return Message(topic=topic, partition=partition, offset=0, value=value, key=key, error=failure)


values = st.none() | st.binary(max_size=40)
messages = st.builds(message, st.sampled_from([0, 1, 255, 256, 300, 100_000]), values, key=values)
errors = st.builds(
    message, st.sampled_from([0, 300]), values, st.sampled_from([KafkaError._TRANSPORT, KafkaError._PARTITION_EOF])
)


@given(st.lists(messages) | st.lists(messages | errors) | st.lists(st.builds(message, st.just(1_000), values)))
def test_it_finds_what_the_pure_one_finds(polled: list[Message]) -> None:
    assert by_partition(polled) == pure(polled)


def test_the_messages_and_bytes_of_each_partition() -> None:
    one = [message(7, b"abc", key=b"de"), message(7, None, key=b"f"), message(7, b"", key=b"")]
    found = by_partition(one)
    assert found == [(7, one, 6)] and found[0][1] is one
    several = [message(7, b"a"), message(300, b"bc"), message(300), message(7, b"d"), message(1, b"")]
    a, b, c, d, e = several
    assert by_partition(several) == [(7, [a, d], 2), (300, [b, c], 3), (1, [e], 0)]
    assert by_partition([]) == []


def test_an_error_is_seen_wherever_it_is() -> None:
    for at in range(3):
        polled = [message(0), message(1), message(0)]
        polled[at] = message(0, error=KafkaError._TRANSPORT)
        assert by_partition(polled) is None


def test_several_topics() -> None:
    polled = [message(0), message(1), message(0, topic="u"), message(0)]
    found = split(polled, None)
    assert found is not None
    assert {one.partition: list(one.native) for one in found} == {
        Partition("t", 0): [polled[0], polled[3]],
        Partition("u", 0): [polled[2]],
        Partition("t", 1): [polled[1]],
    }


def test_a_message_of_a_subclass_is_one() -> None:
    class Own(Message):
        def __len__(self) -> int:
            return 1_000

    polled = [message(300), Own(topic="t", partition=300, value=b"abc")]
    assert by_partition(polled) == pure(polled) == [(300, polled, 1_001)]


def test_what_is_no_message_is_refused() -> None:
    for wrong in ([message(0), b"no"], (message(0),)):
        with pytest.raises(TypeError):
            by_partition(wrong)  # type: ignore[arg-type]


def test_a_client_made_in_another_way_is_refused() -> None:
    class Python:
        def error(self) -> None: ...

        def partition(self) -> int:
            return 0

    with pytest.raises(TypeError):
        kafka_scan.prepare(Python)  # type: ignore[arg-type]


def test_it_keeps_no_references() -> None:
    polled = [message(100_000, b"a" * 100), message(100_000)]
    several = [message(100_000 + i) for i in (0, 1, 0, 2, 3)]
    failed = [message(100_000), message(0, error=KafkaError._TRANSPORT)]
    seen = [*polled, *several, *failed, polled[0].value(), failed[1].error()]
    before, nones = [sys.getrefcount(one) for one in seen], sys.getrefcount(None)
    blocks = sys.getallocatedblocks()
    for _ in range(10_000):
        by_partition(polled)
        by_partition(several)
        by_partition(failed)
        with pytest.raises(TypeError):
            by_partition([*polled, None])  # type: ignore[list-item]
    assert [sys.getrefcount(one) for one in seen] == before
    assert abs(sys.getrefcount(None) - nones) < 5_000  # that it never changes, as of 3.12, is fine
    assert sys.getallocatedblocks() - blocks < 5_000  # one a round would be 10,000
