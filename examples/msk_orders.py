"""Orders from Amazon MSK, logged in by IAM with the machine's own role.

WORKER_CONNECTIONS__MSK=msk://b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com worker run examples/msk_orders.py:app
"""

from pydantic import BaseModel

from worker import App

app = App("shop", connections={"msk": "msk://b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"})


class Order(BaseModel):
    id: int
    total: float


@app.handler("msk:orders", dead_letter="msk:orders.dead", retries=3)
def charge(orders: list[Order]) -> None:
    print(f"charging {len(orders)} orders, {sum(order.total for order in orders):.2f} in all")
