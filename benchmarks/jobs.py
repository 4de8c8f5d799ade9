"""What is done with records: as a handler of ours, and the same in a bare loop."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Message
from pydantic import BaseModel, Json, TypeAdapter

from benchmarks.meter import Meter
from worker import Batch

SIZE = 200
"""Bytes of a value."""


class Order(BaseModel):
    id: int
    customer: str
    email: str
    currency: str
    total: float
    items: int
    paid: bool
    note: str


def values(job: str) -> Iterator[bytes]:
    """Records for a job, without end: 10,000 different ones, over and over."""
    chance = random.Random(1)
    made = [_order(number, chance) if job == "orders" else chance.randbytes(SIZE) for number in range(10_000)]
    while True:
        yield from made


def _order(number: int, chance: random.Random) -> bytes:
    order = {
        "id": number,
        "customer": f"customer-{chance.randrange(100_000):06}",
        "email": f"somebody.{chance.randrange(100_000):06}@example.com",
        "currency": chance.choice(["EUR", "USD", "JPY"]),
        "total": round(chance.uniform(1, 2000), 2),
        "items": chance.randrange(1, 20),
        "paid": chance.random() < 0.9,
        "note": "",
    }
    order["note"] = "n" * (SIZE - len(json.dumps(order)))
    return json.dumps(order).encode()


def handler(job: str, meter: Meter) -> Callable[[Any], None]:
    """For our worker."""

    def count(batch: Batch) -> None:
        meter.add(len(batch))

    def touch(values: list[bytes]) -> None:
        touched = 0
        for value in values:
            touched += len(value)
        meter.add(len(values))

    def orders(orders: list[Order]) -> None:
        meter.add(len(orders))

    handlers: dict[str, Callable[[Any], None]] = {"count": count, "touch": touch, "orders": orders}
    return handlers[job]


def bare(job: str, meter: Meter) -> Callable[[list[Message]], None]:
    """For a bare loop: the same, and no look at `Message.error()`, which a loop of one's own would need."""
    many = TypeAdapter(list[Json[Order]])

    def count(messages: list[Message]) -> None:
        meter.add(len(messages))

    def touch(messages: list[Message]) -> None:
        touched = 0
        for message in messages:
            touched += len(message.value())  # type: ignore[arg-type]
        meter.add(len(messages))

    def orders(messages: list[Message]) -> None:
        many.validate_python([message.value() for message in messages])
        meter.add(len(messages))

    return {"count": count, "touch": touch, "orders": orders}[job]


def unique() -> str:
    """For a consumer group that has read nothing yet."""
    return f"bench-{os.urandom(6).hex()}"
