"""Holds what the handlers did, the dead letters and the committed positions against what was produced."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.journal import HANDLED, NAMED, Call, Event
from tests.chaos.stage import Letter
from worker.interface import Partition

TAIL = 20.0
"""Seconds after a fault within which a repetition is its doing: to be missed, replaced, and to work off what waits."""
TICK = 0.001
"""Dead letters have times of whole milliseconds."""


class Happened(NamedTuple):
    """A fault as it was."""

    kind: str
    what: str
    begin: float
    end: float
    repeats: bool


class Sample(NamedTuple):
    """What the broker said was finished, at the latest then."""

    time: float
    positions: Mapping[Partition, int]


class Census(NamedTuple):
    """What the broker would have given out again, when there was no worker; and what it had been given until then."""

    time: float
    unsettled: Collection[str]
    confirmed: Collection[str]


@dataclass
class Evidence:
    """All that a campaign left behind."""

    log: Mapping[Partition, Sequence[str]]
    """The names of the records in the order of each partition."""
    confirmed: Collection[str]
    keys: Mapping[str, str]
    events: Sequence[Event]
    letters: Sequence[Letter]
    samples: Sequence[Sample] = ()
    censuses: Sequence[Census] = ()
    faults: Sequence[Happened] = ()


@dataclass
class Count:
    """The result."""

    produced: int = 0
    handled: int = 0
    dead_lettered: int = 0
    lost: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    """Records handled before one that lies in front of them in their partition."""
    disorder_of_keys: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    """Commits of what was not finished."""
    backwards: list[str] = field(default_factory=list)
    """Commits in front of an earlier one."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """By the fault that caused them."""

    @property
    def violations(self) -> dict[str, list[str]]:
        names = ("lost", "disorder", "disorder_of_keys", "beyond", "backwards")
        return {name: found for name in names if (found := getattr(self, name))}


class _Done(NamedTuple):
    """A record is handled, or dead."""

    time: float
    known: float
    """When, at the latest."""
    name: str
    call: Call | None


def reconcile(evidence: Evidence) -> Count:
    done = sorted(_done(evidence), key=lambda one: one.time)
    first: dict[str, float] = {}
    for one in done:
        first.setdefault(one.name, one.time)
    rank = {name: (place, at) for place, names in evidence.log.items() for at, name in enumerate(names)}
    existing = set(evidence.confirmed) | first.keys()
    count = Count(
        produced=len(evidence.confirmed),
        handled=sum(event.what == HANDLED for event in evidence.events),
        dead_lettered=len(evidence.letters),
        lost=sorted(set(evidence.confirmed) - first.keys(), key=lambda name: rank[name]),
    )
    _order(evidence, done, rank, existing, count)
    _commits(evidence, first, count)
    _repetitions(evidence, done, count)
    return count


def _done(evidence: Evidence) -> Iterable[_Done]:
    for event in evidence.events:
        if event.what == HANDLED:
            yield _Done(event.time, event.time, event.name, event.call)
    for letter in evidence.letters:
        yield _Done(letter.time, letter.time + TICK, letter.name, None)


def _order(
    evidence: Evidence,
    done: Sequence[_Done],
    rank: Mapping[str, tuple[Partition, int]],
    existing: Collection[str],
    count: Count,
) -> None:
    """What comes for the first time is the next one of its partition, or overtakes only what failed by name in the same call."""
    calls = _calls(evidence.events)
    time_of: dict[str, float] = {}
    for one in done:
        time_of.setdefault(one.name, one.time)
    waiting = {place: [name for name in names if name in existing] for place, names in evidence.log.items()}
    front = dict.fromkeys(waiting, 0)
    furthest: dict[str, int] = defaultdict(lambda: -1)
    for one in sorted(done, key=lambda one: one.known):
        if time_of.get(one.name) != one.time or one.name not in rank:
            continue  # a repetition
        place, at = rank[one.name]
        names = waiting[place]
        while front[place] < len(names) and time_of.get(names[front[place]], one.known + 1) <= one.known:
            front[place] += 1
        for name in names[front[place] :]:
            if rank[name][1] >= at:
                break
            if time_of.get(name, one.known + 1) > one.known and not _overtaken(calls, name, one):
                count.disorder.append(f"{one.name} of {place.stream}[{place.id}] before {name}")
                break
        key = evidence.keys[one.name]
        if at < furthest[key] and not any(one.name in failed for failed, _ in calls.values()):
            count.disorder_of_keys.append(f"{one.name} of key {key} too late")
        furthest[key] = max(furthest[key], at)


def _calls(events: Sequence[Event]) -> dict[Call, tuple[set[str], set[str]]]:
    """Of each call that named some: those that failed, and all others."""
    found: dict[Call, tuple[set[str], set[str]]] = {}
    for event in events:
        if event.what == NAMED:
            found.setdefault(event.call, (set(), set()))[0].add(event.name)
    for event in events:
        if event.what == HANDLED and event.call in found:
            found[event.call][1].add(event.name)
    return found


def _overtaken(calls: Mapping[Call, tuple[set[str], set[str]]], name: str, by: _Done) -> bool:
    """`{3: error}`: the rest of the batch is finished, 3 is tried again."""
    if by.call is not None:
        return by.call in calls and name in calls[by.call][0]
    return any(name in failed and (by.name in failed or by.name in others) for failed, others in calls.values())


def _commits(evidence: Evidence, first: Mapping[str, float], count: Count) -> None:
    furthest: dict[Partition, int] = {}
    # Of each partition the time by which its first n records were finished, for every n.
    times = {place: _running_maximum(first.get(name, float("inf")) for name in names) for place, names in evidence.log.items()}
    for sample in evidence.samples:
        for place, position in sample.positions.items():
            finished = bisect.bisect_right(times[place], sample.time)
            where = f"{place.stream}[{place.id}]"
            if position > finished:
                count.beyond.append(f"{where}: {position} committed, {finished} finished")
            if position < furthest.get(place, 0):
                count.backwards.append(f"{where}: {position} after {furthest[place]}")
            furthest[place] = position
    for census in evidence.censuses:
        settled = set(census.confirmed) - set(census.unsettled)
        if wrong := sorted(name for name in settled if first.get(name, float("inf")) > census.time):
            count.beyond.append(f"{len(wrong)} gone from the queue and not finished: {wrong[:5]}")


def _running_maximum(times: Iterable[float]) -> list[float]:
    latest, found = 0.0, []
    for time in times:
        latest = max(latest, time)
        found.append(latest)
    return found


def _repetitions(evidence: Evidence, done: Sequence[_Done], count: Count) -> None:
    seen: set[str] = set()
    for one in done:
        if one.name in seen:
            count.duplicates[_cause(evidence.faults, one.time)] += 1
        seen.add(one.name)


def _cause(faults: Sequence[Happened], time: float) -> str:
    """The last fault before it that can repeat something, else the last one of any kind."""
    near = [fault for fault in faults if fault.begin <= time <= fault.end + TAIL]
    for fault in reversed([fault for fault in near if fault.repeats] or near):
        return fault.kind
    return "nothing"
