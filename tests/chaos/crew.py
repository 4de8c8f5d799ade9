"""The workers of a campaign: real processes that come, go, die and freeze, and what each was last seen doing."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.stage import Stage
from tests.integration.harness import WorkerProcess

ROOT = Path(__file__).parents[2]
STOPPING = 40.0
"""Seconds that a worker may take to stop; its drain is 3, and a client takes its time to leave a broker that is away."""
TIRED = 4
"""The exit code of a flood, and of dead letters that could not be published: somebody starts it again."""


@dataclass
class Hand:
    """One worker."""

    process: WorkerProcess
    number: int
    route: str
    told_to_stop: float | None = None
    killed: bool = False
    frozen: bool = False
    overdue: bool = False

    def __str__(self) -> str:
        return f"worker {self.number} ({self.route})"


@dataclass
class Crew:
    stage: Stage
    folder: Path
    settings: dict[str, str]
    """The environment of each."""
    hands: list[Hand] = field(default_factory=list)
    """Those who have not been told to stop."""
    leaving: list[Hand] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What no worker should do: crash, or not stop."""
    tired: int = 0
    """How often one stopped by itself because of dead letters."""
    _count: int = 0

    def hire(self) -> Hand:
        route = "ab"[self._count % 2]
        environ = self.settings | self.stage.environ(route) | {"PYTHONPATH": str(ROOT)}
        hand = Hand(WorkerProcess(self.folder, environ, self._count, app="tests.chaos.app:app", level="INFO"), self._count, route)
        self._count += 1
        self.hands.append(hand)
        return hand

    def dismiss(self, hand: Hand) -> None:
        """Orderly; others may come before it has gone."""
        hand.told_to_stop = time.monotonic()
        self.hands.remove(hand)
        self.leaving.append(hand)
        hand.process.terminate()

    def kill(self, hand: Hand) -> None:
        hand.killed = True
        hand.frozen = False  # else the end of its freeze would wake up a process that is gone
        self.hands.remove(hand)
        hand.process.kill()

    def freeze(self, hand: Hand) -> None:
        hand.frozen = True
        os.kill(hand.process.pid, signal.SIGSTOP)

    def thaw(self, hand: Hand) -> None:
        if hand.frozen:
            hand.frozen = False
            os.kill(hand.process.pid, signal.SIGCONT)

    def look(self) -> None:
        """Notes who has gone, and takes on another one for each that stopped by itself."""
        for hand in list(self.hands):
            if not hand.process.running:
                self.hands.remove(hand)
                self._gone(hand)
                self.hire()
        for hand in list(self.leaving):
            if not hand.process.running:
                self.leaving.remove(hand)
                self._gone(hand)
            elif not hand.overdue and time.monotonic() - (hand.told_to_stop or 0) > STOPPING:
                hand.overdue = True
                self.troubles.append(f"{hand} did not stop within {STOPPING:.0f} s")

    def _gone(self, hand: Hand) -> None:
        code = hand.process.process.returncode
        self.tired += code == TIRED
        # One that is told to stop before it has begun to listen for that dies of it, as any process.
        if code == 1 and hand.told_to_stop is not None and "could not be committed and come again" in hand.process.told():
            return  # cut off from the broker, and it says so
        if code not in ((0, TIRED, -signal.SIGTERM) if hand.told_to_stop is not None else (TIRED,)):
            last = hand.process.told().strip().splitlines()[-1:] or ["nothing"]
            self.troubles.append(f"{hand} exited with {code}: {last[0][:300]}")

    def close(self) -> None:
        for hand in [*self.hands, *self.leaving]:
            self.thaw(hand)
            if hand.process.running:
                hand.process.kill()
