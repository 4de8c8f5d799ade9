"""A change of the code as text: where, what, and what it breaks. No line numbers, so that other changes do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Mutant(NamedTuple):
    file: str
    old: str
    """Occurs once in the file."""
    new: str
    promise: str
    """That it breaks."""
    tests: str
    """Files of `tests/` that should notice first."""


def planted(mutant: Mutant, root: Path = ROOT) -> str:
    """The text of its file with the change; ValueError if that is not as the mutant says."""
    text = (root / mutant.file).read_text()
    if (count := text.count(mutant.old)) != 1:
        told = "is not there any more" if count == 0 else f"is there {count} times"
        raise ValueError(f"{mutant.file}: {mutant.old!r} {told}: mend the mutant ({mutant.promise})")
    return text.replace(mutant.old, mutant.new)
