"""Quix Streams: a dataframe over bytes; it knows no batches. Positions are committed by its checkpoints, every 5 s by default."""

from __future__ import annotations

import logging
import time
from typing import Any

from quixstreams import Application

from benchmarks.peers.client import Spec, Work, main


def run(spec: Spec, work: Work) -> None:
    logging.disable(logging.CRITICAL)
    app = Application(
        broker_address=spec.server,
        consumer_group=spec.group,
        auto_offset_reset=spec.start,  # type: ignore[arg-type]
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        loglevel=None,
    )
    frame = app.dataframe(app.topic(spec.topic, value_deserializer="bytes"))
    seen = 0

    def handle(value: Any) -> None:
        nonlocal seen
        work.one(value)
        seen += 1
        if work.pause and seen % spec.batch == 0:
            time.sleep(work.pause)

    frame.update(handle)
    work.on_done = app.stop
    app.run()


if __name__ == "__main__":
    main(run)
