"""`worker new`, `worker send`, and the first page's five commands."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.commands import run
from tests.waiting import until
from worker.errors import PublishError, Refused, Unavailable
from worker.interface import DeadLetter, SinkOptions
from worker.new import APP, FILES
from worker.send import portions
from worker.testing import FakeSink

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_what_is_new_passes_its_own_test_and_the_check(tmp_path: Path) -> None:
    made = run(tmp_path, "new", "billing")
    assert made.exit_code == 0 and "worker run app.py:app" in made.stdout
    folder = tmp_path / "billing"
    assert {file.name for file in folder.iterdir()} == {"app.py", "compose.yaml", "worker.toml", "test_app.py"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    checked = run(folder, "check", "app.py:app")
    assert checked.exit_code == 0 and "group billing.charge" in checked.stdout and "window = 0.1" in checked.stdout
    assert "warning" not in checked.stdout


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "billing").mkdir()
    assert run(tmp_path, "new", "billing").exit_code == 0, "an empty folder is as good as none"
    (tmp_path / "billing" / "app.py").write_text("mine")
    again = run(tmp_path, "new", "billing")
    assert again.exit_code == 2 and "billing is there already" in again.stderr
    assert (tmp_path / "billing" / "app.py").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert run(tmp_path, "new", "file").exit_code == 2
    wrong = run(tmp_path, "new", "two words")
    assert wrong.exit_code == 2 and len(wrong.stderr.splitlines()) == 1
    assert run(tmp_path, "new", "deep/er-2").exit_code == 0


def test_the_first_page_shows_what_is_written() -> None:
    """And the broker is that of the project's own compose.yaml."""
    assert f"```python\n# billing.py\n{APP.replace('NAME', 'billing')}```" in README
    kafka = re.search(r"  kafka:\n(    .*\n)+", (ROOT / "compose.yaml").read_text())
    assert kafka and kafka[0] in FILES["compose.yaml"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\r\nb\n", [b"a", b"b"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"\n", [b""]),
        (b"x" * 700_000 + b"\n" + b"y" * 700_000, [b"x" * 700_000, b"y" * 700_000]),
    ],
)
def test_lines_are_whole_wherever_they_are_cut(text: bytes, lines: list[bytes]) -> None:
    assert [line for portion in portions(io.BytesIO(text)) for line in portion] == lines


