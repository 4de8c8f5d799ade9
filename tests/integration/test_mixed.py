"""One app on three brokers: dead letters go from one to another, and a broker that is away stops nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import until
from worker.testing import ActiveMQContainer, KafkaContainer, RabbitMQContainer

pytestmark = pytest.mark.timeout(240)

APP = """
import os
from worker import App, Batch, Reject

app = App("mixed", connections={})
handled = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handle(name, values):
    failed = {i: Reject("bad") for i, value in enumerate(values) if value.startswith(b"bad")}
    good = [value for value in values if not value.startswith(b"bad")]
    os.write(handled, b"".join(name + b" " + value + b"\\n" for value in good))
    return failed

@app.handler("kafka:" + os.environ["TOPIC"], window=0.05, dead_letter="rabbitmq:" + os.environ["DEAD_QUEUE"])
def from_kafka(values: list[bytes]):
    return handle(b"kafka", values)

@app.handler("rabbitmq:" + os.environ["QUEUE"], window=0.05, dead_letter="kafka:" + os.environ["DEAD_TOPIC"])
def from_rabbitmq(values: list[bytes]):
    return handle(b"rabbitmq", values)

@app.handler("activemq:" + os.environ["OTHER"], window=0.05, dead_letter="kafka:" + os.environ["DEAD_TOPIC"])
def from_activemq(values: list[bytes]):
    return handle(b"activemq", values)
"""


class Mixed:
    def __init__(self, kafka: KafkaContainer, rabbitmq: RabbitMQContainer, activemq: ActiveMQContainer, folder: Path) -> None:
        self.kafka, self.rabbitmq, self.activemq = kafka, rabbitmq, activemq
        self.topic, self.dead_topic = kafka.topic("mixed"), kafka.topic("mixed-dead")
        self.queue, self.dead_queue, self.other = rabbitmq.queue("mixed"), rabbitmq.queue("dead"), activemq.queue("mixed")
        (folder / "mixed.py").write_text(APP)
        self.journal, self.log = folder / "handled", folder / "log"
        environ = {
            "WORKER_CONNECTIONS__KAFKA": kafka.url,
            "WORKER_CONNECTIONS__RABBITMQ": rabbitmq.url,
            "WORKER_CONNECTIONS__ACTIVEMQ": activemq.url,
            "HANDLED": str(self.journal),
            **{"TOPIC": self.topic, "DEAD_TOPIC": self.dead_topic, "QUEUE": self.queue},
            **{"DEAD_QUEUE": self.dead_queue, "OTHER": self.other},
        }
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "worker", "run", "mixed:app"]
            self.process = subprocess.Popen(command, cwd=folder, env=os.environ | environ, stdout=log, stderr=log)

    def put(self, *values: bytes) -> None:
        """Everywhere."""
        self.kafka.produce(self.topic, values, key=b"k")
        self.rabbitmq.produce(self.queue, values, key=b"k")
        self.activemq.produce(self.other, values, key=b"k")

    def handled(self) -> set[str]:
        return set(self.journal.read_text().splitlines()) if self.journal.exists() else set()

    def until(self, *lines: str) -> None:
        until(lambda: set(lines) <= self.handled(), why=lambda: f"{self.handled()}\n{self.log.read_text()[-3000:]}")


@pytest.fixture
def mixed(kafka: KafkaContainer, rabbitmq: RabbitMQContainer, activemq: ActiveMQContainer, tmp_path: Path) -> Iterator[Mixed]:
    made = Mixed(kafka, rabbitmq, activemq, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_three_brokers_in_one_process(mixed: Mixed) -> None:
    mixed.put(b"1", b"bad-1", b"2")
    mixed.until(*(f"{name} {number}" for name in ("kafka", "rabbitmq", "activemq") for number in "12"))
    until(lambda: len(mixed.kafka.read(mixed.dead_topic)) == 2 and mixed.rabbitmq.depth(mixed.dead_queue) == 1)
    [letter] = mixed.rabbitmq.read(mixed.dead_queue)
    told = dict(letter.headers)
    assert (letter.value, letter.key, told["dead_letter_stream"]) == (b"bad-1", b"k", mixed.topic.encode())
    streams = {dict(one.headers)["dead_letter_stream"] for one in mixed.kafka.read(mixed.dead_topic)}
    assert streams == {mixed.queue.encode(), mixed.other.encode()}
    assert {(one.value, one.key) for one in mixed.kafka.read(mixed.dead_topic)} == {(b"bad-1", b"k")}

    mixed.activemq.stop_broker()
    try:
        until(lambda: "from_activemq" in mixed.log.read_text() and "trying again" in mixed.log.read_text())
        mixed.kafka.produce(mixed.topic, [b"3"])
        mixed.rabbitmq.produce(mixed.queue, [b"3"])
        mixed.until("kafka 3", "rabbitmq 3")
    finally:
        mixed.activemq.start_broker()
    mixed.activemq.produce(mixed.other, [b"3"])
    mixed.until("activemq 3")
    mixed.process.terminate()
    assert mixed.process.wait(60) == 0, mixed.log.read_text()
    assert mixed.rabbitmq.read(mixed.queue) == [] and mixed.activemq.read(mixed.other) == []


def test_check_says_what_each_connection_is(tmp_path: Path) -> None:
    """Settings only: no broker is asked."""
    (tmp_path / "shop.py").write_text(
        "from worker import App, Batch\n"
        "app = App('shop', connections={'r': 'amqp://h', 'a': 'activemq://h', 'm': 'msk://h?region=eu-west-1'})\n"
        "for name in 'ram':\n"
        "    def handle(batch: Batch): ...\n"
        "    handle.__name__ = name\n"
        "    app.handler(name + ':orders')(handle)\n"
    )
    command = [sys.executable, "-m", "worker", "check", "shop:app", "--json"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout
    assert {one["connection"] for one in json.loads(told)} == {"amqp://h", "activemq://h", "msk://h"}
