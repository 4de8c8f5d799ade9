"""What `worker new` writes: an app, its broker, its settings and its test."""

from __future__ import annotations

import re
from pathlib import Path

from worker.errors import ConfigError

APP = '''\
from pydantic import BaseModel
from worker import App

app = App("NAME", connections={"kafka": "kafka://localhost:9092"})


class Order(BaseModel):
    id: int
    total: float


def pay(order: Order) -> None:
    """Stands for your bank, which may fail."""
    if order.total < 0:
        raise ValueError(f"order {order.id}: a negative total")
    print(f"order {order.id}: {order.total:.2f} paid", flush=True)


@app.handler("kafka:orders", batch_size=500, window=0.5, retries=5, dead_letter="kafka:orders.dead")
def charge(orders: list[Order]) -> dict[int, Exception]:
    failed: dict[int, Exception] = {}
    for index, order in enumerate(orders):
        try:
            pay(order)
        except Exception as error:
            failed[index] = error  # this order alone is tried again, and is a dead letter after 5 retries
    return failed
'''

TEST = """\
from worker.testing import call

from app import charge


def test_a_good_order_is_paid():
    assert call(charge, [b'{"id": 1, "total": 9.5}']).finished == [0]


def test_a_bad_one_costs_no_other():
    ended = call(charge, [b'{"id": 1, "total": 9.5}', b'{"id": 2, "total": -1}', b'{"id": "x"}'])
    assert ended.finished == [0]
    assert {one.id: one.then for one in ended.given_up} == {1: "dead letter", 2: "dead letter"}
"""

SETTINGS = """\
# Settings of this machine, over those in app.py. WORKER_CONNECTIONS__KAFKA=kafka://... overrules them, and --set that.

[connections]
# The Kafka of compose.yaml makes topics when they are asked for. Elsewhere create them, and leave the option out.
kafka = "kafka://localhost:9092?allow.auto.create.topics=true"

[handlers.charge]
window = 0.1
"""

COMPOSE = """\
# docker compose up -d; the data live as long as the container.
services:
  kafka:
    image: apache/kafka:4.3.1
    ports: ["127.0.0.1:9092:9092"]
    environment:
      KAFKA_NODE_ID: 1
      KAFKA_PROCESS_ROLES: broker,controller
      KAFKA_LISTENERS: PLAINTEXT://:9092,CONTROLLER://:9093
      KAFKA_ADVERTISED_LISTENERS: PLAINTEXT://localhost:9092
      KAFKA_CONTROLLER_LISTENER_NAMES: CONTROLLER
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
      KAFKA_CONTROLLER_QUORUM_VOTERS: 1@localhost:9093
      KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: 1
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR: 1
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR: 1
      KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS: 0
      KAFKA_NUM_PARTITIONS: 4
"""

FILES = {"app.py": APP, "compose.yaml": COMPOSE, "worker.toml": SETTINGS, "test_app.py": TEST}


def new(folder: Path) -> None:
    """Raises ConfigError: nothing that is there is written over."""
    name = folder.name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ConfigError(f"{name!r} cannot name an app: letters, digits, - and _, as its consumer group has that name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is there already, and not empty: take another name")
        for file, text in FILES.items():
            with open(folder / file, "x") as written:
                written.write(text.replace("NAME", name) if file == "app.py" else text)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}") from error
