"""Faust (faust-streaming): an agent that takes 500 at a time; positions are committed every 2.8 s, its default."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import Any

import faust

from benchmarks.peers.client import Spec, Work, main


def run(spec: Spec, work: Work) -> None:
    app = faust.App(
        spec.group,
        broker=f"kafka://{spec.server}",
        value_serializer="raw",
        consumer_auto_offset_reset=spec.start,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        datadir=tempfile.mkdtemp(),
    )
    topic = app.topic(spec.topic, value_type=bytes, value_serializer="raw", allow_empty=True)

    @app.agent(topic)
    async def handle(stream: Any) -> None:
        if spec.work == "latency":
            async for value in stream:
                work.one(value)
            return
        async for values in stream.take(spec.batch, within=0.5):
            work.batch(values)

    work.on_done = lambda: os.kill(os.getpid(), signal.SIGTERM)
    worker = faust.Worker(app, loglevel="CRITICAL", quiet=True)
    try:
        worker.execute_from_commandline()
    except SystemExit as stopped:
        if stopped.code:
            raise


if __name__ == "__main__":
    main(run)
