"""What is measured on RabbitMQ and ActiveMQ."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.peers import environments
from benchmarks.peers.queues import SIZE, connection
from benchmarks.peers.rounds import Measure, Row, Table, play
from benchmarks.process import ROOT

Say = Callable[[str], object]
KINDS = {"quorum": "RabbitMQ", "classic": "RabbitMQ", "persistent": "ActiveMQ", "non-persistent": "ActiveMQ"}
BATCH = {"RabbitMQ": 500, "ActiveMQ": 100}
PEERS = {
    "RabbitMQ": {
        "ours": ("ours", "", 1),
        "librabbitmq (C)": ("c", "", 1),
        "pika SelectConnection": ("select", "queues", 1),
        "aio-pika": ("aio_pika", "queues", 5),
        "FastStream": ("faststream", "faststream", 10),
        "Dramatiq": ("dramatiq", "dramatiq", 20),
    },
    "ActiveMQ": {"ours": ("ours", "", 1), "bare STOMP socket": ("socket", "", 1), "stomp.py": ("stomp_py", "queues", 1)},
}
"""Which function runs in which environment, and how many times fewer messages it reads."""


def measure(run: str, environment: str = "", **told: Any) -> dict[str, Any] | None:
    """None: it is not installed."""
    command = [
        environments.python(environment),
        "-W",
        "ignore",
        "-m",
        "benchmarks.peers.queues",
        json.dumps({"run": run, **told}),
    ]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    if done.returncode and ("ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr):
        return None
    if done.returncode:
        raise RuntimeError(f"{run} ended with {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def brokers() -> Iterator[dict[str, str]]:
    from worker.testing import ActiveMQContainer, RabbitMQContainer

    with ExitStack() as stack:
        yield {
            "RabbitMQ": stack.enter_context(RabbitMQContainer()).url,
            "ActiveMQ": stack.enter_context(ActiveMQContainer()).url,
        }


def _fill(kind: str, url: str, queue: str, messages: int) -> None:
    """A fresh queue with a few more messages than are read, so that the last batch need not wait for its window."""
    many = messages + 1_000
    if KINDS[kind] == "RabbitMQ":
        measure("letters", url=f"{url}?declare={kind}", queue=queue, messages=many, batch=1_000)
        return
    from worker.connectors.activemq_config import Login
    from worker.connectors.activemq_frames import encode
    from worker.connectors.activemq_link import Link

    link = Link(Login.of(connection(url)), beats=False)
    told = {"destination": f"/queue/{queue}", "persistent": str(kind == "persistent").lower(), "content-length": str(SIZE)}
    for _ in range(-(-many // 1_000)):
        link.write(encode("SEND", told, b"x" * SIZE) * 999)
        link.ask("SEND", told, b"x" * SIZE, timeout=60)
    link.close()


def run(rounds: int, messages: int, words: tuple[str, ...], say: Say) -> Iterator[Table]:
    with brokers() as urls:
        for kind, broker in KINDS.items():
            runs = {
                name: _consume(kind, urls[broker], which, environment, messages // fewer, BATCH[broker])
                for name, (which, environment, fewer) in PEERS[broker].items()
                if not words or any(word in name for word in words)
            }
            yield play(f"{broker}, {kind} queue, batches of {BATCH[broker]}", runs, rounds, say)
        yield _letters(urls["RabbitMQ"], rounds, messages, say)
        for kind in ("quorum", "persistent"):
            yield _sleeping(kind, urls[KINDS[kind]], 10 * messages, say)


def _consume(kind: str, url: str, which: str, environment: str, messages: int, batch: int) -> Measure:
    def measured() -> dict[str, Any] | None:
        queue = f"bench.{kind}.{which}.{time.time_ns()}"
        if which != "dramatiq":
            _fill(kind, url, queue, messages)
        return measure(which, environment, url=url, queue=queue, messages=messages, batch=batch)

    return measured


def _letters(url: str, rounds: int, messages: int, say: Say) -> Table:
    def many() -> dict[str, Any] | None:
        queue = f"bench.letters.{time.time_ns()}"
        return measure("letters", url=f"{url}?declare=quorum", queue=queue, messages=messages, batch=500)

    def single() -> dict[str, Any] | None:
        queue = f"bench.letters.{time.time_ns()}"
        measure("letters", url=f"{url}?declare=quorum", queue=queue, messages=1_000, batch=500)
        return measure("one_by_one", "queues", url=url, queue=queue, messages=messages, batch=500)

    return play("RabbitMQ, dead letters, each confirmed", {"ours": many, "BlockingConnection, one by one": single}, rounds, say)


def _sleeping(kind: str, url: str, messages: int, say: Say) -> Table:
    queue = f"bench.{kind}.sleeping.{time.time_ns()}"
    _fill(kind, url, queue, messages)
    found = measure("sleeping", url=url, queue=queue, messages=0, batch=BATCH[KINDS[kind]])
    assert found is not None
    title = f"{KINDS[kind]}, {kind}: memory over idle with {messages:,} waiting behind a handler that sleeps"
    say(f"{title}: {found['peak_over_idle_mib']:.1f} MiB")
    return Table(title, [Row("ours", [found])], figures=("peak_over_idle_mib",))
