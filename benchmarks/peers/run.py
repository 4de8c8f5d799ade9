"""Starts a peer in a process of its own and takes what it measured."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.broker import Broker
from benchmarks.peers import environments
from benchmarks.peers.client import Spec, unique
from benchmarks.process import ROOT

PATIENCE = 180.0


@dataclass(frozen=True)
class Peer:
    """Somebody who reads from a broker."""

    name: str
    module: str
    """Below `benchmarks.peers`; without one it is a command that is not ours."""
    environment: str = ""
    speed: int = 1_000_000
    """About so many records a second: it reads fewer the slower it is."""
    environ: dict[str, str] = field(default_factory=dict)


class Running:
    """A peer at work."""

    def __init__(self, peer: Peer, spec: Spec) -> None:
        self.peer = peer
        self.began = time.time()
        self._errors: str | None = None
        command = [environments.python(peer.environment), "-W", "ignore", "-m", f"benchmarks.peers.{peer.module}"]
        self._process = subprocess.Popen(
            [*command, json.dumps(asdict(spec))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | peer.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def first(self) -> None:
        """Waits for its first record."""
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()).strip() != "first":
            if not line:
                raise RuntimeError(f"{self.peer.name} ended without a record: {self._failure()}")

    def stop(self) -> float:
        """SIGTERM; returns the seconds it then takes to end."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        return time.monotonic() - began

    def result(self) -> dict[str, Any]:
        try:
            written, self._errors = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise RuntimeError(f"{self.peer.name} did not end within {PATIENCE:.0f} s") from None
        told = [
            line[line.index("{") :] for line in written.splitlines() if '{"' in line
        ]  # Faust tells the terminal things before
        if self._process.returncode or not told:
            raise RuntimeError(f"{self.peer.name} ended with {self._process.returncode}: {self._failure()}")
        found: dict[str, Any] = json.loads(told[-1])
        return found | {"start_s": found.pop("first") - self.began}

    def _failure(self) -> str:
        if self._errors is None:
            assert self._process.stderr is not None
            self._errors = self._process.stderr.read()
        return self._errors[-800:]


def measure(peer: Peer, spec: Spec) -> dict[str, Any]:
    return Running(peer, spec).result()


# What is not Python


def kcat(broker: Broker, topic: str, records: int) -> dict[str, Any] | None:
    """kcat as a member of a group, with its librdkafka's own settings; the time until its first record is taken off."""
    if shutil.which("kcat") is None:
        return None

    def read(number: int) -> tuple[float, float]:
        settings = ["-X", "auto.offset.reset=earliest"]
        command = ["kcat", "-b", broker.bootstrap, "-q", "-f", "", *settings, "-c", str(number), "-G", unique(), topic]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=PATIENCE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    (wall, cpu), (first, first_cpu) = read(records), read(1)
    return {"records_per_second": records / (wall - first), "cpu_us_per_record": (cpu - first_cpu) / records * 1e6}


def java(broker: Broker, topic: str, records: int) -> dict[str, Any] | None:
    """Apache Kafka's ConsumerPerformance, inside the broker's container; its rate without the time of joining the group."""
    if broker.inside is None:
        return None
    tool = "java -cp '/opt/kafka/libs/*' org.apache.kafka.tools.ConsumerPerformance"
    told = f"--bootstrap-server localhost:9093 --topic {topic} --group {unique()} --num-records {records}"
    code, written = broker.inside(["sh", "-c", f"{tool} {told}"])
    lines = [line for line in written.splitlines() if line.count(",") >= 9]
    if code or len(lines) < 2:
        raise RuntimeError(f"{tool} ended with {code}: {written[-500:]}")
    names, figures = ([one.strip() for one in line.split(",")] for line in lines[:2])
    return {"records_per_second": float(figures[names.index("fetch.nMsg.sec")])}
