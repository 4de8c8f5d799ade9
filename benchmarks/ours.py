"""Our worker inside a measured process, as `worker run` makes it, and what can be seen of its client from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, ClassVar

from confluent_kafka import Consumer, Message

from benchmarks.peers.client import unique
from worker import App
from worker.connectors import kafka_source
from worker.run import Worker
from worker.settings import load


def worker(bootstrap: str, topic: str, handler: Callable[[Any], None], **options: Any) -> Worker:
    """One handler, all options at their defaults but those given."""
    app = App("bench", connections={"kafka": f"kafka://{bootstrap}"})
    app.handler(f"kafka:{topic}", **{"group": unique(), **options})(handler)
    return Worker(app, load(app, environ={}))


def run(made: Worker) -> None:
    if code := made.run():
        raise SystemExit(code)


class Watched(Consumer):
    """Notes when it is called and when it hands over a record. `watch()` puts it into our connector."""

    called = 0.0
    returned = 0.0
    """When a record came last."""
    longest_gap = 0.0
    """Seconds between two calls."""
    more: ClassVar[dict[str, Any]] = {}
    """What it is told besides what our connector says."""

    def __init__(self, config: dict[str, Any], **named: Any) -> None:
        super().__init__(config | Watched.more, **named)

    def poll(self, *arguments: Any, **named: Any) -> Message | None:
        self._note()
        message = super().poll(*arguments, **named)
        if message is not None:
            Watched.returned = time.perf_counter()
        return message

    def consume(self, *arguments: Any, **named: Any) -> list[Message]:
        self._note()
        return super().consume(*arguments, **named)

    def _note(self) -> None:
        now = time.perf_counter()
        if Watched.called:
            Watched.longest_gap = max(Watched.longest_gap, now - Watched.called)
        Watched.called = now


def watch(traffic: Traffic | None = None) -> None:
    if traffic is not None:
        Watched.more = traffic.client
    vars(kafka_source)["Consumer"] = Watched


class Traffic:
    """What librdkafka says it received."""

    def __init__(self) -> None:
        self.bytes = self.records = self.fetched = 0

    @property
    def client(self) -> dict[str, Any]:
        return {"statistics.interval.ms": 500, "stats_cb": self._heard}

    def _heard(self, text: str) -> None:
        told = json.loads(text)
        partitions = [p for topic in told["topics"].values() for p in topic["partitions"].values() if p["partition"] >= 0]
        self.bytes = told["rxmsg_bytes"]
        self.records = sum(p["rxmsgs"] for p in partitions)
        self.fetched = sum(max(0, p["next_offset"]) for p in partitions)
        """How far it got in the log: what was received beyond that was received twice."""
