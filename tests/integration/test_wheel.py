"""What users install: a wheel, in an environment of its own, beside whatever their project has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = """
import connectors
from worker import App

app = App("shop", connections={"k": "kafka://localhost:9092"})

@app.handler("k:orders")
def charge(values: list[bytes]) -> None: ...

assert connectors.MINE
"""


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=170)
    if done.returncode and "pip" in command and os.environ.get("CI") != "true":
        pytest.skip(f"nothing can be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.embedded  # by `worker demo`
@pytest.mark.timeout(400)
def test_a_project_may_have_a_package_called_connectors(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT, folder=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", wheel, folder=tmp_path)
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "app.py").write_text(APP)
    [told] = json.loads(run(python, "-m", "worker", "check", "app.py:app", "--json", folder=tmp_path))
    assert told["handler"] == "charge"
    done = json.loads(run(python, "-m", "worker", "demo", "--records", "2000", "--json", folder=tmp_path))
    assert done["lost"] == 0
