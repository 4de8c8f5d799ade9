"""Orders from a queue, in order: the next batch waits until this one is charged.

docker compose up -d activemq
worker run examples/activemq_orders.py:app
"""

from pydantic import BaseModel

from worker import App

app = App("shop", connections={"activemq": "activemq://admin:admin@localhost:61613?activemq.exclusive=true"})


class Order(BaseModel):
    id: int
    total: float


@app.handler("activemq:orders", ordered=True, dead_letter="activemq:orders.dead", retries=3)
def charge(orders: list[Order]) -> None:
    print(f"charging {len(orders)} orders, {sum(order.total for order in orders):.2f} in all")
