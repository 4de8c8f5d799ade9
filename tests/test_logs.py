"""Log lines: who is told what."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from worker import logs
from worker.interface import Partition
from worker.plain import PlainBatch
from worker.testing import batch


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    before, level = logging.getLogger().handlers[:], logging.getLogger().level
    ours = logging.getLogger("worker").level
    yield
    logging.getLogger("worker").setLevel(ours)
    logging.getLogger().handlers[:] = before
    logging.getLogger().setLevel(level)


def written(*, as_json: bool, inside: bool) -> str:
    stream = io.StringIO()
    logs.configure(as_json=as_json, stream=stream)
    token = logs.running.set(("charge", batch(b"a", b"b", start=7)) if inside else None)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("shop").warning("of the user's: %s", "x", exc_info=as_json)
    logs.running.reset(token)
    return stream.getvalue()


def test_a_users_line_inside_a_handler_says_for_which_records() -> None:
    line = json.loads(written(as_json=True, inside=True))
    assert {name: line[name] for name in ("level", "logger", "message", "handler", "partition", "first", "last")} == {
        "level": "WARNING",
        "logger": "shop",
        "message": "of the user's: x",
        "handler": "charge",
        "partition": "orders[0]",
        "first": 7,
        "last": 8,
    }
    assert line["time"].endswith("Z") and "ZeroDivisionError" in line["exception"]
    assert "(charge orders[0] 7-8)" in written(as_json=False, inside=True)


def test_outside_it_does_not() -> None:
    assert "handler" not in json.loads(written(as_json=True, inside=False))


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def line(stream: io.StringIO) -> str:
        logs.configure(as_json=False, stream=stream)
        logging.getLogger("shop").error("x")
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in line(Terminal()) and "\x1b[" not in line(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in line(Terminal())


EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b\u202e\r\n07:00:00 ERROR   billing: 9000 dead letters"


@pytest.mark.parametrize("name", ["worker", "shop"])
def test_nothing_of_a_record_is_written_raw(name: str) -> None:
    stream = io.StringIO()
    logs.configure(as_json=False, stream=stream)
    token = logs.running.set((EVIL, PlainBatch(Partition(EVIL, EVIL), [(b"", None, (), None, EVIL, {})])))
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.getLogger(name).error("it says %s", EVIL, exc_info=True)
    logs.running.reset(token)
    told = stream.getvalue()
    assert not any(c in told for c in "\x1b\x07\x9b\u202e\r") and "9000 dead letters" in told
    assert [line for line in told.splitlines() if not line.startswith("    ")] == told.splitlines()[:1]


CONFIGURES = [
    {"version": 1, "handlers": {"c": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["c"], "level": "INFO"}},
    {"version": 1, "handlers": {"c": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["c"], "level": "CRITICAL"}},
    {"version": 1, "root": {"level": "ERROR"}},
    {"version": 1},
]
SCRIPT = """
import logging, logging.config, sys
from worker import logs
import worker.deadletter
logs.configure(as_json=False)
import worker.connectors.activemq_source
logs.hear()
{code}
logging.getLogger("worker").warning("heard %d", 1)
logging.getLogger("worker.activemq").error("heard %d", 2)
"""


@pytest.mark.parametrize(
    "code",
    [
        *(f"logging.config.dictConfig({told})" for told in CONFIGURES),
        "logging.disable(logging.CRITICAL)",
        "logging.getLogger().handlers.clear()",
        "logging.basicConfig(force=True, level='CRITICAL')",
        "logging.getLogger().setLevel('CRITICAL')",
        "logging.getLogger('worker').disabled = True",
    ],
)
def test_warnings_and_errors_are_heard_however_logging_is_configured(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(code=code)], capture_output=True, text=True, timeout=60)
    assert done.stderr.count("heard") == 2, done.stderr


def test_a_closed_stderr_is_no_error() -> None:
    code = "import sys; sys.stderr = None; from worker import logs; logs.configure(as_json=False)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
