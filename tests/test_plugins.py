"""Connectors are found by entry points, so anybody can add one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.errors import ConfigError
from worker.plugins import connector

CONNECTOR = """
from worker.testing import FakeSink, FakeSource
def source(options): return FakeSource()
def sink(options): return FakeSink()
"""
APP = """
from worker import App
app = App("third", connections={"tape": "tape://drive:1"})
@app.handler("tape:reel")
def read(values: list[bytes]) -> None: ...
"""


def install(folder: Path, scheme: str, module: str, code: str) -> None:
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[worker.connectors]\n{scheme} = {module}\n")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "third.py").write_text(APP)
    return subprocess.run(
        [sys.executable, "-m", "worker", "check", "third:app"], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_an_installed_package_adds_a_connector(tmp_path: Path) -> None:
    install(tmp_path, "tape", "tape_connector", CONNECTOR)
    done = check(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "read: reel of tape://drive:1, group third.read" in done.stdout


def test_what_it_misses_is_named(tmp_path: Path) -> None:
    install(tmp_path, "tape", "tape_connector", "import no_such_client")
    done = check(tmp_path)
    assert done.returncode == 2
    assert "no_such_client" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_scheme_names_the_installed_ones() -> None:
    with pytest.raises(ConfigError, match="kafka"):
        connector("carrier-pigeon")


def test_two_packages_for_one_scheme_are_refused(tmp_path: Path) -> None:
    install(tmp_path, "tape", "worker_tape", CONNECTOR)
    install(tmp_path, "tape", "worker_reel", CONNECTOR)
    done = check(tmp_path)
    assert done.returncode == 2 and "tape://, worker_reel and worker_tape: uninstall one" in done.stderr
