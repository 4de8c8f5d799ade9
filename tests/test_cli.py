"""The command as a user meets it: help, and one helpful line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import commands
from worker import shown
from worker.deadletter import HEADERS
from worker.errors import count
from worker.interface import Partition, Record
from worker.letters import Letter, Overview, Selection
from worker.redrive import Moved

APP = """
from pydantic import BaseModel
from worker import App
app = App("shop", connections={"kafka": "kafka://localhost:9092"})
class Order(BaseModel):
    id: int
@app.handler("kafka:orders", batch_size=5)
def charge(orders: list[Order]) -> None: ...
"""


def worker(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "worker", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


def refused(folder: Path, *arguments: str) -> str:
    done = worker(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert str(Path(__file__).parent.parent / "worker") not in done.stderr, "a traceback of ours"
    return done.stderr


@pytest.mark.parametrize("command", ["run", "check", "demo"])
def test_help_has_an_example(tmp_path: Path, command: str) -> None:
    assert f"Example: worker {command}" in worker(tmp_path, command, "--help").stdout


def test_check_says_what_would_run_and_warns(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    done = worker(tmp_path, "check", "shop:app")
    assert done.returncode == 0
    assert "charge: orders of kafka://localhost:9092, group shop.charge" in done.stdout
    assert "batch_size = 5" in done.stdout and "an invalid value will stop this handler" in done.stdout
    told = json.loads(worker(tmp_path, "check", "shop.py", "--json", "--set", "handlers.charge.dead_letter=discard").stdout)
    assert (told[0]["group"], told[0]["warnings"], told[0]["dead_letter"]) == ("shop.charge", [], "discard")


def test_settings_that_cannot_work_exit_with_2(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    assert "--set" in refused(tmp_path, "check", "shop:app", "--set", "handlers.charge.batch_size=0")
    assert "max.poll" in refused(tmp_path, "check", "shop:app", "--set", "connections.kafka=kafka://h?max.poll.intervall.ms=1")
    assert "must be below 20 s" in refused(
        tmp_path, "run", "shop:app", "--set", "connections.kafka=kafka://h?max.poll.interval.ms=20000&session.timeout.ms=10000"
    )
    assert "did you mean charge?" in refused(tmp_path, "run", "shop:app", "--handler", "chrage")
    assert "broker" in refused(tmp_path, "check", "shop:app", "--set", "handlers.charge.dead_letter=broker")


def test_what_is_wrong_with_the_users_module_is_said_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "broken.py").write_text("x = 1\nraise ValueError('my own')\n")
    (tmp_path / "syntax.py").write_text("def (")
    (tmp_path / "missing.py").write_text("import no_such_module\n")
    assert "did you mean shop?" in refused(tmp_path, "run", "shpo:app")
    assert "it has shop:app" in refused(tmp_path, "run", "shop:application")
    assert "not a worker.App" in refused(tmp_path, "run", "shop:Order")
    told = refused(tmp_path, "run", "broken:app")
    assert "broken.py" in told and "line 2" in told and "my own" in told
    assert "SyntaxError" in refused(tmp_path, "run", "syntax:app")
    assert "no_such_module" in refused(tmp_path, "run", "missing:app")
    assert "no such file" in refused(tmp_path, "run", "nowhere.py:app")


def test_a_users_worker_py_is_told_to_change_its_name(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(APP)
    assert (
        "rename it"
        in subprocess.run(
            [str(Path(sys.executable).parent / "worker"), "run", "worker:app"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        ).stderr
    )


def test_a_broker_that_is_not_there_is_given_up_after_wait(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    done = worker(tmp_path, "run", "shop:app", "--json", "--wait", "0", "--set", "connections.kafka=kafka://127.0.0.1:1")
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("127.0.0.1:1" in line["message"] and line["level"] == "ERROR" for line in lines)


DEAD = APP.replace("batch_size=5", 'dead_letter="kafka:dead"')


@pytest.mark.parametrize(("place", "told"), [("discard", "discards its dead letters"), ("", "has no dead letters")])
def test_dead_letters_that_are_kept_nowhere(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "shop.py").write_text(DEAD)
    assert told in refused(tmp_path, "dead-letters", "list", "shop:app", "--set", f"handlers.charge.dead_letter={place}")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--rate", "nan", "no number"), ("--rate", "inf", "not in the range"), ("--rate", "0", "not in the range")]
    + [("--since", value, "is no time") for value in ("yesterday", "9" * 5_000 + "d", "9999999999999999-01-01")],
)
def test_options_that_make_no_sense_for_dead_letters(tmp_path: Path, option: str, value: str, told: str) -> None:
    (tmp_path / "shop.py").write_text(DEAD)
    assert told in refused(tmp_path, "dead-letters", "redrive", "shop:app", "charge", "--yes", option, value)


def test_since_ever(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(DEAD)
    told = refused(tmp_path, "dead-letters", "redrive", "shop:app", "charge", "--since", "99999999999d")
    assert "nobody is here to ask" in told


def test_only_one_of_several_handlers_has_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(DEAD)
    assert "nobody is here to ask" in refused(tmp_path, "dead-letters", "redrive", "shop:app")
    second = DEAD[DEAD.index("@app") :].replace("charge", "refund")
    (tmp_path / "shop.py").write_text(DEAD + second)
    told = refused(tmp_path, "dead-letters", "redrive", "shop:app")
    assert "shop:app has several handlers: name one of charge, refund" in told


def test_a_letter_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    headers = [(name, b"\x1b[2J") for name in (*HEADERS, "own\x1b[2J") if name not in ("dead_letter_time",)]
    one = Letter(Record(b"\x1b[2J", b"\x1b[2J", tuple(headers), None, 1, Partition("dead", 0)))
    shown.tell_letter(one, False)
    overview = Overview.of([one, Letter(Record(b"", b"", (), None, 2, Partition("dead", 0)))], Selection("\x1b[2J"))
    settings = SimpleNamespace(dead_letter=("kafka", "dead"), label="shop.charge")
    shown.tell_overview(settings, overview, False)  # type: ignore[arg-type]
    shown.tell_moved("redrive", Moved(strange=Counter({"\x1b[2J": 1}), refused=1, reason="\x1b[2J"), False)
    told = capsys.readouterr().out
    assert "2J" in told and "\x1b" not in told


def test_only_the_value_of_a_letter_has_lines(capsys: pytest.CaptureFixture[str]) -> None:
    evil = b"x\n  dead_letter_handler: forged"
    headers = [(name, evil) for name in (*HEADERS, "own\n  dead_letter_error")]
    shown.tell_letter(Letter(Record(b"line\nline", evil, tuple(headers), None, 1, Partition("dead\nx", 0))), False)
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == ["line", "line"] and not any(line.startswith("  dead_letter_handler: forged") for line in told)


STUCK = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from confluent_kafka import Producer
from worker.connectors import kafka_embedded
from worker import App
app = App("shop", connections={"kafka": "kafka://embedded"})

@app.lifespan
def order():
    producer = Producer({"bootstrap.servers": kafka_embedded.bootstrap()})
    producer.produce("orders", b"1")
    producer.flush()
    yield

def hang():
    print("hangs", flush=True)
    threading.Event().wait()

@app.handler("kafka:orders", drain=0.2, window=0.0)
def sync(values: list[bytes]):
    ThreadPoolExecutor(1).submit(hang).result()

@app.handler("kafka:orders", drain=0.2, window=0.0)
async def asynchronous(values: list[bytes]):
    await asyncio.to_thread(hang)

@app.handler("kafka:orders", drain=0.2, window=0.0, timeout=0.1, retries=0, dead_letter="discard")
def given_up(values: list[bytes]):
    ThreadPoolExecutor(1).submit(hang).result()
"""


