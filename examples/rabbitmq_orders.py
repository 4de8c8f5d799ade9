"""Orders from a queue; what cannot be charged goes to another one.

docker compose up -d rabbitmq
worker run examples/rabbitmq_orders.py:app
"""

from pydantic import BaseModel

from worker import App

# declare=quorum: both queues are made if they are not there.
app = App("shop", connections={"rabbitmq": "rabbitmq://guest:guest@localhost:5672?declare=quorum"})


class Order(BaseModel):
    id: int
    total: float


@app.handler("rabbitmq:orders", dead_letter="rabbitmq:orders.dead", retries=3)
def charge(orders: list[Order]) -> None:
    print(f"charging {len(orders)} orders, {sum(order.total for order in orders):.2f} in all")
