"""Crashed processes start again; those that stopped for a reason do not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from worker.errors import WorkerError
from worker.supervised import how_it_ended
from worker.supervisor import HEALTHY, RESTART, Restarts, Supervisor

SCRIPT = """
import os, signal, sys
from worker.supervised import adopted, follow_parent, tell_flooded, tell_supervisor
folder, index = sys.argv[1], os.environ["WORKER_PROCESS_INDEX"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
PIPES = [int(os.environ[name]) for name in ("WORKER_SUPERVISOR_FD", "WORKER_PARENT_FD")]
adopted()
follow_parent()
runs = len([name for name in os.listdir(folder) if name.startswith(index + "-")])
open(f"{folder}/{index}-{runs}-{os.getpid()}", "w").close()
"""


def supervisor_of(folder: Path, body: str, processes: int = 2) -> Supervisor:
    script = folder / "child.py"
    script.write_text(SCRIPT + body)
    runs = folder / "runs"
    runs.mkdir()
    return Supervisor([sys.executable, str(script), str(runs)], processes, os.environ)


def runs_of(folder: Path, index: int) -> list[int]:
    return [int(name.split("-")[2]) for name in sorted(os.listdir(folder / "runs")) if name.startswith(f"{index}-")]


def when(condition: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        try:
            until(condition)
        finally:
            then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_what_is_final_and_what_is_a_crash() -> None:
    restarts = Restarts(started=0.0)
    assert [restarts.after(code, False, 1.0) for code in (0, 2, 3, 4)] == [None] * 4
    assert restarts.after(1, True, 1.0) is None
    waits = [restarts.after(code, False, 1.0) for code in (1, -9, 134, 1)]
    assert all(wait is not None for wait in waits)
    assert (waits[-1] or 0) > RESTART.first * 2
    again = restarts.after(-9, False, HEALTHY + 1)
    assert again is not None and again <= RESTART.first


def test_a_killed_process_is_started_again_and_sigterm_ends_all(tmp_path: Path) -> None:
    supervisor = supervisor_of(tmp_path, "while True: signal.pause()")
    when(lambda: len(runs_of(tmp_path, 1)) == 1, lambda: os.kill(runs_of(tmp_path, 1)[0], signal.SIGKILL))
    when(lambda: len(runs_of(tmp_path, 1)) == 2, lambda: supervisor.signalled(signal.SIGTERM, None))
    assert supervisor.run() == 0
    assert (len(runs_of(tmp_path, 0)), len(runs_of(tmp_path, 1))) == (1, 2)


def test_a_process_that_cannot_be_started_again_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory or processes for a while: the others go on."""
    supervisor = supervisor_of(tmp_path, "while True: signal.pause()")
    popen, refused = subprocess.Popen, list[object]()

    def refuse_once(*arguments: Any, **options: Any) -> Any:
        if refused:
            return popen(*arguments, **options)
        refused.append(options)
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("worker.supervisor.subprocess.Popen", refuse_once)
    when(lambda: len(runs_of(tmp_path, 1)) == 1, lambda: os.kill(runs_of(tmp_path, 1)[0], signal.SIGKILL))
    when(lambda: len(runs_of(tmp_path, 1)) == 2, lambda: supervisor.signalled(signal.SIGTERM, None))
    assert supervisor.run() == 0
    assert refused and (len(runs_of(tmp_path, 0)), len(runs_of(tmp_path, 1))) == (1, 2)


@pytest.mark.parametrize("short", ["processes", "threads"])
def test_without_room_for_all_there_is_one_line_and_what_was_started_ends(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen, thread = subprocess.Popen, threading.Thread
    started, watched = list[subprocess.Popen[bytes]](), list[threading.Thread]()

    def process(*arguments: Any, **options: Any) -> Any:
        if started and short == "processes":
            raise OSError(errno.EAGAIN, "no process left")
        started.append(popen(*arguments, **options))
        return started[-1]

    def watcher(*arguments: Any, **options: Any) -> Any:
        if watched and short == "threads":
            raise RuntimeError("no thread left")
        watched.append(thread(*arguments, **options))
        return watched[-1]

    with (
        monkeypatch.context() as patched,
        pytest.raises(WorkerError, match=r"cannot start 2 processes: .*left; lower --processes"),
    ):
        patched.setattr("worker.supervisor.subprocess.Popen", process)
        patched.setattr("worker.supervisor.threading.Thread", watcher)
        supervisor_of(tmp_path, "while True: signal.pause()")
    assert len(started) == (1 if short == "processes" else 2)
    until(lambda: all(one.poll() is not None for one in started))


def test_a_process_that_stopped_for_a_reason_ends_all_with_its_code(tmp_path: Path) -> None:
    body = "if index == '0': tell_supervisor(); sys.exit(1)\nwhile True: signal.pause()"
    supervisor = supervisor_of(tmp_path, body)
    assert supervisor.run() == 1
    assert len(runs_of(tmp_path, 0)) == 1
    assert all(child.process.returncode is not None for child in supervisor.children)


def test_a_refused_process_ends_all_with_its_code(tmp_path: Path) -> None:
    assert supervisor_of(tmp_path, "if index == '0': sys.exit(3)\nwhile True: signal.pause()").run() == 3


def test_a_process_that_is_killed_while_it_drains_is_no_success(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), 9))
open(f"{folder}/ready", "w")
while True: signal.pause()
"""
    supervisor = supervisor_of(tmp_path, body, processes=1)
    when((tmp_path / "runs" / "ready").exists, lambda: supervisor.signalled(signal.SIGTERM, None))
    assert supervisor.run() == 1


def test_how_a_process_ended() -> None:
    told = ["ended with code 3", "was killed by SIGKILL", "was killed by signal 40"]
    assert [how_it_ended(code) for code in (3, -9, -40)] == told


def test_processes_that_finish_are_finished(tmp_path: Path) -> None:
    assert supervisor_of(tmp_path, "sys.exit(0)").run() == 0


def test_children_end_with_their_supervisor(tmp_path: Path) -> None:
    supervisor = supervisor_of(tmp_path, "while True: signal.pause()", processes=1)
    when(lambda: runs_of(tmp_path, 0), lambda: os.close(supervisor._alive))
    assert supervisor.run() == 0


def test_a_flood_is_told_to_the_process_that_comes_after_a_crash(tmp_path: Path) -> None:
    body = """
