"""Imports point one way, so that a connector, the core and the command can be read and changed alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"worker": "worker", "connectors": "worker.connectors"}
"""What the modules of a folder are called."""
INTERFACE = {"worker.interface", "worker.errors"}


def modules(folder: str, package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if (ROOT / folder / "connectors") not in path.parents:  # a link, to what has a folder of its own
            yield ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__"), path


MODULES = {name: path for folder, package in FOLDERS.items() for name, path in modules(folder, package)}


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All imports, wherever they stand, also those that only a type checker sees: a circle of those is one for the reader."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from statements(child)


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    found: set[str] = set()
    for statement in statements(ast.parse(MODULES[name].read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{name}: a relative import"
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(statement.module))
    return {module for module in found if module.split(".")[0] == "worker"}


def test_connectors_know_the_interface_only() -> None:
    for name in MODULES:
        if name.startswith("worker.connectors"):
            foreign = {module for module in imports(name) if not module.startswith("worker.connectors")} - INTERFACE
            assert not foreign, f"{name} imports {foreign}"


def test_the_core_knows_no_connector() -> None:
    for name in MODULES:
        if not name.startswith("worker.connectors"):
            found = {module for module in imports(name) if module.startswith("worker.connectors")}
            allowed = (
                set()
                if not name.startswith(("worker.demo", "worker.testing"))
                else {"worker.connectors.kafka_embedded", "worker.connectors.kafka_batch"}
            )
            assert found <= allowed, f"{name} imports {found}"


def test_nothing_imports_what_imports_it() -> None:
    TopologicalSorter({name: imports(name) for name in MODULES}).prepare()


@pytest.mark.parametrize(
    ("module", "allowed"),
    [("worker.errors", set()), ("worker.interface", {"worker.errors"}), ("worker.work", {"worker.interface", "worker.errors"})],
)
def test_what_everything_stands_on_stands_alone(module: str, allowed: set[str]) -> None:
    assert imports(module) <= allowed


@pytest.mark.parametrize(
    ("module", "above"),
    [
        ("worker.cli", {"worker.__main__"}),
        ("worker.supervisor", {"worker.cli"}),
        ("worker.demo", {"worker.cli"}),
        ("worker.run", {"worker.cli", "worker.demo", "worker.supervisor", "worker.testing.live"}),
        ("worker.loop", {"worker.threads", "worker.run", "worker.demo", "worker.testing.live"}),
    ],
)
def test_only_what_stands_above_imports_it(module: str, above: set[str]) -> None:
    assert {name for name in MODULES if module in imports(name)} <= above


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("worker", {"click", "confluent_kafka", "worker.connectors", "rich", "pydantic_settings"}),
        ("worker.testing", {"confluent_kafka", "worker.connectors", "docker", "hypothesis", "testcontainers"}),
    ],
)
def test_importing_does_not_load_what_may_not_be_there(module: str, absent: set[str]) -> None:
    told = f"import sys, {module}; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
