"""`make mutants`: plants each change in a copy of the checkout and runs the unit layer there, the tests that should notice first.

Exits with 1 if more of them go unnoticed than is allowed, with 2 if a change does not apply or the tests fail without one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.changes import MUTANTS
from tests.mutants.planting import ROOT, Mutant, planted

ALLOWED = 2
PATIENCE = "60"
"""Seconds that a test may take, a hundred times what it needs: a change may make it wait for ever."""
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--allowed", type=int, default=ALLOWED, help="how many may go unnoticed (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.names) - MUTANTS.keys():
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    chosen = {name: mutant for name, mutant in MUTANTS.items() if name in given.names or not given.names}
    try:
        for mutant in chosen.values():
            planted(mutant)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(given.jobs)]
        if (failed := copies[0].targeted({file for mutant in chosen.values() for file in mutant.tests.split()})) is not None:
            print(f"the tests fail without any change: {failed}", file=sys.stderr)
            return 2
        survived = plant_all(chosen, copies)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} were noticed; at most {given.allowed} may go unnoticed")
    return 1 if len(survived) > given.allowed else 0


def plant_all(chosen: dict[str, Mutant], copies: list[Copy]) -> list[str]:
    """Returns the names of those that nobody noticed."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def plant(name: str) -> str | None:
        copy = free.get()
        try:
            begun = time.monotonic()
            found = copy.noticed(chosen[name])
            told = "SURVIVED" if found is None else f"noticed by {found}"
            print(f"{name} ({time.monotonic() - begun:.0f} s): {told}", flush=True)
            return name if found is None else None
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        return [name for name in pool.map(plant, chosen) if name is not None]


class Copy:
    """Of the checkout; its code is what the tests import, and the processes that they start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(ROOT, folder, symlinks=True, ignore=LEFT_OUT)
        # What Python compiled is trusted by time and size, which a change may both keep.
        self._environ = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._environ.pop("CI", None)
        where = "import worker.connectors.kafka; print(worker.__file__, worker.connectors.kafka.__file__)"
        found = subprocess.run([sys.executable, "-c", where], env=self._environ, cwd=folder, capture_output=True, text=True)
        places = found.stdout.split()
        assert places and all(Path(one).is_relative_to(folder) for one in places), f"{found.stdout}{found.stderr}"

    def noticed(self, mutant: Mutant) -> str | None:
        """By which test."""
        file = self._folder / mutant.file
        before = file.read_text()
        try:
            file.write_text(planted(mutant, self._folder))
            return self.targeted(mutant.tests.split()) or self._whole()
        finally:
            file.write_text(before)

    def targeted(self, tests: set[str] | list[str]) -> str | None:
        return self._run(*sorted(f"tests/{name}" for name in tests))

    def _whole(self) -> str | None:
        """The unit layer; without the test that all changes apply, which one that is planted does not."""
        several = ["-n", "2"] if importlib.util.find_spec("xdist") else []
        return self._run("tests", "--ignore", "tests/test_mutants.py", *several)

    def _run(self, *arguments: str) -> str | None:
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", PATIENCE, "-m", "not docker and not embedded"]
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        done = subprocess.run(command, env=self._environ, cwd=self._folder, capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE) or re.search(r"(tests/\S+)", done.stdout)
        if done.returncode > 2 or found is None:
            raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return found[1]


if __name__ == "__main__":
    sys.exit(main())
