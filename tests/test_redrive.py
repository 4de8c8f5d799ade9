"""A pass over dead letters, on fakes: what it takes, what it leaves, and what a broker that refuses does to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from worker import App, redrive
from worker.deadletter import letter
from worker.errors import ConfigError, PublishError
from worker.interface import Batch, DeadLetter, Partition, Record, SourceOptions
from worker.letters import Selection
from worker.redrive import STALLED, Pass
from worker.settings import load
from worker.testing.fake import FakeSink, FakeSource
from worker.work import GivenUp

NOW = 1_800_000_000.0
ORDERS = Partition("orders", 3)

app = App("shop", connections={"k": "kafka://nowhere"})


@app.handler("k:orders", dead_letter="k:dead")
def charge(values: list[bytes]) -> None: ...


class Sink(FakeSink):
    """Takes all values but b"big"."""

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        if any(one.record.value == b"big" for one in letters):
            raise PublishError("too big", permanent=True)
        super().publish(letters)


class Broker:
    """The connector that the pass finds: a source of letters, and a sink for each stream."""

    def __init__(self, source: FakeSource) -> None:
        self.made = source
        self.asked: list[SourceOptions] = []
        self.sinks: dict[str, Sink] = {}
        self.told: list[Any] = []
        """What sinks were asked for."""

    def source(self, options: SourceOptions) -> FakeSource:
        self.asked.append(options)
        return self.made

    def sink(self, options: Any) -> Sink:
        self.told.append(options)
        return self.sinks.setdefault(options.stream, Sink() if options.stream == "orders" else BackSink(self.made))

    def sent(self) -> list[bytes | None]:
        return [one.record.value for one in self.sinks["orders"].letters] if "orders" in self.sinks else []

    def left(self) -> list[bytes | None]:
        """What the next pass would see."""
        partition = Partition("dead", 0)
        durable = self.made.durable.get(partition, set())
        return [record.value for record in self.made.logs[partition] if record.id not in durable]


class BackSink(Sink):
    """Of the letters themselves: what is published comes behind the others."""

    def __init__(self, source: FakeSource) -> None:
        super().__init__()
        self._source = source

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        for one in letters:
            self._source.put(one.record.value, stream="dead", headers=one.headers)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeSource], Broker]:
    def make(source: FakeSource) -> Broker:
        made = Broker(source)
        monkeypatch.setattr(redrive, "connector", lambda scheme: made)
        return made

    return make


def give_up(source: FakeSource, *values: bytes, at: float = NOW - 60) -> None:
    for number, value in enumerate(values):
        made = letter(GivenUp(0, ValueError("no"), 1), Record(value, b"k", (), 1, number, ORDERS), "shop.charge", at)
        source.put(made.record.value, stream="dead", headers=made.headers)


def made_pass(action: Any = "redrive", **options: Any) -> Pass:
    settings = load(app, environ={}).handlers["charge"]
    clock = itertools.count(0.0, 0.1)
    told = {"clock": lambda: next(clock), "wait": lambda seconds: None, "wall": lambda: NOW} | options
    return Pass(settings, Selection("shop.charge"), action, **told)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_letter_that_is_never_taken_stays_and_stops_nobody(broker: Callable[..., Broker], ordered: bool) -> None:
    made = broker(FakeSource(ordered=ordered, idle=lambda timeout: None))
    give_up(made.made, b"1", b"big", b"3")
    moved = made_pass().run()
    assert (made.sent(), made.left()) == ([b"1", b"3"], [b"big"])
    assert (moved.redriven, moved.refused, moved.put_back, moved.reason) == ({"orders": 2}, 1, int(ordered), "too big")
    assert list(made.sinks) == (["orders", "dead"] if ordered else ["orders"]), "a queue keeps it"


def test_a_stream_that_takes_nothing_is_an_error_and_moves_nothing(broker: Callable[..., Broker]) -> None:
    made = broker(FakeSource())
    give_up(made.made, b"big", b"big")
    with pytest.raises(PublishError, match="too big"):
        made_pass().run()
    assert made.left() == [b"big", b"big"]


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_what_is_given_up_after_it_was_made_is_left(broker: Callable[..., Broker], action: str) -> None:
    made = broker(FakeSource())
    give_up(made.made, b"old")
    now = itertools.chain([NOW], itertools.repeat(NOW + 10))
    one = made_pass(action, wall=lambda: next(now))
    give_up(made.made, b"new", at=NOW + 5)
    assert one.run().count == 1
    assert made.left() == [b"new"]


def test_records_of_others_that_keep_coming_are_not_chased(broker: Callable[..., Broker]) -> None:
    class Busy(FakeSource):
        def poll(self, max_records: int, timeout: float) -> list[Batch]:
            self.put(b"foreign", stream="dead", timestamp=int(NOW * 1000) + 1)
            return super().poll(max_records, timeout)

    source = Busy(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")
    now = itertools.chain([NOW], itertools.repeat(NOW + 10))
    assert made_pass(wall=lambda: next(now)).run().count == 1
    assert made.sent() == [b"1"] and source.polls < 1_000


def test_letters_of_another_partition_may_be_late(broker: Callable[..., Broker]) -> None:
    class Late(FakeSource):
        def poll(self, max_records: int, timeout: float) -> list[Batch]:
            self._paused = set() if now[0] > 5.0 else {Partition("dead", 1)}
            return super().poll(max_records, timeout)

    now = [0.0]
    source = Late(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")
    source.logs[Partition("dead", 1)] = [source.logs[Partition("dead", 0)].pop()._replace(partition=Partition("dead", 1))]
    source.put(b"kept", stream="dead", headers=[("dead_letter_handler", b"shop.charge"), ("dead_letter_pass", b"x")])

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    moved = made_pass(clock=clock).run()
    assert (made.sent(), moved.unseen) == ([b"1"], 0)


def test_what_is_revoked_in_hand_is_left(broker: Callable[..., Broker]) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"0")
    source.put(b"1", stream="dead", partition=1, headers=source.logs[Partition("dead", 0)][0].headers)
    one = made_pass(progress=lambda moved: None)
    real, gone = source.commit, Partition("dead", 1)

    def commit(batches: Sequence[Batch]) -> None:
        real(batches)
        source.revoke([gone])  # the poll behind the commit serves it

    source.commit = commit  # type: ignore[method-assign]
    assert one.run().count == 1
    assert made.sent() == [b"0"]


def test_a_sink_that_knows_what_it_refused_is_sent_the_others_once(broker: Callable[..., Broker]) -> None:
    class Knows(Sink):
        def publish(self, letters: Sequence[DeadLetter]) -> None:
            bad = [index for index, one in enumerate(letters) if one.record.value == b"big"]
            self.letters += [one for one in letters if one.record.value != b"big"]
            if bad:
                error = PublishError("too big", permanent=True)
                error.refused = bad
                raise error

    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    made.sinks["orders"] = Knows()
    give_up(source, b"big", b"1", b"big", b"2")
    moved = made_pass().run()
    assert (made.sent(), made.left(), moved.refused) == ([b"1", b"2"], [b"big", b"big"], 2)


def test_a_clock_that_is_ahead_blocks_nothing(broker: Callable[..., Broker]) -> None:
    made = broker(FakeSource())
    give_up(made.made, b"1", b"2", at=NOW + 3600)
    assert made_pass().run().count == 2


def test_no_more_is_fetched_than_is_wanted(broker: Callable[..., Broker]) -> None:
    """A quorum queue drops what it was given back too often."""
    source = FakeSource(ordered=False, idle=lambda timeout: None)
    made = broker(source)
    give_up(source, *(b"%d" % n for n in range(20)))
    assert made_pass(limit=3).run().count == 3
    assert (made.asked[0].batch_size, made.asked[0].in_flight) == (3, 3)
    assert not source.returns


def test_the_broker_is_attended_to_while_a_rate_is_kept(broker: Callable[..., Broker]) -> None:
    source = FakeSource()
    broker(source)
    give_up(source, b"1")
    now, waits = [0.0], []

    def wait(seconds: float) -> None:
        waits.append((seconds, source.polls))
        now[0] += seconds

    made_pass(rate=0.1, clock=lambda: now[0], wait=wait).run()
    assert sum(seconds for seconds, _ in waits) == pytest.approx(10.0)
    assert [polls - waits[0][1] for _, polls in waits] == [*range(len(waits))]
    assert max(seconds for seconds, _ in waits) <= 1.0


def test_letters_that_do_not_come_are_not_taken_for_none(broker: Callable[..., Broker]) -> None:
    class Stalled(FakeSource):
        def poll(self, max_records: int, timeout: float) -> list[Batch]:
            return super().poll(max_records, timeout) if now[0] > 10.0 else []

    now = [0.0]
    source = Stalled(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    assert made_pass(clock=clock).run().count == 1
    source.pause([Partition("dead", 0)])
    give_up(source, b"2")
    began = now[0]
    moved = made_pass(clock=clock).run()
    assert (moved.count, moved.unseen) == (0, 1)
    assert now[0] - began > STALLED and made.left() == [b"2"]


@pytest.mark.parametrize(("more", "again"), [({}, 3), ({"redrives": 5}, 5)])
def test_a_letter_is_redriven_so_often_and_not_once_more(broker: Callable[..., Broker], more: dict[str, Any], again: int) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    for redrives in range(8):
        give_up(source, b"%d" % redrives)
        log = source.logs[Partition("dead", 0)]
        log[-1] = log[-1]._replace(headers=[*log[-1].headers, ("dead_letter_redrives", b"%d" % redrives)])
    moved = made_pass(**more).run()
    assert made.sent() == [b"%d" % n for n in range(again)]
    assert (moved.count, moved.exhausted, len(made.left())) == (again, 8 - again, 8 - again)


def test_nothing_is_committed_before_it_is_confirmed(broker: Callable[..., Broker]) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1", b"2")
    told, commit = list[str](), source.commit

    class Noted(Sink):
        def publish(self, letters: Sequence[DeadLetter]) -> None:
            super().publish(letters)
            told.append("confirmed")

    def committed(batches: Sequence[Batch]) -> None:
        told.append("committed")
        commit(batches)

    made.sinks["orders"] = Noted()
    source.commit = committed  # type: ignore[method-assign]
    made_pass().run()
    assert told == ["confirmed", "committed"]


def test_a_letter_that_names_another_stream_stays(broker: Callable[..., Broker]) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")
    log = source.logs[Partition("dead", 0)]
    other = [(name, b"elsewhere" if name == "dead_letter_stream" else value) for name, value in log[0].headers]
    log.append(log[0]._replace(headers=other, id=1))
    moved = made_pass().run()
    assert made.sent() == [b"1"] and moved.strange == {"elsewhere": 1} and len(made.left()) == 1


def test_letters_are_read_by_a_group_of_their_own_and_go_where_they_came_from(broker: Callable[..., Broker]) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")
    made_pass().run()
    [read], [written] = made.asked, made.told
    assert read.group == "shop.charge.dead-letters" and read.streams == ("dead",) and read.start == "earliest"
    assert (written.stream, written.partitions) == ("orders", True)
    assert made.sinks["orders"].opens == 1, "a destination that is missing is told before anything is sent"


def test_a_broker_that_is_away_is_an_error_and_moves_nothing(broker: Callable[..., Broker]) -> None:
    source = FakeSource(idle=lambda timeout: None)
    made = broker(source)
    give_up(source, b"1")
    made.sinks["orders"] = Sink()
    made.sinks["orders"].fail()
    with pytest.raises(PublishError, match="refused"):
        made_pass().run()
    assert made.left() == [b"1"]


# Queues


class Queue(FakeSource):
    """Hands out the last first, as priorities may."""

    def _deliver(self, most: int) -> Any:
        return [batch.pick(reversed(range(len(batch)))) for batch in super()._deliver(most)]


def queue(**options: Any) -> FakeSource:
    return Queue(ordered=False, idle=lambda timeout: None, **options)


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_what_is_not_meant_is_neither_taken_nor_written(broker: Callable[..., Broker], action: str) -> None:
    """Written again it lost what only its writer's client can write; here nobody even opens a sink for it."""
    source = queue()
    made = broker(source)
    source.put(b"foreign", stream="dead")
    give_up(source, b"1")
    source.put(b"other", stream="dead", headers=[("dead_letter_handler", b"shop.other")])
    give_up(source, b"2")
    source.put(b"last", stream="dead", timestamp=7)
    assert made_pass(action).run().count == 2
    assert sorted(made.left(), key=str) == [b"foreign", b"last", b"other"]
    assert "dead" not in made.sinks


