"""All planted changes still apply; what notices them is for `make mutants`."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.changes import MUTANTS
from tests.mutants.planting import ROOT, planted


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_applies(name: str) -> None:
    mutant = MUTANTS[name]
    changed = planted(mutant)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse((ROOT / mutant.file).read_text()))
    for test in mutant.tests.split():
        assert (ROOT / "tests" / test).exists()


def test_a_mutant_whose_text_is_gone_says_so() -> None:
    gone = next(iter(MUTANTS.values()))._replace(old="nobody wrote this")
    with pytest.raises(ValueError, match="'nobody wrote this' is not there any more: mend the mutant"):
        planted(gone)
    with pytest.raises(ValueError, match="times: mend the mutant"):
        planted(gone._replace(old="def "))
