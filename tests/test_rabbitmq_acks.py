"""Acks settle what is finished and nothing else, whatever the order in which batches end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.connectors.rabbitmq_acks import Acks
from worker.connectors.rabbitmq_link import ChannelClosed
from worker.connectors.rabbitmq_queue import Consumer
from worker.interface import Partition


class Broker:
    """The broker's side: what is unsettled. It closes the channel over a tag that it does not know."""

    def __init__(self, count: int) -> None:
        self.open = set(range(1, count + 1))

    def take(self, acks: list[tuple[int, bool]]) -> None:
        for tag, multiple in acks:
            assert tag in self.open, f"unknown delivery tag {tag}"
            self.open -= {one for one in self.open if one <= tag} if multiple else {tag}


def test_a_contiguous_prefix_is_one_ack() -> None:
    acks = Acks()
    assert acks.settle([1, 2, 3]) == [(3, True)]
    assert acks.settle([4]) == [(4, True)]


def test_behind_a_gap_each_is_alone_until_it_closes() -> None:
    acks = Acks()
    assert acks.settle([2, 4]) == [(2, False), (4, False)]
    assert acks.settle([1]) == [(1, True)]
    assert acks.settle([3, 5, 6]) == [(6, True)]
    assert acks.settle([7]) == [(7, True)]


def test_what_was_rejected_is_no_gap() -> None:
    acks = Acks()
    acks.forget([2])
    assert acks.settle([1, 3]) == [(3, True)]


@given(st.permutations(range(1, 25)), st.lists(st.integers(1, 6), min_size=24, max_size=24), st.sets(st.integers(0, 23)))
def test_any_order(order: list[int], sizes: list[int], rejected: set[int]) -> None:
    acks, broker, settled = Acks(), Broker(24), set[int]()
    for number, size in enumerate(sizes):
        tags, order = order[:size], order[size:]
        if not tags:
            break
        if number in rejected:
            acks.forget(tags)
            broker.open -= set(tags)
        else:
            broker.take(acks.settle(tags))
        settled |= set(tags)
        assert broker.open == set(range(1, 25)) - settled


@pytest.fixture
def consumer() -> Consumer:
    """On a channel that is open; `ended` makes it one that the broker closed."""
    made = Consumer(SimpleNamespace(), Partition("q", 0), 10)  # type: ignore[arg-type]
    made._channel = SimpleNamespace(number=1, closed=None, pika=SimpleNamespace(basic_qos=None))  # type: ignore[assignment]
    return made


def test_nothing_is_settled_on_a_channel_that_ended(consumer: Consumer) -> None:
    """Its number may be another queue's by now, whose messages an ack of `multiple` would settle."""
    assert consumer.ack([1]) and consumer.reject([2])
    consumer._channel.closed = ConnectionError("closed by the broker")  # type: ignore[union-attr]
    assert consumer.ack([3]) == consumer.reject([4]) == b""


def test_a_channel_that_ends_while_acks_are_flushed_is_no_crash(consumer: Consumer) -> None:
    def ask(method: object, **_: object) -> None:
        raise ChannelClosed(ConnectionError("closed by the broker"))

    consumer._channel.ask = ask  # type: ignore[union-attr, method-assign]
    consumer.flush()