BLOCKS = (
    STUCK.replace("@app.lifespan\ndef", "@app.lifespan\nasync def")
    + """
@app.handler("kafka:orders", window=0.0, timeout=0.2)
async def blocks(values: list[bytes]):
    hang()
"""
)


@pytest.mark.embedded
def test_a_blocked_event_loop_does_not_keep_the_process_for_its_lifespan(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(BLOCKS)
    done = worker(tmp_path, "run", "shop:app", "--handler", "blocks")
    assert done.returncode == 1 and "the event loop is blocked: the lifespan does not end" in done.stderr


@pytest.mark.embedded
@pytest.mark.parametrize("handler", ["sync", "asynchronous", "given_up"])
def test_a_call_that_never_returns_does_not_keep_the_process(tmp_path: Path, handler: str) -> None:
    (tmp_path / "shop.py").write_text(STUCK)
    command = [sys.executable, "-m", "worker", "run", "shop:app", "--handler", handler]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "hangs\n"
            process.terminate()
            told = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 0 and f"{handler}: a call has not returned" in told


@pytest.mark.parametrize("action", ["redrive", "discard"])
@pytest.mark.parametrize(
    ("moved", "code"), [(Moved(discarded=1), 0), (Moved(refused=1), 4), (Moved(stopped=True), 1), (Moved(unseen=1), 1)]
)
def test_what_a_command_over_letters_is_told_reaches_the_pass(
    action: str, moved: Moved, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(DEAD)
    made: list[tuple[Any, dict[str, Any]]] = []

    class Pass:
        stop = False

        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append((arguments, options))

        def run(self) -> Moved:
            return moved

    monkeypatch.setattr("worker.redrive.Pass", Pass)
    monkeypatch.setattr("worker.logs.configure", lambda **options: None)
    command = ["dead-letters", action, f"{tmp_path / 'shop.py'}:app", "charge", "--yes", "--limit", "7", "--rate", "2.5"]
    only = ["--error", "ValueError", "--partition", "3", "--id", "42", "--since", "1970-01-02T00:00:00+00:00"]
    again = ["--again", "5"] if action == "redrive" else []
    done = commands.run(tmp_path, *command, *only, *again, "--set", "handlers.charge.dead_letter=kafka:others")
    assert done.exit_code == code, done.output
    [((settings, selection, told), options)] = made
    assert selection == Selection("shop.charge", "ValueError", "3", 86_400.0, "42")
    assert (told, settings.dead_letter[1]) == (action, "others")
    assert (options["limit"], options["rate"], options["redrives"]) == (7, 2.5, 5 if again else 3)


def test_what_run_is_told_reaches_each_of_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "worker.toml").write_text("")
    made: list[tuple[Sequence[str], int, Sequence[str]]] = []

    def supervise(arguments: Sequence[str], processes: int, *, settings: Sequence[str]) -> int:
        made.append((arguments, processes, settings))
        return 0

    monkeypatch.setattr("worker.supervisor.supervise", supervise)
    monkeypatch.setattr("worker.logs.configure", lambda **options: None)
    where, file = f"{tmp_path / 'shop.py'}:app", str(tmp_path / "worker.toml")
    told = [
        "--handler",
        "charge",
        "--config",
        file,
        "--json",
        "--wait",
        "3.5",
        "--capture",
        str(tmp_path),
        "--log-level",
        "ERROR",
    ]
    done = commands.run(tmp_path, "run", where, "--processes", "3", "--set", "handlers.charge.window=1", *told)
    assert done.exit_code == 0, done.output
    [(arguments, processes, settings)] = made
    assert (processes, list(settings)) == (3, ["handlers.charge.window=1"])
    assert [*arguments[:2], *sorted(arguments[2:])] == ["run", where, *sorted(told)]


def test_a_letter_of_several_is_not_shown_as_if_it_were_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = (("dead_letter_handler", b"shop.charge"), ("dead_letter_attempts", b"1"))
    letters = [Letter(Record(b"%d" % n, None, headers, None, n, Partition("dead", 0))) for n in range(2)]
    monkeypatch.setattr("worker.letters.browse", lambda settings: iter(letters))
    (tmp_path / "h2shown.py").write_text(DEAD)
    told = commands.run(tmp_path, "dead-letters", "show", "h2shown.py")
    assert "there are more letters: --limit 10" in told.stderr and "after 1 call," in told.stdout
    for whole in (["--limit", "2"], ["--json"]):
        assert "--limit" not in commands.run(tmp_path, "dead-letters", "show", "h2shown.py", *whole).stderr


def test_counts_agree_with_their_words() -> None:
    assert [count(n, "try", "tries") for n in (0, 1, 2, 1_000)] == ["0 tries", "1 try", "2 tries", "1,000 tries"]


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "worker", "check", "shop:app"]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORKER_SET", "[oops"), ("WORKER_SET", "{}"), ("WORKER_PARENT_FD", "77"), ("WORKER_SUPERVISOR_FD", "x")],
)
def test_the_supervisors_variables_by_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.setenv(variable, value)
    told = refused(tmp_path, "run", "shop:app")
    assert variable in told and "unset it" in told and len(told.splitlines()) == 1


def test_passwords_of_set_are_not_inherited_by_what_the_app_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os; print(sorted(set(os.environ) & {'WORKER_SET'}), flush=True)"
    starts = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {program!r}])\n"
    (tmp_path / "shop.py").write_text(starts + APP)
    monkeypatch.setenv("WORKER_SET", '["handlers.charge.batch_size=7"]')
    done = worker(tmp_path, "check", "shop:app")
    assert done.stdout.startswith("[]") and "batch_size = 7" in done.stdout


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"import os; from worker.cli import main; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); main()"
    command = [sys.executable, "-P", "-c", script, "check", "shop:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "the current folder is gone" in done.stderr and len(done.stderr.splitlines()) == 1


def test_settings_beside_the_app_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "shop.py").write_text(APP)
    (tmp_path / "app" / "worker.toml").write_text("[handlers.charge]\nbatch_size = 7\n")
    done = worker(tmp_path, "check", "app/shop.py")
    assert done.returncode == 0 and "app/worker.toml is not read" in done.stderr
    (tmp_path / "worker.toml").symlink_to(tmp_path / "nowhere")
    assert "worker.toml: No such file" in refused(tmp_path, "check", "app/shop.py")
