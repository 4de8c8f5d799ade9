"""The count that the fault tests rely on sees what it must see."""

from __future__ import annotations

from pathlib import Path

from tests.integration.harness import Journal, Line, reconcile


def line(offset: int, pid: int = 1, partition: int = 0, number: int | None = None, key: str = "k") -> Line:
    return Line(partition, offset, key, offset if number is None else number, pid)


def test_all_is_well() -> None:
    count = reconcile([line(0), line(1), line(2)], range(3))
    count.in_order_and_complete()
    assert (count.duplicates, count.restarts) == (0, 0)


def test_what_is_missing_is_lost() -> None:
    assert reconcile([line(0), line(1)], range(3)).lost == [2]


def test_a_gap_is_a_skip_even_if_it_is_filled_later() -> None:
    assert reconcile([line(0), line(2), line(1)], range(3)).skips == 1


def test_another_process_may_repeat_but_not_skip() -> None:
    repeated = reconcile([line(0), line(1), line(1, pid=2), line(2, pid=2)], range(3))
    assert (repeated.duplicates, repeated.skips, repeated.restarts) == (1, 0, 0)
    skipped = reconcile([line(0), line(2, pid=2)], range(3))
    assert (skipped.skips, skipped.lost) == (1, [1])


def test_going_back_in_one_process_is_a_restart() -> None:
    assert reconcile([line(0), line(1), line(0), line(1)], range(2)).restarts == 1


def test_keys_are_followed_over_partitions() -> None:
    count = reconcile([line(0, number=1), line(0, number=0, partition=1)], range(2))
    assert (count.skips, count.key_violations) == (0, 1)


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "handled"
    path.write_text("0 0 k 0 1\n0 1 k")
    journal = Journal(path)
    assert journal.lines() == [line(0)]
    with path.open("a") as file:
        file.write(" 1 1\n")
    assert journal.lines() == [line(0), line(1)]
