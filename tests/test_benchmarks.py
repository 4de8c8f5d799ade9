"""The benchmarks run; how fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.orders import Order, orders
from benchmarks.peers import guard, page
from benchmarks.peers.client import Spec, fails
from benchmarks.peers.rounds import Row, Table, play
from worker.testing import KafkaContainer

ROOT = Path(__file__).parents[1]


def rates(*values: float) -> Iterator[dict[str, float]]:
    return ({"records_per_second": value} for value in values)


def test_rounds_take_turns_and_leave_out_what_is_not_installed() -> None:
    ours, bare = rates(90, 91, 80, 81), rates(100, 100)
    told: list[str] = []
    made = play("t", {"ours": lambda: next(ours), "bare": lambda: next(bare), "none": lambda: None}, 2, told.append)
    assert [row.name for row in made.rows] == ["ours", "bare"]
    assert made.row("ours").values("records_per_second") == [90, 80]  # the second of each round measures the machine
    assert made.ratios("ours", "bare") == [0.9, 0.8]
    assert made.noisy == 0 and len(told) == 2


def test_a_disturbed_round_is_played_again() -> None:
    ours, bare = rates(90, 40, 100, 100), rates(10, 100)
    made = play("t", {"ours": lambda: next(ours), "bare": lambda: next(bare)}, 1, lambda line: None)
    assert made.noisy == 1 and made.row("bare").values("records_per_second") == [100]


def test_what_is_always_disturbed_is_kept_in_the_end_and_said() -> None:
    ours, bare = rates(90, 40, 90, 40, 90, 40), rates(10, 10, 10)
    made = play("t", {"ours": lambda: next(ours), "bare": lambda: next(bare)}, 1, lambda line: None)
    assert (made.noisy, made.kept_noisy) == (1, 1)


def test_who_fails_is_left_out_and_said() -> None:
    once = rates(1.0)

    def fail() -> dict[str, float]:
        for one in once:
            return one
        raise RuntimeError("no")

    told: list[str] = []
    made = play("t", {"ours": lambda: {"records_per_second": 1.0}, "bad": fail}, 3, told.append)
    assert [row.name for row in made.rows] == ["ours"] and "t: left out: no" in told


def test_a_case_without_its_first_peer_has_no_rows_and_the_others_go_on() -> None:
    def fail() -> dict[str, float]:
        raise RuntimeError("no")

    told: list[str] = []
    assert not play("t", {"ours": fail, "bare": lambda: {"records_per_second": 1.0}}, 3, told.append).rows
    assert "t: left out: no" in told


def test_what_fell_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guard, "FILE", tmp_path / "ratios.json")
    guard.accept({"a": 1.0, "b": 1.0})
    told: list[str] = []
    assert guard.compare({"a": 0.95, "b": 0.85, "c": 0.1}, told.append) == ["b"]
    assert "b" in told[0] and "1 of 2" in told[1]


def test_what_fell_is_not_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the next comparison would find nothing."""
    monkeypatch.setattr(guard, "FILE", tmp_path / "ratios.json")
    guard.accept({"a": 1.0, "b": 1.0})
    guard.accept({"a": 0.5, "b": 0.95, "c": 2.0})
    assert json.loads(guard.FILE.read_text()) == {"a": 1.0, "b": 0.95, "c": 2.0}


def test_ratios_are_ours_by_the_others() -> None:
    table = Table("t", [Row("ours", list(rates(50, 60))), Row("bare", list(rates(100, 100)))])
    assert guard.ratios([table]) == {"t: ours / bare": 0.55}
    assert page._cells(table)[1][-1] == "0.55 x"


def test_orders_have_the_size_that_is_asked_for() -> None:
    for size in (200, 1024):
        made = orders(size)
        first = [next(made) for _ in range(1_000)]
        assert {len(value) for value in first} == {size}
        assert sum(map(fails, first)) == 10
        Order.model_validate_json(first[-1])


def test_a_spec_goes_over_a_command_line() -> None:
    spec = Spec("host:1", "t", "count", options={"parallel": 8})
    assert Spec(**json.loads(json.dumps(vars(spec)))) == spec


@pytest.mark.timeout(300)
def test_ours_beside_the_bare_client(kafka: KafkaContainer, tmp_path: Path) -> None:
    """The quick form, without the tables that wait for members to join and leave, or need other sizes and peers."""
    told = tmp_path / "figures.json"
    command = ["-m", "benchmarks.peers", "--quick", "--only", "works,promises", "--peers", "ours,bare"]
    run([*command, "--bootstrap", kafka.bootstrap, "--json", str(told)])
    tables = json.loads(told.read_text())["tables"]
    assert len(tables) == 8
    assert all(row["runs"] for table in tables for row in table["rows"])


@pytest.mark.timeout(300)
def test_the_guard_and_the_profile(kafka: KafkaContainer) -> None:
    run(["-m", "benchmarks", "throughput", "--quick", "--pairs", "1", "--records", "100000", "--bootstrap", kafka.bootstrap])
    shown = run(["-m", "benchmarks.profile", "--records", "100000", "--repeat", "1", "--bootstrap", kafka.bootstrap])
    assert "grouping" in shown


def run(command: list[str]) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout
