"""Captured batches: what is written, what is refused, and that a replay ends as the worker did."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import batch
from worker import App, Batch, ConfigError, Record, Reject, Retry
from worker.capture import SUFFIX, Capture, Captured
from worker.interface import Partition, Unreadable
from worker.plain import PlainBatch
from worker.testing import replay
from worker.work import Outcome

WHERE = Partition("orders", 3)


def capture(folder: Path, failing: Batch, outcome: Outcome | None = None, **bounds: Any) -> Path:
    before = set(folder.glob("*"))
    Capture(folder, "shop", "charge", True, **bounds)(failing, outcome or Outcome(whole=ValueError("no")))
    [file] = set(folder.glob("*")) - before
    return file


record = st.tuples(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.binary())).map(tuple),
    st.none() | st.integers(0, 2**62),
    st.integers(0, 2**62) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.just({}),
)


@given(st.lists(record, min_size=1))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, native: list[Any]) -> None:
    file = capture(tmp_path_factory.mktemp("captured"), PlainBatch(WHERE, native))
    again = Captured.load(file).batch()
    assert list(again) == list(PlainBatch(WHERE, native)) and again.partition == WHERE


def test_a_batch_is_written_once_and_not_for_what_is_no_failure(tmp_path: Path) -> None:
    keep = Capture(tmp_path, "shop", "charge", True)
    keep(batch(b"1"), Outcome())
    keep(batch(b"1"), Outcome(whole=Retry(1)))
    keep(batch(b"1"), Outcome(failed={0: Retry()}))
    later = batch(b"1")
    later.attempt = 2
    keep(later, Outcome(whole=ValueError()))
    assert list(tmp_path.iterdir()) == []
    keep(batch(b"1", b"2"), Outcome(bad={0: ValueError("bad")}, failed={1: KeyError("x")}))
    [file] = tmp_path.iterdir()
    told = Captured.load(file)
    assert [(one.index, one.type, one.message) for one in told.failures] == [(0, "ValueError", "bad"), (1, "KeyError", "'x'")]
    assert (told.app, told.handler, told.ordered) == ("shop", "charge", True)


def test_what_is_no_utf_8_is_captured_all_the_same(tmp_path: Path) -> None:
    one = PlainBatch(Partition("orders", 0), [(b"v", None, (), None, 1, {"type": "\udcff"})])
    Capture(tmp_path, "app", "handler", True)(one, Outcome(whole=ValueError("no file \udcff")))
    (file,) = tmp_path.iterdir()
    made = Captured.load(file)
    assert made.failures[0].message == "no file \\udcff" and made.records[0].properties == {"type": "?"}


def test_the_number_of_files_and_of_bytes_is_bounded(tmp_path: Path) -> None:
    keep = Capture(tmp_path, "shop", "charge", True, files=3, size=6_000)
    for number in range(10):
        keep(batch(b"x", start=number), Outcome(whole=ValueError()))
        os.utime(next(tmp_path.glob(f"charge-orders-0-{number}-*{SUFFIX}")), (number, number))
    assert sorted(file.name.split("-")[3] for file in tmp_path.iterdir()) == ["7", "8", "9"]
    keep(batch(b"x" * 3_500, start=10), Outcome(whole=ValueError()))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 6_000
    assert list(tmp_path.glob(f"charge-orders-0-10-*{SUFFIX}"))


def test_ids_that_begin_again_replace_nothing_and_killed_processes_leave_nothing(tmp_path: Path) -> None:
    keep = Capture(tmp_path, "shop", "charge", True, files=3)
    for _ in range(2):
        keep(batch(b"x", start=1), Outcome(whole=ValueError()))
    assert len(list(tmp_path.iterdir())) == 2
    left = tmp_path / f".charge{SUFFIX}"
    left.write_text("{")
    os.utime(left, (1, 1))
    keep(batch(b"x"), Outcome(whole=ValueError()))
    assert len(list(tmp_path.iterdir())) == 3 and not left.exists()


def test_captured_records_are_for_their_owner_alone_and_follow_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, victim = tmp_path / "new" / "captured", tmp_path / "victim"
    before = os.umask(0)
    try:
        file = capture(folder, batch(b"1"))
    finally:
        os.umask(before)
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    victim.write_text("mine")
    monkeypatch.setattr("time.strftime", lambda *_: "at")
    monkeypatch.setattr("os.getpid", lambda: 1)
    (tmp_path / f".charge-orders-0-0-at-1-1{SUFFIX}").symlink_to(victim)
    Capture(tmp_path, "shop", "charge", True)(batch(b"1"), Outcome(whole=ValueError()))
    assert victim.read_text() == "mine"


def test_a_capture_that_fails_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep = Capture(tmp_path, "shop", "charge", True, size=100)
    (tmp_path / "a-file").write_text("")
    for wrong in (keep, Capture(tmp_path / "a-file", "shop", "charge", True)):
        wrong(batch(b"1"), Outcome(whole=ValueError()))
        wrong(batch(b"1"), Outcome(whole=ValueError()))
    assert len(caplog.records) == 2 and "could not be captured" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: "hello", "Invalid JSON"),
        (lambda text: "[]", "object"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version"),
        (lambda text: text.replace('"handler"', '"other"'), "handler"),
        (lambda text: text.replace('"value": "', '"value": "%'), "value"),
    ],
)
def test_files_that_are_none(tmp_path: Path, change: Callable[[str], str], says: str) -> None:
    file = capture(tmp_path, batch(b"1"))
    file.write_text(change(file.read_text()))
    with pytest.raises(ConfigError, match=says) as caught:
        Captured.load(file)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="No such file"):
        Captured.load(tmp_path / "nothing")


def test_a_replay_halves_and_ends_as_the_worker_does(tmp_path: Path) -> None:
    file = capture(tmp_path, batch(*(b"%d" % n for n in range(8))))

    def fail_on_five(values: list[bytes]) -> None:
        if b"5" in values:
            raise ValueError("five")

    made = replay(file, fail_on_five, retries=2, dead_letter="kafka:dead")
    assert made.finished == [0, 1, 2, 3, 4, 6, 7]
    assert [(one.id, str(one.error), one.attempts, one.then) for one in made.given_up] == [(5, "five", 6, "dead letter")]
    assert made.calls == 3 + 2 + 2 + 2
    assert replay(file, fail_on_five, retries=0, dead_letter="discard").given_up[0].then == "discarded"
    assert replay(file, fail_on_five).given_up[0].then == "tried for ever"
    assert replay(file, lambda values: None).finished == list(range(8))


def test_headers_that_could_not_be_read_cannot_in_a_replay_either(tmp_path: Path) -> None:
    unread = (b"2", None, Unreadable("a name is not UTF-8"), None, 8, {})
    failing = PlainBatch(Partition("orders", 0), [(b"1", None, (), None, 7, {}), unread])

    def handle(records: list[Record[bytes]]) -> Any:
        return {index: error for index, record in enumerate(records) if (error := _error_of(record)) is not None}

    made = replay(capture(tmp_path, failing), handle, dead_letter="kafka:dead")
    assert (made.finished, [(end.id, end.error.args[0]) for end in made.given_up]) == (
        [7],
        [(8, "headers that cannot be read: a name is not UTF-8")],
    )


def _error_of(record: Record[bytes]) -> Exception | None:
    try:
        dict(record.headers)
    except Exception as error:
        return error
    return None


def test_a_replay_of_an_apps_handler(tmp_path: Path) -> None:
    file = capture(tmp_path, batch(b"1", b"x", b"3"))
    app = App("shop", connections={"k": "kafka://nowhere"})

    @app.handler("k:orders")
    async def charge(numbers: list[int]) -> Any:
        return {numbers.index(3): Reject("three")} if 3 in numbers else None

    ends = replay(file, app).given_up
    assert [(one.id, type(one.error).__name__, one.then) for one in ends] == [
        (1, "Invalid", "stops the handler"),
        (2, "Reject", "stops the handler"),
    ]


def test_a_replay_goes_no_further_than_the_worker(tmp_path: Path) -> None:
    file, seen = capture(tmp_path, batch(b"1", b"2", b"3")), list[bytes]()

    def refuse(value: bytes) -> None:
        seen.append(value)
        raise Reject("no")

    made = replay(file, refuse)
    assert (seen, [one.id for one in made.given_up], made.finished) == ([b"1"], [0], [])
    seen.clear()
    assert len(replay(file, refuse, ordered=False).given_up) == 3


def hang(values: list[bytes]) -> None:
    if b"2" in values:
        threading.Event().wait()


async def hang_async(values: list[bytes]) -> None:
    if b"2" in values:
        await asyncio.Event().wait()


@pytest.mark.parametrize("handler", [hang, hang_async])
def test_a_call_that_hangs_is_given_up_as_the_worker_does(tmp_path: Path, handler: Callable[..., Any]) -> None:
    file = capture(tmp_path, batch(b"1", b"2", b"3"))
    made = replay(file, handler, retries=0, timeout=0.3)
    assert (made.finished, [(one.id, type(one.error)) for one in made.given_up]) == ([0, 2], [(1, TimeoutError)])


@pytest.mark.timeout(30)
def test_a_call_that_swallows_its_cancellation_is_given_up_too(tmp_path: Path) -> None:
    async def swallow(values: list[bytes]) -> None:
        while b"2" in values:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    made = replay(capture(tmp_path, batch(b"1", b"2", b"3")), swallow, retries=0, timeout=0.3)
    assert (made.finished, [(one.id, type(one.error)) for one in made.given_up]) == ([0, 2], [(1, TimeoutError)])


def test_a_command_over_a_handler_that_blocks_its_event_loop_ends(tmp_path: Path) -> None:
    file = capture(tmp_path, batch(b"1"))
    (tmp_path / "shop.py").write_text(
        """
import threading
from worker import App
app = App("shop", connections={"k": "kafka://nowhere"})

@app.handler("k:orders", timeout=0.5)
async def charge(values: list[bytes]):
    threading.Event().wait()
"""
    )
    command = [sys.executable, "-m", "worker", "replay", file.name, "shop:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "in charge" in done.stderr, "its stack"
    assert "blocks the event loop, where a worker stops: the call took longer than timeout=0.5 s" in done.stderr


def test_a_command_does_not_wait_for_a_thread_of_a_call_that_was_given_up(tmp_path: Path) -> None:
    file = capture(tmp_path, batch(b"1"))
    (tmp_path / "shop.py").write_text(
        """
import asyncio, threading
from worker import App
app = App("shop", connections={"k": "kafka://nowhere"})

@app.handler("k:orders", timeout=0.5, retries=0, dead_letter="discard")
async def charge(values: list[bytes]):
    await asyncio.to_thread(threading.Event().wait)
"""
    )
    command = [sys.executable, "-m", "worker", "replay", file.name, "shop:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "0: discarded after 1 try: TimeoutError" in done.stdout


def test_a_replay_needs_the_handler(tmp_path: Path) -> None:
    file, app = capture(tmp_path, batch(b"1")), App("shop", connections={"k": "kafka://nowhere"})
    with pytest.raises(ConfigError, match="no handler other"):
        replay(file, app, "other")


def test_the_command(tmp_path: Path) -> None:
    file = capture(tmp_path, batch(b"1", b"0", b"2"))
    (tmp_path / "shop.py").write_text(
        """
from worker import App
app = App("shop", connections={"k": "kafka://nowhere"})

@app.lifespan
def pools():
    print("open")
    yield
    print("closed")

@app.handler("k:orders", retries=1, dead_letter="discard")
def charge(values: list[bytes]):
    for value in values:
        1 / int(value)
"""
    )

    def run(*arguments: str, told: str = "") -> tuple[int, str]:
        command = [sys.executable, "-m", "worker", "replay", *arguments]
        done = subprocess.run(command, cwd=tmp_path, input=told, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    code, told = run(file.name, "shop:app")
    assert code == 1 and "2 finished, 1 given up" in told and "1: discarded after" in told and "ZeroDivisionError" in told
    assert told.startswith("open") and "closed" in told
    code, told = run(file.name, "shop:app", "--json")
    result = json.loads(told.splitlines()[-1])
    assert (code, result["finished"], result["given_up"][0]["error"]) == (1, [0, 2], "ZeroDivisionError")
    assert run("nothing.json", "shop:app")[0] == 2
    code, told = run(file.name, "shop:app", "--pdb", told="p value\nq\n" * 20)
    assert "1 / int(value)" in told and "b'0'" in told
    code, told = run(file.name, "shop:app", "--set", "handlers.charge.isolation=process")
    assert code == 1 and "2 finished, 1 given up" in told
