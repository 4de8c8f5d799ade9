"""One campaign on one broker: faults by a seeded plan while records come in; then all is healed, worked off and counted."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from pika.exceptions import AMQPError

from tests.chaos.crew import STOPPING, Crew
from tests.chaos.faults import FAULTS, Fault, Planned, Scene, plan
from tests.chaos.journal import Journal
from tests.chaos.reconcile import Count, Evidence, Happened, Sample, reconcile
from tests.chaos.stage import Stage
from tests.waiting import moment

RATE = 200.0
"""Records a second."""
SAMPLED = 0.2
"""Seconds between two looks at the committed positions."""
DRAIN = 120.0
"""Seconds for what is left when all is healed."""
QUIET = 2.5
"""Seconds without a call of a handler, longer than any wait between two tries."""
UNREACHABLE = (KafkaException, AMQPError, OSError, EOFError)

SETTINGS = {
    "BATCH_SIZE": "50",
    "WINDOW": "0.05",
    "CONCURRENCY": "2",
    "RETRIES": "2",
    "BACKOFF": "0.05",
    "DRAIN": "3",
    "COMMIT_INTERVAL": "0.3",
    "DEAD_LETTER": "dead:{dead}",
    # Shorter than the longest cut, so that a worker gives up before its letters are through.
    "DEAD_LETTER_TIMEOUT": "2",
}


@dataclass
class Result:
    """What a campaign found."""

    broker: str
    seed: int
    bug: str | None
    seconds: float
    faults: list[Happened]
    count: Count
    troubles: list[str]
    """Workers that crashed or did not stop, and an end that was not reached."""
    tired: int
    skipped: int
    """Faults for which there was nothing to break just then."""

    @property
    def violations(self) -> dict[str, list[str]]:
        return self.count.violations | ({"troubles": self.troubles} if self.troubles else {})


class Sampler(threading.Thread):
    """Asks the broker all the time how far it believes everything is finished."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="sampler", daemon=True)
        self.samples: list[Sample] = []
        self._stage = stage
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(SAMPLED):
            if positions := self._stage.positions():
                self.samples.append(Sample(time.time(), positions))

    def finish(self) -> None:
        self._enough.set()
        if self.is_alive():
            self.join(10)


class _UnderWay(NamedTuple):
    until: float
    fault: Fault
    happened: Happened


@dataclass
class Campaign:
    broker: str
    stage: Stage
    folder: Path
    seed: int
    seconds: float
    least: int
    """Faults."""
    kinds: Sequence[str] = tuple(FAULTS)
    bug: str | None = None
    enough: int = 0
    """Records that the broker must have confirmed before all is healed: on a busy machine that takes longer than `seconds`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the handler, besides `SETTINGS`."""
    tell: Callable[[str], object] = lambda line: None
    happened: list[Happened] = field(default_factory=list)
    skipped: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.plan = plan(rng, self.broker, self.seconds, self.least, list(self.kinds))
        # The fuse of half of the campaigns never blows: there a flood goes on and on.
        settings = {name: value.format(dead=self.stage.dead) for name, value in SETTINGS.items()}
        settings["FLOOD"] = rng.choice(["1", "0.5"])
        settings |= {name.upper(): value for name, value in self.options.items()}
        environ = {f"WORKER_HANDLERS__HANDLE__{name}": value for name, value in settings.items()}
        environ |= {"CHAOS_JOURNAL": str(self.folder / "journal"), "CHAOS_MOOD": str(self.folder / "mood")}
        environ |= {"CHAOS_BUG": self.bug or ""}
        self.journal = Journal(self.folder / "journal")
        self.load = self.stage.load(rng.randrange(1 << 30), RATE)
        self.crew = Crew(self.stage, self.folder, environ)
        self.scene = Scene(self.stage, self.crew, self.load, self.folder / "mood")
        self.sampler = Sampler(self.stage)
        self._under_way: list[_UnderWay] = []
        self._busy = (-1, 0.0)
        """How many events there were, and when that was last not the end of it."""

    def run(self) -> Result:
        started = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self.crew.close)
            stack.callback(self.sampler.finish)
            stack.callback(self.stage.heal)
            self.load.start()
            self.sampler.start()
            for _ in range(3):
                self.crew.hire()
            self._until(lambda: self.journal.read() and self.journal.handled, 60.0)
            self._break_things()
            self._heal()
            troubles = list(self._wind_down())
        return Result(
            self.broker,
            self.seed,
            self.bug,
            round(time.monotonic() - started, 1),
            self.happened,
            reconcile(self._evidence()),
            [*self.crew.troubles, *troubles],
            self.crew.tired,
            self.skipped,
        )

    def _break_things(self) -> None:
        started = time.monotonic()
        for planned in self.plan:
            self._wait(planned.gap)
            self._begin(planned)
        self._wait(started + self.seconds - time.monotonic())
        self._until(lambda: len(self.load.confirmed) >= self.enough, 60.0)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= until, math.inf)

    def _until(self, condition: Callable[[], object], patience: float) -> bool:
        """Meanwhile faults end when it is their time, and workers that stopped are replaced."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self._end([one for one in self._under_way if one.until <= time.monotonic()])
            self.crew.look()
            moment()
        return True

    def _begin(self, planned: Planned) -> None:
        kind = FAULTS[planned.kind]
        self._end([one for one in self._under_way if type(one.fault) is kind or (kind.broker and one.fault.broker)])
        fault = kind(self.scene, planned.pick)
        begin = time.time()
        what = fault.begin()
        if what is None:
            self.skipped += 1
            return
        self.tell(f"{planned.kind}: {what}, {planned.seconds:.1f} s")
        happened = Happened(planned.kind, what, begin, begin, fault.repeats)
        self._under_way.append(_UnderWay(time.monotonic() + planned.seconds, fault, happened))

    def _end(self, some: Sequence[_UnderWay]) -> None:
        for one in some:
            self._under_way.remove(one)
            one.fault.end()
            self.happened.append(one.happened._replace(end=time.time()))

    def _heal(self) -> None:
        self._end(list(self._under_way))
        self.stage.heal()
        while len(self.crew.hands) < 2:
            self.crew.hire()

    def _wind_down(self) -> Iterator[str]:
        """Tells what does not end as it should."""
        self.load.finish()
        if not self._until(self._worked_off, DRAIN):
            yield f"not worked off {DRAIN:.0f} s after all was healed"
        for hand in list(self.crew.hands):
            self.crew.dismiss(hand)
        self._until(lambda: not self.crew.leaving, STOPPING + 5)
        if not self._until(lambda: self._asked(self.stage.settled), 20.0):
            yield "the broker would deliver some again"

    def _worked_off(self) -> bool:
        """Nothing waits, and for a while nobody has handled anything: what a worker holds may be tried again."""
        events = len(self.journal.read())
        now = time.monotonic()
        if events != self._busy[0] or not self._asked(self.stage.empty):
            self._busy = (events, now)
        return now - self._busy[1] > QUIET

    def _asked(self, question: Callable[[], bool]) -> bool:
        try:
            return question()
        except UNREACHABLE:
            return False

    def _evidence(self) -> Evidence:
        return Evidence(
            self.stage.log(self.load),
            self.load.confirmed,
            {one.name: one.key for one in self.load.sent},
            self.journal.read(),
            self.stage.letters(),
            self.sampler.samples,
            self.scene.censuses,
            sorted(self.happened, key=lambda one: one.begin),
        )
