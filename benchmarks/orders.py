"""The records that are read: orders as JSON, of a size that is asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from pydantic import BaseModel

TEXT = "please leave the parcel with a neighbour on the second floor or call me before noon thanks and see you soon"
WORDS = TEXT.split(" ")


class Order(BaseModel):
    id: int
    customer: str
    email: str
    currency: str
    total: float
    items: int
    paid: bool
    note: str


def orders(size: int) -> Iterator[bytes]:
    """Records of `size` bytes, without end: 10,000 different ones, over and over; lz4 halves them."""
    chance = random.Random(1)
    made = [_order(number, size, chance) for number in range(10_000)]
    while True:
        yield from made


def _order(number: int, size: int, chance: random.Random) -> bytes:
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
    room = size - len(json.dumps(order))
    text = ""
    while len(text) < room:
        text += f"{chance.choice(WORDS)} {chance.randrange(1_000):x} "
    order["note"] = text[:room]
    return json.dumps(order).encode()
