"""Calls in processes of their own, which are real ones here: what they return, how they die, and what is left of them."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import fresh
from tests.support import batch
from tests.waiting import until
from worker.decode import shape
from worker.errors import ConfigError, Reject, Stopped
from worker.interface import Partition, Record
from worker.isolation import Crashed, Isolation, Request, isolation
from worker.loading import load_app
from worker.pipe import Pipe
from worker.plain import PlainBatch
from worker.settings import load
from worker.work import Outcome

SHOP = """
import ctypes, logging, os, resource, signal, sys, threading, time
from pathlib import Path
from worker import App, Batch, Failed, Record, Reject

app = App("shop", connections={"k": "kafka://nowhere"})
folder = Path(__file__).parent

@app.lifespan
def pools():
    (folder / "begun").open("a").write(f"{os.getpid()}\\n")
    if (folder / "small").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50_000_000,) * 2)
    yield
    (folder / "ended").open("a").write(f"{os.getpid()}\\n")

class Own(Exception):
    def __init__(self, code, *, more):
        super().__init__(f"own {code} {more}")

@app.handler("k:orders")
def values(values: list[bytes]):
    for index, value in enumerate(values):
        if value == b"segfault":
            ctypes.string_at(0)
        if value == b"exit":
            os._exit(7)
        if value == b"hang":
            threading.Event().wait()
        if value == b"log":
            logging.getLogger("shop").warning("a line")
        if value == b"own":
            raise Own(1, more=2)
        if value == b"failed":
            raise Failed(index)
        if value == b"reject":
            return {index: Reject("no")}
        if value == b"stop":
            sys.exit("enough")
        if value == b"orphan":
            if (other := os.fork()) == 0:
                signal.alarm(30)
                signal.pause()
            (folder / "orphan").write_text(str(other))
            os._exit(8)
        if value == b"half":  # of a reply
            os.write(int(sys.argv[1]), bytes(3))
            threading.Event().wait()
        if value == b"half an orphan":
            if (other := os.fork()) == 0:
                signal.alarm(60)
                signal.pause()
            (folder / "orphan").write_text(str(other))
            os.write(int(sys.argv[1]), bytes(3))
            os._exit(8)

@app.handler("k:orders")
def numbers(numbers: list[int]): ...

@app.handler("k:orders")
def whole(batch: Batch):
    told = [(r.value, r.key, list(r.headers), r.timestamp, r.id, r.partition) for r in batch]
    (folder / "seen").write_text(repr((told, batch.attempt, os.getpid())))

@app.handler("k:orders")
async def asynchronous(batch: Batch): ...
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Isolation]]:
    (tmp_path / "shop.py").write_text(SHOP)
    started: list[Isolation] = []
    with fresh(tmp_path):
        app = load_app(str(tmp_path / "shop.py") + ":app")

    def make(handler: str = "values", **options: str) -> Isolation:
        flags = [f"handlers.{handler}.{name}={value}" for name, value in options.items()]
        settings = load(app, environ={}, flags=flags).handlers[handler]
        started.append(isolation(settings, app.target, shape(settings.function), True))
        return started[-1]

    yield make
    for one in started:
        one.close()


def test_what_a_call_returns(made: Callable[..., Isolation]) -> None:
    call = made()
    assert call(batch(b"1", b"2"), {}) == Outcome()
    outcome = call(batch(b"1", b"reject"), {})
    assert list(outcome.failed) == [1] and isinstance(outcome.failed[1], Reject) and str(outcome.failed[1]) == "no"
    assert call(batch(b"1", b"failed", b"3"), {}).untouched == 2
    assert list(call(batch(b"1", b"failed"), {1: ValueError("old")}).bad) == [1], "what expired is not seen"


def test_a_line_in_the_log_says_for_which_records(made: Callable[..., Isolation], capfd: pytest.CaptureFixture[str]) -> None:
    made()(batch(b"1", b"log", b"3", start=70), {})
    assert "a line (values orders[0] 70-72)" in capfd.readouterr().err


