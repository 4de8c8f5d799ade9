"""Charges orders into a ledger: typed values, named failures, retries, dead letters, in the order of each partition.

worker run examples/orders.py:app          # on the Kafka of compose.yaml
worker demo                                # the same, with an embedded Kafka and a check of the result
"""

import os
import sqlite3
from collections.abc import Iterator

from pydantic import BaseModel

from worker import App, Backoff, Record

app = App("shop", connections={"kafka": "kafka://localhost:9092"})

LEDGER = os.environ.get("LEDGER", "ledger.db")
refused_once: set[int] = set()


class Order(BaseModel):
    id: int
    customer: str
    total: float
    bank: str = "fine"


class BankIsBusy(Exception):
    """Goes away by itself."""


@app.lifespan
def ledger() -> Iterator[None]:
    with sqlite3.connect(LEDGER) as database:
        database.execute("CREATE TABLE IF NOT EXISTS charges (number INTEGER PRIMARY KEY, id, partition, record)")
    database.close()
    yield


def ask_the_bank(order: Order) -> None:
    if order.total < 0:
        raise ValueError(f"order {order.id}: the total is negative")
    if order.bank == "busy" and order.id not in refused_once:
        refused_once.add(order.id)
        raise BankIsBusy(f"order {order.id}: try again")


@app.handler("kafka:orders", batch_size=500, retries=3, backoff=Backoff(first=0.02), dead_letter="kafka:orders.dead")
def charge(orders: list[Record[Order]]) -> dict[int, Exception]:
    failed: dict[int, Exception] = {}
    charged = []
    for index, record in enumerate(orders):
        try:
            ask_the_bank(record.value)
            charged.append((record.value.id, record.partition.id, record.id))
        except (ValueError, BankIsBusy) as error:
            failed[index] = error
    with sqlite3.connect(LEDGER) as database:
        database.executemany("INSERT INTO charges (id, partition, record) VALUES (?, ?, ?)", charged)
    database.close()
    return failed
