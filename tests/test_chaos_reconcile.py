"""What a campaign's evidence is worth: each broken promise is seen, and none where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.journal import HANDLED, NAMED, Call, Event
from tests.chaos.reconcile import Census, Count, Evidence, Happened, Sample, reconcile
from tests.chaos.stage import Letter
from worker.interface import Partition

HERE = Partition("orders", 0)


def handled(time: float, *names: str, pid: int = 1, call: int = 0, what: str = HANDLED) -> list[Event]:
    return [Event(what, time, Call(pid, call), HERE, name) for name in names]


def count(events: Sequence[Event], log: str = "abcdef", letters: Sequence[Letter] = (), **more: object) -> Count:
    keys = {name: "k" for name in log}
    return reconcile(Evidence({HERE: list(log)}, set(log), keys, events, letters, **more))  # type: ignore[arg-type]


def test_all_in_order_with_a_dead_letter_and_a_repetition() -> None:
    events = handled(1, "a", "b") + handled(3, "a", "b", "d", pid=2) + handled(4, "e", "f", pid=2)
    found = count(events, letters=[Letter("c", 2.0)], faults=[Happened("kill", "worker 1", 2.5, 2.6, True)])
    assert found.violations == {}
    assert found.duplicates == {"kill": 2}
    assert (found.produced, found.dead_lettered) == (6, 1)


def test_what_nobody_handled_is_lost() -> None:
    assert count(handled(1, *"abcde")).lost == ["f"]


def test_what_comes_too_early() -> None:
    found = count(handled(1, "a", "c") + handled(2, *"bdef"))
    assert found.disorder == ["c of orders[0] before b"]
    assert found.disorder_of_keys == ["b of key k too late"]


def test_the_rest_of_a_batch_may_overtake_what_failed_by_name() -> None:
    events = handled(1, "b", what=NAMED) + handled(1, "a", "c") + handled(2, "b", call=1) + handled(3, *"def", call=2)
    assert count(events).violations == {}
    other_call = handled(1, "b", what=NAMED) + handled(1, "a", "c") + handled(2, "d", call=1) + handled(3, *"bef", call=2)
    assert count(other_call).disorder == ["d of orders[0] before b"]


def test_commits_beyond_what_is_finished_and_back() -> None:
    events = handled(1, *"abc") + handled(5, *"def")
    samples = [Sample(2, {HERE: 3}), Sample(3, {HERE: 4}), Sample(6, {HERE: 2})]
    found = count(events, samples=samples)
    assert found.beyond == ["orders[0]: 4 committed, 3 finished"]
    assert found.backwards == ["orders[0]: 2 after 4"]


def test_what_is_gone_from_a_queue_and_not_finished() -> None:
    events = handled(1, *"abc") + handled(5, *"def")
    assert count(events, censuses=[Census(2, set("def"), set("abcdef"))]).violations == {}
    found = count(events, censuses=[Census(2, set("ef"), set("abcdef"))])
    assert found.beyond == ["1 gone from the queue and not finished: ['d']"]
