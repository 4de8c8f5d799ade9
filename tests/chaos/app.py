"""What the workers of a campaign run. A record's value says how it is to be handled, and a file how the handler feels."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests import bugs
from tests.chaos.journal import BEGUN, HANDLED, NAMED, Pen, name_of
from tests.waiting import until
from worker import App, Batch, Failed, Record, Reject

PAUSE = 0.02
"""Seconds a call takes if nothing else is said."""

bugs.plant(os.environ.get("CHAOS_BUG"))
app = App("chaos")
pen = Pen(os.environ["CHAOS_JOURNAL"])
calls = itertools.count()
tried: Counter[str] = Counter()


def mood() -> dict[str, Any]:
    """What the campaign tells: {"slow": seconds}, {"hang": true}, {"fail": true}, {"flood": true}, several of them or none."""
    with open(os.environ["CHAOS_MOOD"], encoding="utf-8") as file:
        told: dict[str, Any] = json.load(file)
    return told


@app.handler(*os.environ["CHAOS_STREAMS"].split(","))
def handle(batch: Batch) -> Mapping[int, Exception] | None:
    call, records = next(calls), list(batch)
    pen.write(BEGUN, call, batch, records[:1], len(records))
    told = mood()
    time.sleep(told.get("slow", PAUSE))
    if told.get("hang"):
        until(lambda: not mood().get("hang"), patience=math.inf)
        told = mood()
    if told.get("fail"):
        raise ConnectionError("told to fail")
    flood = bool(told.get("flood"))
    failing = dict.fromkeys(range(len(records)), Reject("told to flood")) if flood else _failing(records)
    kinds = [kind_of(records[i]) for i in failing]
    if "whole" in kinds and not flood:
        raise ValueError("a batch with this record fails")
    if flood or kinds[:1] == ["named"]:  # the rest of the batch goes on
        pen.write(NAMED, call, batch, [records[i] for i in failing])
        pen.write(HANDLED, call, batch, [record for i, record in enumerate(records) if i not in failing])
        return failing
    first = min(failing, default=len(records))
    pen.write(HANDLED, call, batch, records[:first])
    if failing:
        raise Failed(first) from failing[first]
    return None


def kind_of(record: Record[bytes]) -> str:
    return (record.value or b"").decode().split()[1]


def _failing(records: Sequence[Record[bytes]]) -> dict[int, Exception]:
    failing: dict[int, Exception] = {}
    for i, record in enumerate(records):
        kind = kind_of(record)
        if kind == "flaky":
            tried[name_of(record)] += 1
        if kind == "reject":
            failing[i] = Reject("told to reject")
        elif kind in ("poison", "named", "whole") or (kind == "flaky" and tried[name_of(record)] < 3):
            failing[i] = ValueError(f"told to be {kind}")
    return failing
