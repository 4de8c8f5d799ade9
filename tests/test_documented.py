"""The Python of README and docs is run as it is printed: apps are checked, tests pass, and everything else at least runs.

A block that begins with `# NAME.py` is that file; those of README are there for the other pages, too.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run
from worker.capture import Capture
from worker.interface import Partition
from worker.plain import PlainBatch
from worker.work import Outcome

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> dict[str, str]:
    """By the name of their file."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == page.read_text().count("```python"), f"{page.name}: a block that is not found"
    named = {}
    for number, code in enumerate(found):
        match = re.match(r"# (\w+\.py)\n", code)
        named[match[1] if match else f"block_{number}.py"] = code
    assert len(named) == len(found), f"{page.name}: two blocks are one file"
    return named


def examples() -> list[object]:
    return [
        pytest.param(page, name, id=f"{page.name}-{name}", marks=[pytest.mark.embedded] if "EmbeddedKafka" in code else [])
        for page in PAGES
        for name, code in blocks(page).items()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With what a reader of the page has: the first example, and a batch that was captured."""
    for name, code in blocks(README).items():
        (tmp_path / name).write_text(code)
    good = PlainBatch(Partition("orders", 0), [(b'{"id": 1, "total": 2.5}', None, (), None, 7, {})])
    Capture(tmp_path / "tests", "billing", "charge", True)(good, Outcome(whole=ConnectionError("away")))
    [captured] = (tmp_path / "tests").iterdir()
    captured.rename(tmp_path / "tests" / "tuesday.batch.json")
    return tmp_path


@pytest.mark.parametrize(("page", "name"), examples())
def test_an_example_does_what_its_page_says(page: Path, name: str, folder: Path) -> None:
    for other, code in blocks(page).items():
        (folder / other).write_text(code)
    code = blocks(page)[name]
    if name.startswith("test_"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
    elif "App(" in code:
        checked = run(folder, "check", name)
        assert checked.exit_code == 0, checked.stderr
    else:
        runpy.run_path(str(folder / name))
