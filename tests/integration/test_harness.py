"""The reconciliation sees what it is there to see: else a test with it would pass whatever the worker did."""

from __future__ import annotations

from pathlib import Path

from tests.integration.harness import Ledger, violations


def ledger(path: Path, *lines: str) -> Ledger:
    (path / "ledger").write_text("".join("\n" + line for line in lines))
    return Ledger(path / "ledger")


def test_in_order_is_fine() -> None:
    assert violations([(0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 2, 2), (1, 1, 1)]) == []


def test_a_redelivery_is_fine() -> None:
    assert violations([(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 1, 2), (0, 2, 2), (0, 3, 2)]) == []


def test_a_late_result_of_the_old_owner_is_fine() -> None:
    assert violations([(0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 1, 1), (0, 2, 2)]) == []


def test_stepping_over_what_nobody_handled_is_not() -> None:
    assert len(violations([(0, 0, 1), (0, 2, 1)])) == 1
    assert len(violations([(0, 1, 1)])) == 1
    assert len(violations([(0, 0, 1), (0, 2, 2)])) == 1


def test_stepping_over_what_comes_again_is_not() -> None:
    assert len(violations([(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 0, 2), (0, 2, 2)])) == 1


def test_a_swap_is_not() -> None:
    assert violations([(0, 1, 1), (0, 0, 1), (0, 2, 1)])


def test_it_counts_what_is_lost_twice_and_torn(tmp_path: Path) -> None:
    told = ["0 0 a 0 7 1.5 .", "0 1 a 1 7 1.5 .", "0 1 a 1 8 1.6 .", "0 2 a 2 8 1.", "1 0 x 0 8 1.7 ."]
    found = ledger(tmp_path, *told).reconcile({("a", 0), ("a", 1), ("a", 2)})
    assert (found.produced, found.handled, found.lost, found.unknown, found.duplicates) == (3, 4, 1, 1, 1)


def test_a_ledger_that_nobody_wrote_is_empty(tmp_path: Path) -> None:
    assert len(Ledger(tmp_path / "ledger")) == 0
    assert Ledger(tmp_path / "ledger").reconcile({("a", 0)}).lost == 1
