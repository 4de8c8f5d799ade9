"""`__all__` is the public API: sorted, complete, and importable."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import worker
import worker.testing


def imported(path: str) -> set[str]:
    """Every name that the module brings in from ours."""
    tree = ast.parse(Path(path).read_text())
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("worker.")
        for alias in node.names
    }


@pytest.mark.parametrize("module", [worker, worker.testing], ids=lambda module: module.__name__)
def test_all_is_sorted_complete_and_there(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) == imported(str(module.__file__))  # type: ignore[attr-defined]
    assert all(getattr(module, name).__module__.startswith("worker.") for name in names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Fake'"):
        worker.testing.Fake  # noqa: B018
