"""What a campaign does to workers, connections, brokers and handlers. Each fault begins, lasts for a while, and is undone."""

from __future__ import annotations

import json
import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests.chaos.crew import Crew, Hand
from tests.chaos.producer import Load
from tests.chaos.reconcile import Census
from tests.chaos.stage import Stage
from tests.waiting import moment

MOST, FEWEST = 4, 1
"""Workers."""
SESSION = 6.0
"""Seconds after which a Kafka group, or twice the heartbeats of a queue, has missed a worker."""


@dataclass
class Scene:
    """What there is to break."""

    stage: Stage
    crew: Crew
    load: Load
    mood_file: Path
    mood: dict[str, Any] = field(default_factory=dict)
    censuses: list[Census] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feel()

    def feel(self, **changes: Any) -> None:
        """How all handlers behave from their next call on; None: as usual."""
        self.mood = {name: value for name, value in (self.mood | changes).items() if value is not None}
        written = self.mood_file.with_suffix(".new")
        written.write_text(json.dumps(self.mood))
        written.replace(self.mood_file)  # a handler must not read half of it

    def hands(self) -> list[Hand]:
        """Those that can be told something."""
        return [hand for hand in self.crew.hands if not hand.frozen]


@dataclass
class Planned:
    """A fault of a seed: all that it leaves to chance."""

    gap: float
    """Seconds after the one before it has begun."""
    kind: str
    seconds: float
    pick: float
    """Which one of those there are then, as a share."""


class Fault(ABC):
    """`begin` says what it did, or None if there was nothing to be done."""

    seconds: ClassVar[tuple[float, float]] = (1.0, 3.0)
    repeats: ClassVar[bool] = True
    """What was handled may be handled again because of it."""
    only: ClassVar[str | None] = None
    """The broker that has it."""
    broker: ClassVar[bool] = False
    """Needs a broker that answers, or takes it away: one of these at a time."""

    def __init__(self, scene: Scene, pick: float) -> None:
        self.scene = scene
        self.pick = pick

    @abstractmethod
    def begin(self) -> str | None: ...

    def end(self) -> None:
        """By default nothing is left to be undone."""
        return

    def one(self) -> Hand | None:
        """A worker."""
        hands = self.scene.hands()
        return hands[int(self.pick * len(hands))] if hands else None

    def route(self) -> str:
        return "ab"[int(self.pick * 2)]


class Kill(Fault):
    """SIGKILL; somebody else comes later."""

    def begin(self) -> str | None:
        hand = self.one()
        if hand is None:
            return None
        self.scene.crew.kill(hand)
        return str(hand)

    def end(self) -> None:
        if len(self.scene.crew.hands) < 2:
            self.scene.crew.hire()


class Massacre(Fault):
    """SIGKILL of all at once. What is still at the broker then, and what is not, can be counted."""

    broker = True
    seconds = (0.1, 1.0)

    def begin(self) -> str | None:
        crew, stage, load = self.scene.crew, self.scene.stage, self.scene.load
        for hand in list(crew.hands):
            crew.kill(hand)
        for hand in list(crew.leaving):
            hand.process.kill()
            crew.leaving.remove(hand)
        confirmed, deadline = set(load.confirmed), time.monotonic() + SESSION
        while (unsettled := stage.unsettled()) is None and time.monotonic() < deadline:
            moment()
        if unsettled is not None:
            self.scene.censuses.append(Census(time.time(), unsettled, confirmed))
        return "all workers" + ("" if unsettled is None else f", {len(unsettled)} records left")

    def end(self) -> None:
        while len(self.scene.crew.hands) < 2:
            self.scene.crew.hire()


class Zombie(Fault):
    """SIGSTOP until it is missed and replaced, then SIGCONT."""

    seconds = (SESSION + 2, SESSION + 5)

    def begin(self) -> str | None:
        self.hand = self.one()
        if self.hand is None:
            return None
        self.scene.crew.freeze(self.hand)
        if not self.scene.hands():
            self.scene.crew.hire()
        return str(self.hand)

    def end(self) -> None:
        if self.hand is not None:
            self.scene.crew.thaw(self.hand)


class Nap(Zombie):
    """SIGSTOP, not so long that anybody notices."""

    seconds = (0.5, 3.0)


class Connection(Fault):
    """Of all workers that take one route."""

    def begin(self) -> str | None:
        self.proxy = self.scene.stage.routes[self.route()]
        self.proxy.restore()
        self.disturb()
        return f"route {self.route()}"

    @abstractmethod
    def disturb(self) -> None: ...

    def end(self) -> None:
        self.proxy.restore()


class Cut(Connection):
    seconds = (0.2, 4.0)

    def disturb(self) -> None:
        self.proxy.cut()


