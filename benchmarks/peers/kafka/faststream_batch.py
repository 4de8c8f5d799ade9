"""FastStream over confluent-kafka, or, with PEER=aiokafka, over aiokafka: batches, acknowledged when the handler returns. Bytes
are taken as they are and no argument is validated, which is faster than what it does by default: with PEER=defaults it decodes
each value and validates the handler's argument."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from faststream import AckPolicy, FastStream

from benchmarks.orders import Order
from benchmarks.peers.client import Spec, Work, main


async def raw(message: Any) -> Any:
    return message.body


def run(spec: Spec, work: Work) -> None:
    logging.disable(logging.CRITICAL)
    peer = os.environ.get("PEER")
    if peer == "aiokafka":
        from faststream.kafka import KafkaBroker as Broker
    else:
        from faststream.confluent import KafkaBroker as Broker  # type: ignore[assignment]
    fast: dict[str, Any] = {} if peer == "defaults" else {"apply_types": False, "decoder": raw}
    broker: Any = Broker(spec.server, logger=None, **fast)
    app = FastStream(broker, logger=None)
    options = {"group_id": spec.group, "auto_offset_reset": spec.start, "ack_policy": AckPolicy.ACK}

    if spec.work == "latency":

        @broker.subscriber(spec.topic, **options)
        async def one(body: bytes) -> None:
            work.one(body)

    elif peer == "defaults":

        @broker.subscriber(spec.topic, batch=True, max_records=spec.batch, **options)
        async def typed(bodies: list[Order]) -> None:
            work.count(len(bodies))

    else:

        @broker.subscriber(spec.topic, batch=True, max_records=spec.batch, **options)
        async def many(bodies: list[bytes]) -> None:
            if work.pause:
                await asyncio.sleep(work.pause)
            work.batch(bodies)

    work.on_done = app.exit
    asyncio.run(app.run())


if __name__ == "__main__":
    main(run)
