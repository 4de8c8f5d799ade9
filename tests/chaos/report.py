"""What campaigns found, for people and for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Result


def table(results: Sequence[Result], console: Console) -> None:
    shown = Table("", *(f"{one.broker}, seed {one.seed}" for one in results))
    for name, values in _rows(results):
        shown.add_row(name, *values)
    console.print(shown)
    for one in results:
        for name, found in one.violations.items():
            for line in found[:5]:
                console.print(f"{one.broker}: {name}: {line}", style="red", markup=False)


def _rows(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    counts = [one.count for one in results]
    return [
        ("planted bug", [one.bug or "none" for one in results]),
        ("seconds", [f"{one.seconds:.0f}" for one in results]),
        ("faults", [str(len(one.faults)) for one in results]),
        ("of which", [_many(Counter(fault.kind for fault in one.faults)) for one in results]),
        ("produced", [str(one.produced) for one in counts]),
        ("handled", [str(one.handled) for one in counts]),
        ("dead letters", [str(one.dead_lettered) for one in counts]),
        ("lost", [str(len(one.lost)) for one in counts]),
        ("order violations of partitions", [str(len(one.disorder)) for one in counts]),
        ("order violations of keys", [str(len(one.disorder_of_keys)) for one in counts]),
        ("commits beyond finished", [str(len(one.beyond)) for one in counts]),
        ("commits backwards", [str(len(one.backwards)) for one in counts]),
        ("duplicates", [str(one.duplicates.total()) for one in counts]),
        ("of which after", [_many(one.duplicates) for one in counts]),
        ("stops because of dead letters", [str(one.tired) for one in results]),
        ("other troubles", [str(len(one.troubles)) for one in results]),
    ]


def _many(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.most_common())


def write(results: Sequence[Result], path: Path) -> None:
    path.write_text(json.dumps([_plain(one) for one in results], indent=1) + "\n")


def _plain(one: Result) -> dict[str, Any]:
    count = one.count
    return {
        "broker": one.broker,
        "seed": one.seed,
        "bug": one.bug,
        "seconds": one.seconds,
        "faults": [{**fault._asdict(), "begin": round(fault.begin, 3), "end": round(fault.end, 3)} for fault in one.faults],
        "skipped": one.skipped,
        "produced": count.produced,
        "handled": count.handled,
        "dead_lettered": count.dead_lettered,
        "lost": count.lost,
        "disorder": count.disorder,
        "disorder_of_keys": count.disorder_of_keys,
        "beyond": count.beyond,
        "backwards": count.backwards,
        "duplicates": dict(count.duplicates),
        "tired": one.tired,
        "troubles": one.troubles,
    }