class Sink(FakeSink):
    """Whoever has been asked for one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[SinkOptions] = []
        self.closed = 0

    def sink(self, options: SinkOptions) -> Sink:
        self.asked.append(options)
        return self

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    made = Sink()
    monkeypatch.setattr("worker.send.connector", lambda scheme: made)
    return made


URL = {"WORKER_CONNECTIONS__KAFKA": "kafka://fake"}


def told(letters: Sequence[DeadLetter]) -> list[tuple[bytes | None, bytes | None]]:
    return [(letter.record.key, letter.record.value) for letter in letters]


def test_lines_become_records(tmp_path: Path, sink: Sink) -> None:
    (tmp_path / "orders.jsonl").write_bytes(b'{"id": 1}\n\n\xff\n')
    done = run(tmp_path, "send", "kafka:orders", "orders.jsonl", "--key", "k", environ=URL)
    assert (done.exit_code, done.stdout) == (0, "2 records confirmed by kafka:orders, 1 empty line left out\n")
    assert told(sink.letters) == [(b"k", b'{"id": 1}'), (b"k", b"\xff")]
    assert not any(letter.headers for letter in sink.letters)
    [asked] = sink.asked
    assert (asked.stream, str(asked.connection), sink.closed) == ("orders", "kafka://fake", 1)


@pytest.mark.parametrize("place", ["worker.toml", "--set", "--app", "--config"])
def test_the_connection_is_where_connections_are(tmp_path: Path, sink: Sink, place: str) -> None:
    (tmp_path / "lines").write_text("1")
    toml = "[connections]\nk = 'kafka://there'\n[handlers.other]\nbatch_size = 5\n"
    more = {"--set": ["--set", "connections.k=kafka://there"], "--app": ["--app", "sh0p.py"], "--config": ["--config", "my.toml"]}
    (tmp_path / "sh0p.py").write_text("from worker import App\napp = App('shop', connections={'k': 'kafka://there'})\n")
    (tmp_path / "my.toml").write_text(toml)
    if place == "worker.toml":
        (tmp_path / "worker.toml").write_text(toml)
    assert run(tmp_path, "send", "k:orders", "lines", *more.get(place, [])).exit_code == 0
    assert str(sink.asked[0].connection) == "kafka://there" and told(sink.letters) == [(None, b"1")]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ("orders", "written connection:name"),
        ("kafak:orders", "did you mean kafka"),
        ("rabbitmq:orders", "no connection is called rabbitmq"),
        ("kafka:a,kafka:b", "name one stream"),
        ("kafka://user:secret@host/orders", "a stream is written connection:name"),
    ],
)
def test_a_stream_that_cannot_be(tmp_path: Path, sink: Sink, stream: str, why: str) -> None:
    done = run(tmp_path, "send", stream, "-", environ=URL)
    assert done.exit_code == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1 and "secret" not in done.stderr
    assert not sink.asked and not done.stdout


def test_a_standard_input_that_is_closed(tmp_path: Path) -> None:
    command = ["bash", "-c", f"{sys.executable} -m worker send kafka:orders <&-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, **URL})
    assert done.returncode == 2 and "there is no standard input" in done.stderr and "Traceback" not in done.stderr


def test_a_broker_that_refuses(tmp_path: Path, sink: Sink) -> None:
    (tmp_path / "lines").write_text("1\n2\n3\n")
    some = PublishError("the queue is full")
    some.refused = [2]
    sink.failures.append(some)
    done = run(tmp_path, "send", "kafka:orders", "lines", environ=URL)
    assert done.exit_code == 3 and done.stdout == "2 records confirmed by kafka:orders\n"
    assert "1 record not confirmed" in done.stderr and "the queue is full" in done.stderr
    sink.fail()
    done = run(tmp_path, "send", "kafka:orders", "lines", environ=URL)
    assert done.exit_code == 3 and "0 records confirmed" in done.stdout and "3 records not confirmed" in done.stderr


def test_a_stream_that_is_not_there(tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    def no() -> None:
        raise Refused("there is no topic orders")

    monkeypatch.setattr(sink, "open", no)
    (tmp_path / "lines").write_text("1\n")
    done = run(tmp_path, "send", "kafka:orders", "lines", environ=URL)
    assert done.exit_code == 3 and "there is no topic" in done.stderr and sink.closed == 1


def test_a_broker_that_starts_is_waited_for_and_one_that_does_not_is_given_up(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [Unavailable("nobody answers"), Unavailable("nobody answers")]

    def starts() -> None:
        if away:
            raise away.pop()

    monkeypatch.setattr("worker.send.PAUSE", 0.0)
    monkeypatch.setattr(sink, "open", starts)
    (tmp_path / "lines").write_text("1\n")
    done = run(tmp_path, "send", "kafka:orders", "lines", environ=URL)
    assert done.exit_code == 0 and done.stderr.count("nobody answers") == 1
    monkeypatch.setattr("worker.send.PATIENCE", 0.0)
    away.append(Unavailable("nobody answers"))
    assert run(tmp_path, "send", "kafka:orders", "lines", environ=URL).exit_code == 3


@pytest.fixture
def broker() -> Iterator[str]:
    """A Kafka that other processes can reach, and nobody else uses."""
    code = "import sys; from worker.testing import EmbeddedKafka; print(EmbeddedKafka().bootstrap, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.mark.embedded
def test_five_commands_from_an_empty_folder_to_a_handled_record(tmp_path: Path, broker: str) -> None:
    [commands] = re.findall(r"^## Five commands.*?^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = [line for line in commands.splitlines() if line]
    assert len(lines) == 5
    docker = tmp_path / "docker"  # which would start a Kafka at the port that somebody else may have here
    docker.write_text('#!/bin/sh\necho "$PWD: docker $*" >> "$DOCKER_LOG"\n')
    docker.chmod(0o755)
    here = tmp_path / "empty"
    here.mkdir()
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DOCKER_LOG": str(tmp_path / "docker.log"),
        "WORKER_CONNECTIONS__KAFKA": f"kafka://{broker}?allow.auto.create.topics=true",
    }
    with open(tmp_path / "out", "w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", commands + "\nwait"], cwd=here, env=environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(lambda: "order 1: 9.50 paid" in (tmp_path / "out").read_text(), why=lambda: (tmp_path / "out").read_text())
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(30)
    assert (tmp_path / "docker.log").read_text() == f"{here}/billing: docker compose up -d\n"
    assert "1 record confirmed by kafka:orders" in (tmp_path / "out").read_text()