def test_invalid_values(made: Callable[..., Isolation]) -> None:
    outcome = made("numbers")(batch(b"1", b"x", b"3"), {})
    assert list(outcome.bad) == [1] and type(outcome.bad[1]).__name__ == "Invalid"


def test_whole_records(made: Callable[..., Isolation], tmp_path: Path) -> None:
    where = Partition("orders", 3)
    record = Record(b"v", None, (("h", b"\xff"), ("none", None)), 12, 99, where, {"unpicklable": lambda: 1})
    native = [(record.value, record.key, record.headers, record.timestamp, record.id, {})]
    made("whole")(PlainBatch(where, native, attempt=4), {})
    told, attempt, pid = eval((tmp_path / "seen").read_text(), {"Partition": Partition})
    assert told == [(b"v", None, [("h", b"\xff"), ("none", None)], 12, 99, where)]
    assert attempt == 4 and pid != os.getpid()


def test_an_error_that_cannot_travel_keeps_its_name(made: Callable[..., Isolation]) -> None:
    error = made()(batch(b"own"), {}).whole
    assert type(error).__name__ == "Own" and str(error) == "own 1 2"
    assert "raise Own(1, more=2)" in error.__notes__[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("value", "how"), [(b"segfault", "was killed by SIGSEGV"), (b"exit", "ended with code 7")])
def test_a_process_that_dies_fails_its_batch(made: Callable[..., Isolation], value: bytes, how: str) -> None:
    call = made()
    outcome = call(batch(b"1", value), {})
    assert isinstance(outcome.whole, Crashed) and how in str(outcome.whole)
    assert call(batch(b"1"), {}) == Outcome(), "another one goes on"


