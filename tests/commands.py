"""Runs `worker ...` inside the test's process, where what matters is what the command does and not that it is a process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from worker.cli import cli


def run(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Result:
    """As in a shell that stands in `folder`: `exit_code`, `stdout`, `stderr`."""
    with chdir(folder), fresh(folder):
        return CliRunner().invoke(cli, arguments, env=environ, catch_exceptions=False)


@contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """Gives back what a command changes in its process: the import path, the modules of `folder`, where log lines go."""
    root, worker = logging.getLogger(), logging.getLogger("worker")
    handlers, levels = root.handlers[:], (root.level, worker.level)
    path, modules = sys.path[:], set(sys.modules)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        worker.setLevel(levels[1])
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == folder:
                del sys.modules[name]