class Silence(Connection):
    """A cable that was pulled."""

    seconds = (2.0, SESSION + 4)

    def disturb(self) -> None:
        self.proxy.silence()


class HalfClose(Connection):
    """What the workers say arrives, what the broker says does not; or the other way round."""

    seconds = (2.0, SESSION + 4)

    def disturb(self) -> None:
        self.proxy.silence("upstream" if self.pick * 2 % 1 < 0.5 else "downstream")


class Delay(Connection):
    seconds = (3.0, 6.0)

    def disturb(self) -> None:
        self.proxy.delay(0.3 + self.pick)


class DeadCut(Connection):
    """Dead letters find no broker."""

    seconds = (1.0, 8.0)

    def route(self) -> str:
        return "dead"

    def disturb(self) -> None:
        self.proxy.cut()


class DeadDelay(DeadCut):
    def disturb(self) -> None:
        self.proxy.delay(1 + self.pick)


class Restart(Fault):
    """An orderly restart of the broker."""

    broker = True

    def begin(self) -> str | None:
        self.scene.stage.stop_broker()
        return "stopped"

    def end(self) -> None:
        self.scene.stage.broker.start_broker()


class Crash(Restart):
    """SIGKILL of the broker."""

    def begin(self) -> str | None:
        self.scene.stage.broker.kill_broker()
        return "killed"


class Join(Fault):
    """A worker more."""

    repeats = False

    def begin(self) -> str | None:
        if len(self.scene.crew.hands) >= MOST:
            return None
        return str(self.scene.crew.hire())


class Leave(Fault):
    """A worker less, orderly."""

    repeats = False

    def begin(self) -> str | None:
        hand = self.one()
        if hand is None or len(self.scene.hands()) <= FEWEST:
            return None
        self.scene.crew.dismiss(hand)
        return str(hand)


class Grow(Fault):
    """A partition more."""

    repeats = False
    broker = True
    only = "kafka"

    def begin(self) -> str | None:
        return f"{len(self.scene.stage.places)} partitions" if self.scene.stage.grow() else None


class Alarm(Fault):
    """The broker has no memory for what is published."""

    repeats = False
    broker = True
    seconds = (2.0, 6.0)
    only = "rabbitmq"

    def begin(self) -> str | None:
        return "raised" if self.scene.stage.alarm(True) else None

    def end(self) -> None:
        self.scene.stage.alarm(False)


class Mood(Fault):
    """Of every handler."""

    mood: ClassVar[dict[str, Any]]

    def begin(self) -> str | None:
        self.scene.feel(**self.mood)
        return "all handlers"

    def end(self) -> None:
        self.scene.feel(**dict.fromkeys(self.mood))


class Slow(Mood):
    repeats = False
    seconds = (2.0, 6.0)
    mood: ClassVar = {"slow": 0.5}


class Hang(Mood):
    """Longer than a drain waits, if it comes to one."""

    seconds = (2.0, 7.0)
    mood: ClassVar = {"hang": True}


class Fail(Mood):
    """Until dead letters flood."""

    repeats = False
    seconds = (0.5, 2.0)
    mood: ClassVar = {"fail": True}


class Flood(Mood):
    seconds = (1.0, 3.0)
    mood: ClassVar = {"flood": True}


FAULTS: dict[str, type[Fault]] = {
    "kill": Kill,
    "massacre": Massacre,
    "zombie": Zombie,
    "nap": Nap,
    "cut": Cut,
    "silence": Silence,
    "half-close": HalfClose,
    "delay": Delay,
    "dead-cut": DeadCut,
    "dead-delay": DeadDelay,
    "restart": Restart,
    "crash": Crash,
    "join": Join,
    "leave": Leave,
    "grow": Grow,
    "alarm": Alarm,
    "slow": Slow,
    "hang": Hang,
    "fail": Fail,
    "flood": Flood,
}


def plan(rng: random.Random, broker: str, seconds: float, least: int, kinds: list[str]) -> list[Planned]:
    """At least `least` faults within `seconds`: every kind comes once before any comes again."""
    pace = seconds / (least + 1)
    planned: list[Planned] = []
    deck: list[str] = []
    while len(planned) < least:
        deck = deck or _shuffled(rng, [kind for kind in kinds if FAULTS[kind].only in (None, broker)])
        kind = deck.pop()
        planned.append(Planned(pace * rng.uniform(0.5, 1.5), kind, rng.uniform(*FAULTS[kind].seconds), rng.random()))
    return planned


def _shuffled(rng: random.Random, kinds: list[str]) -> list[str]:
    deck = [kind for kind in kinds for _ in range(2 if kind in ("kill", "join") else 1)]
    rng.shuffle(deck)
    return deck