def test_a_process_that_dies_is_not_waited_for_in_what_it_started(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made()
    call(batch(b"1"), {})
    begun = time.monotonic()
    try:
        assert "ended with code 8" in str(call(batch(b"orphan"), {}).whole)
    finally:
        os.kill(int((tmp_path / "orphan").read_text()), signal.SIGKILL)
    assert time.monotonic() - begun < 15


def test_a_batch_that_is_too_much_for_its_process_fails(made: Callable[..., Isolation], tmp_path: Path) -> None:
    (tmp_path / "small").touch()
    call = made()
    assert call(batch(b"1"), {}) == Outcome()
    for _ in range(2):
        assert "ended with code 1" in str(call(batch(bytes(100_000_000)), {}).whole), "it died while it was told"


def test_a_process_that_dies_idle_fails_nothing(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made()
    call(batch(b"1"), {})
    os.kill(int((tmp_path / "begun").read_text()), signal.SIGKILL)
    call._idle.queue[0]._process.wait()
    assert call(batch(b"1"), {}) == Outcome()


def test_a_call_that_hangs_is_killed(
    made: Callable[..., Isolation], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    call = made(timeout="0.5")
    assert call(batch(b"1"), {}) == Outcome()
    outcome = call(batch(b"hang"), {})
    assert isinstance(outcome.whole, TimeoutError)
    assert "in values" in capfd.readouterr().err, "its stack"
    assert call(batch(b"1"), {}) == Outcome()


@pytest.mark.timeout(30)
def test_a_process_that_does_not_read_its_batch_is_killed(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made(timeout="0.5")
    assert call(batch(b"1"), {}) == Outcome()
    os.kill(int((tmp_path / "begun").read_text()), signal.SIGSTOP)
    assert isinstance(call(batch(bytes(10_000_000)), {}).whole, TimeoutError)
    assert call(batch(b"1"), {}) == Outcome(), "another one goes on"


@pytest.mark.timeout(30)
def test_a_reply_that_stays_half_written_is_not_waited_for(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made(timeout="0.5")
    assert call(batch(b"1"), {}) == Outcome()
    assert isinstance(call(batch(b"half"), {}).whole, TimeoutError)
    assert call(batch(b"1"), {}) == Outcome()


@pytest.mark.timeout(30)
def test_nor_when_its_process_has_died_and_what_it_started_lives(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made()
    try:
        assert "ended with code 8" in str(call(batch(b"half an orphan"), {}).whole)
    finally:
        os.kill(int((tmp_path / "orphan").read_text()), signal.SIGKILL)


def test_what_is_no_exception_stops_the_handler(made: Callable[..., Isolation]) -> None:
    with pytest.raises(Stopped, match="SystemExit enough"):
        made()(batch(b"stop"), {})


def test_a_lifespan_for_each_process(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made()
    call(batch(b"1"), {})
    call(batch(b"2"), {})
    call.close()
    assert (tmp_path / "begun").read_text() == (tmp_path / "ended").read_text() != ""


def test_no_process_outlives_the_worker(made: Callable[..., Isolation]) -> None:
    call = made()
    call(batch(b"1"), {})
    child = call._idle.get()
    child._pipe.close()  # as the kernel does when the worker is killed
    assert child.end() == "ended with code 0"


def test_a_call_that_is_left_behind_does_not_outlive_an_orderly_end(made: Callable[..., Isolation]) -> None:
    isolated, outcomes = made("values"), list[Outcome]()
    thread = threading.Thread(target=lambda: outcomes.append(isolated(batch(b"hang"), {})))
    thread.start()
    until(lambda: isolated._busy)
    [child] = isolated._busy
    isolated.close()
    until(lambda: not child.alive)
    thread.join(10.0)
    assert isinstance(outcomes[0].whole, Crashed)


def test_a_process_that_cannot_start_stops_the_handler(made: Callable[..., Isolation], tmp_path: Path) -> None:
    call = made()
    (tmp_path / "shop.py").write_text("raise ValueError('mended wrongly')")
    with pytest.raises(Stopped, match="did not start: ended with code 2"):
        call(batch(b"1"), {})


@pytest.mark.parametrize(
    ("executable", "says"),
    [("/nowhere/python", "could not be started: .*No such file"), ("true", "did not start: ended with code 0")],
)
def test_a_process_that_cannot_even_be_told_what_to_do_stops_the_handler(
    made: Callable[..., Isolation], monkeypatch: pytest.MonkeyPatch, executable: str, says: str
) -> None:
    call = made()
    monkeypatch.setattr(sys, "executable", executable)
    popen = subprocess.Popen

    def ended(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, **options)
        process.wait()
        return process

    monkeypatch.setattr(subprocess, "Popen", ended)
    with pytest.raises(Stopped, match=says):
        call(batch(b"1"), {})


def test_where_it_is_not_possible(made: Callable[..., Isolation], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="declare it with def"):
        made("asynchronous")
    with fresh(tmp_path):
        app = load_app(str(tmp_path / "shop.py") + ":app")
    settings = load(app, environ={}).handlers["values"]
    with pytest.raises(ConfigError, match="worker run MODULE:APP"):
        isolation(settings, None, shape(settings.function), True)


def test_a_call_that_hangs_does_not_outlive_a_worker_that_was_killed(made: Callable[..., Isolation], tmp_path: Path) -> None:
    """A kill closes the worker's end of the pipe, and does nothing else: the process sees to its own end."""
    ours, theirs = socket.socketpair()
    brief = "import worker.child; worker.child.PATIENCE = 0.05; worker.child.main()"
    command = [sys.executable, "-c", brief, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
    theirs.close()
    try:
        pipe = Pipe(ours)
        plan = made()._plan
        pipe.send(pickle.dumps(plan))
        pipe.receive()
        pipe.send(pickle.dumps(Request(Partition("orders", 0), 1, [b"hang"], (0, 0), {})))
        assert process.poll() is None
        pipe.close()
        assert process.wait(10) == 1
    finally:
        process.kill()
        process.wait()
