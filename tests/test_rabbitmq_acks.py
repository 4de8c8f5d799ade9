"""Acks settle what is finished and nothing else, whatever the order in which batches end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.rabbitmq_acks import Acks


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


def test_nothing_is_settled_on_a_channel_that_ended() -> None:
    """Its number may be another queue's by now, whose messages an ack of `multiple` would settle."""
    from types import SimpleNamespace

    from connectors.rabbitmq_queue import Consumer
    from worker.interface import Partition

    consumer = Consumer(SimpleNamespace(), Partition("q", 0), 10)  # type: ignore[arg-type]
    consumer._channel = SimpleNamespace(number=1, closed=None)  # type: ignore[assignment]
    assert consumer.ack([1]) and consumer.reject([2])
    consumer._channel.closed = ConnectionError("closed by the broker")  # type: ignore[union-attr]
    assert consumer.ack([3]) == consumer.reject([4]) == b""
