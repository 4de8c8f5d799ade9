"""Dead letters: what they carry, that they are confirmed, and when the worker stops instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import batch
from worker.deadletter import FUSE, HEADERS, MESSAGE, DeadLetters, Fuse, letter
from worker.errors import Expired, Flooded, Invalid, PublishError, Stopped
from worker.interface import Partition, Record
from worker.lane import Lane, Shape, Work
from worker.plain import PlainBatch
from worker.retry import Backoff
from worker.testing.clock import ManualClock
from worker.testing.fake import FakeSink
from worker.work import GivenUp, Verdict

BAD = ValueError("bad")


def work_of(size: int) -> Work:
    made = batch(*[b"x"] * size, key=b"k", timestamp=5)
    return Work(Lane(made.partition, Shape()), made, range(size), 0.0)


def given_up(size: int, error: Exception = BAD) -> list[GivenUp]:
    return [GivenUp(i, error, 3) for i in range(size)]


def letters_to(sink: FakeSink | None, clock: ManualClock | None = None, **options: Any) -> DeadLetters:
    clock = clock or ManualClock()
    settings: dict[str, Any] = {"discard": False, "fuse": Fuse(0.5), "timeout": 10.0, "backoff": Backoff(1.0, 1.0)}
    return DeadLetters("app.handler", sink, **{**settings, **options}, clock=clock, wait=clock.advance, wall=lambda: 7.0)


def give_up(letters: DeadLetters, work: Work, given_up: Sequence[GivenUp], handled: int) -> None:
    made = letters.give_up(work, given_up, handled)
    letters.publish([(work, Verdict((), given_up=list(given_up), letters=made))])


def test_a_letter_keeps_the_record_and_says_where_why_and_by_whom() -> None:
    record = Record(b"v", b"k", (("mine", b"1"), ("mine", None)), 5, 42, Partition("orders", 2))
    made = letter(GivenUp(0, BAD, 3), record, "app.handler", 7.0)
    assert made.record is record
    assert made.headers == [
        ("mine", b"1"),
        ("mine", None),
        ("dead_letter_stream", b"orders"),
        ("dead_letter_partition", b"2"),
        ("dead_letter_id", b"42"),
        ("dead_letter_timestamp", b"5"),
        ("dead_letter_time", b"7000"),
        ("dead_letter_error", b"ValueError"),
        ("dead_letter_message", b"bad"),
        ("dead_letter_attempts", b"3"),
        ("dead_letter_handler", b"app.handler"),
    ]
    assert tuple(name for name, _ in made.headers[2:]) == HEADERS


def test_headers_do_not_pile_up_and_a_long_message_is_cut() -> None:
    record = Record(b"v", None, (), None, 1, Partition("orders", 0))
    once = letter(GivenUp(0, ValueError("x" * 5_000), 1), record, "a.b", 1.0)
    twice = letter(GivenUp(0, BAD, 1), record._replace(headers=once.headers), "a.b", 2.0)
    assert len(twice.headers) == len(HEADERS)
    assert len(dict(once.headers)["dead_letter_message"] or b"") == MESSAGE


def test_publishing_is_tried_again_until_it_is_confirmed() -> None:
    sink, clock = FakeSink(), ManualClock()
    sink.fail(3)
    give_up(letters_to(sink, clock), work_of(2), given_up(2), 0)
    assert len(sink.letters) == 2
    assert clock() > 0


def test_what_cannot_be_published_in_time_stops_with_4() -> None:
    sink, clock = FakeSink(), ManualClock()
    sink.fail(100)
    with pytest.raises(PublishError) as caught:
        give_up(letters_to(sink, clock), work_of(1), given_up(1), 0)
    assert caught.value.exit_code == 4 and clock() <= 10 and not sink.letters


def test_a_permanent_refusal_is_not_waited_for() -> None:
    sink, clock = FakeSink(), ManualClock()
    sink.fail(permanent=True)
    with pytest.raises(PublishError):
        give_up(letters_to(sink, clock), work_of(1), given_up(1), 0)
    assert clock() == 0


def test_without_retries_and_dead_letter_the_handler_stops_and_says_what_to_set() -> None:
    with pytest.raises(Stopped) as caught:
        give_up(letters_to(None), work_of(1), given_up(1, Invalid("total: missing")), 0)
    told = str(caught.value)
    assert caught.value.exit_code == 1
    assert all(word in told for word in ("orders[0]", "record 0", "Invalid: total: missing", 'dead_letter="discard"'))


def test_a_flood_of_discards_stops_too() -> None:
    letters = letters_to(None, discard=True)
    give_up(letters, work_of(400), given_up(400), 0)
    give_up(letters, work_of(9_000), given_up(9_000, Expired("old")), 0)
    give_up(letters, work_of(500), given_up(500), 500)
    with pytest.raises(Flooded, match="discarded") as caught:
        give_up(letters, work_of(200), given_up(200), 0)
    assert caught.value.exit_code == 4 and "flood=1" in str(caught.value)
    give_up(letters_to(None, discard=True, fuse=Fuse(1.0)), work_of(2_000), given_up(2_000), 0)


def test_after_a_flood_of_discards_one_more_bad_record_stops_it_again() -> None:
    work = work_of(1)
    work.probe = True
    with pytest.raises(Flooded):
        give_up(letters_to(None, discard=True), work, given_up(1), 0)


def test_a_flood_publishes_nothing_of_the_batch_that_blows_the_fuse() -> None:
    sink = FakeSink()
    letters = letters_to(sink)
    give_up(letters, work_of(400), given_up(400), 0)
    with pytest.raises(Flooded) as caught:
        give_up(letters, work_of(200), given_up(200), 0)
    assert caught.value.exit_code == 4 and len(sink.letters) == 400
    assert "flood=1" in str(caught.value)


def test_half_of_a_large_batch_is_no_flood_and_flood_1_never_is() -> None:
    sink = FakeSink()
    give_up(letters_to(sink), work_of(900), given_up(900), 9_100)
    give_up(letters_to(sink, fuse=Fuse(1.0)), work_of(2_000), given_up(2_000), 0)
    assert len(sink.letters) == 2_900


def test_what_expired_is_no_flood() -> None:
    sink = FakeSink()
    give_up(letters_to(sink), work_of(2_000), given_up(2_000, Expired("old")), 0)
    assert len(sink.letters) == 2_000


def test_the_fuse_forgets_what_is_older_than_its_records() -> None:
    fuse = Fuse(0.5)
    assert fuse.passes(500, 500)
    assert not fuse.passes(1, 1)
    for _ in range(2 * FUSE // 100):
        assert fuse.passes(100, 0)
    assert fuse.passes(500, 500)


def test_after_a_flood_one_more_bad_record_stops_it_again_unpublished() -> None:
    sink, work = FakeSink(), work_of(1)
    work.probe = True
    with pytest.raises(Flooded):
        give_up(letters_to(sink), work, given_up(1), 0)
    assert not sink.letters


def test_a_handler_that_gets_its_own_letter_back_stops_instead_of_a_second_round() -> None:
    """Two URLs may lead to one broker: nobody can tell before."""
    made = batch(b"x")
    own = letter(GivenUp(0, BAD, 1), made.record(0), "app.handler", 1.0)
    came_back = PlainBatch(Partition("orders.dead", 0), [(b"x", None, tuple(own.headers), None, 1, {})])
    work = Work(Lane(came_back.partition, Shape()), came_back, range(1), 0.0)
    sink = FakeSink()
    with pytest.raises(Stopped, match="reads its own dead letters"):
        give_up(letters_to(sink, stream="orders.dead"), work, given_up(1), 0)
    assert not sink.letters
    give_up(letters_to(sink, stream="elsewhere"), work, given_up(1), 0)
    assert len(sink.letters) == 1


def test_what_is_handled_makes_room_for_what_is_not() -> None:
    sink = FakeSink()
    letters = letters_to(sink)
    for _ in range(5):
        give_up(letters, work_of(400), given_up(400), 0)
        letters.handled(1_000)
    assert len(sink.letters) == 2_000


def test_what_is_left_to_the_broker_counts_for_the_fuse_too() -> None:
    letters = letters_to(None, broker=True)
    assert letters.give_up(work_of(400), given_up(400), 0) == []
    with pytest.raises(Flooded):
        letters.give_up(work_of(200), given_up(200), 0)
