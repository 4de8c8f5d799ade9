"""Quix Streams: a dataframe over bytes; it knows no batches. Positions are committed by its checkpoints, every 5 s by default."""

from __future__ import annotations

import logging

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
    frame.update(work.one)
    work.on_done = app.stop
    app.run()


if __name__ == "__main__":
    main(run)