def test_letters_of_any_order_are_all_looked_at(broker: Callable[..., Broker]) -> None:
    """With priorities the first one that came back was taken for the end of the queue."""
    source = queue()
    made = broker(source)
    for at in range(1_200):
        source.put(b"", stream="dead", headers=[("dead_letter_handler", b"shop.other"), ("x", b"%d" % at)])
    give_up(source, *(b"%d" % at for at in range(900)))
    assert made_pass(rate=100.0).run().count == 900
    assert len(made.left()) == 1_200


def test_a_consumer_that_is_full_of_what_is_held_is_joined_by_another(
    broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = queue(limit=10), queue()
    made = broker(first)
    for _ in range(10):
        first.put(b"foreign", stream="dead")
    give_up(second, b"1", b"2")
    sources = iter([first, second])
    monkeypatch.setattr(made, "source", lambda options: next(sources))
    assert made_pass().run().count == 2
    assert made.sent() == [b"2", b"1"]


def test_what_a_full_queue_took_is_not_sent_again(broker: Callable[..., Broker]) -> None:
    class Full(Sink):
        def publish(self, letters: Sequence[DeadLetter]) -> None:
            self.letters += letters[:2]
            error = PublishError("the broker refused 3 (is the queue full?)")
            error.refused = [2, 3, 4]
            raise error

    source = FakeSource(ordered=False, idle=lambda timeout: None)
    made = broker(source)
    made.sinks["orders"] = Full()
    give_up(source, *(b"%d" % at for at in range(5)))
    with pytest.raises(PublishError, match=r"is the queue full\?\); 2 are done, the others stay"):
        made_pass().run()
    assert (made.sent(), made.left()) == ([b"0", b"1"], [b"2", b"3", b"4"])


def test_a_queue_that_keeps_back_some_is_told(broker: Callable[..., Broker]) -> None:
    """A single active consumer, say, that is somebody else."""

    class Kept(Queue):
        def waiting(self) -> int:
            return 9

    source = Kept(ordered=False, idle=lambda timeout: None)
    broker(source)
    give_up(source, b"1")
    moved = made_pass().run()
    assert (moved.count, moved.unseen) == (1, 8)


def test_messages_of_others_that_keep_coming_to_a_queue_are_not_chased(broker: Callable[..., Broker]) -> None:
    class Busy(FakeSource):
        def poll(self, max_records: int, timeout: float) -> list[Batch]:
            self.put(b"foreign", stream="dead")
            return super().poll(max_records, timeout)

        def waiting(self) -> int:
            return 1

    source = Busy(ordered=False, idle=lambda timeout: None)
    broker(source)
    give_up(source, b"1")
    assert made_pass().run().count == 1
    assert source.polls < 1_000


@pytest.mark.parametrize("ordered", [True, False])
def test_a_forged_letter_with_a_name_that_no_broker_takes_keeps_no_other(
    broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    source = FakeSource(ordered=ordered, idle=lambda timeout: None)
    made = broker(source)
    sink = made.sink

    def picky(options: Any) -> Sink:
        if "\x1b" in options.stream:
            raise ConfigError("no name of a topic")
        return sink(options)

    monkeypatch.setattr(made, "sink", picky)
    forged = letter(
        GivenUp(0, ValueError(), 1), Record(b"f", None, (), 1, 1, Partition("orders/\x1b", 0)), "shop.charge", NOW - 60
    )
    source.put(b"f", stream="dead", headers=forged.headers)
    give_up(source, b"1")
    made_up = made_pass()
    made_up._settings = replace(made_up._settings, streams=("^orders",))
    moved = made_up.run()
    assert (moved.redriven, moved.strange) == ({"orders": 1}, {"orders/\x1b": 1})
    assert made.left() == [b"f"]