open(f"{folder}/flooded-{runs}", "w").write(os.environ["WORKER_FLOODED"])
if runs == 0: tell_flooded("a", True); tell_flooded("b", True); tell_flooded("a", False); os.kill(os.getpid(), signal.SIGKILL)
while True: signal.pause()
"""
    supervisor = supervisor_of(tmp_path, body, processes=1)
    told = tmp_path / "runs" / "flooded-1"
    when(lambda: told.exists() and told.read_text(), lambda: supervisor.signalled(signal.SIGTERM, None))
    assert supervisor.run() == 0
    assert (tmp_path / "runs" / "flooded-0").read_text() == "" and told.read_text() == "b"


def test_what_a_process_has_started_may_live_on(tmp_path: Path) -> None:
    body = """
if (other := os.fork()) == 0:
    signal.alarm(30)
    signal.pause()
open(f"{folder}/other", "w").write(str(other))
tell_supervisor()
sys.exit(1)
"""
    supervisor = supervisor_of(tmp_path, body, processes=1)
    begun = time.monotonic()
    try:
        assert supervisor.run() == 1
        assert time.monotonic() - begun < 20
    finally:
        os.kill(int((tmp_path / "runs" / "other").read_text()), signal.SIGKILL)


def test_a_handlers_program_gets_no_pipe_of_the_supervisor(tmp_path: Path) -> None:
    body = """
import subprocess
if any(name in os.environ for name in ("WORKER_SUPERVISOR_FD", "WORKER_PARENT_FD")):
    sys.exit(4)
code = f"import os; [os.fstat(pipe) for pipe in {PIPES}]"
sys.exit(0 if subprocess.run([sys.executable, "-c", code], close_fds=False, stderr=subprocess.DEVNULL).returncode else 3)
"""
    assert supervisor_of(tmp_path, body, processes=1).run() == 0
