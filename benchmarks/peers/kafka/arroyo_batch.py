"""Arroyo: its BatchStep, with positions committed behind it."""

from __future__ import annotations

import logging
import signal
from operator import attrgetter
from typing import Any

from arroyo.backends.kafka import KafkaConsumer
from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import BatchStep, CommitOffsets, RunTask
from arroyo.processing.strategies.abstract import ProcessingStrategyFactory
from arroyo.types import Topic

from benchmarks.peers.client import Spec, Work, main


def run(spec: Spec, work: Work) -> None:
    logging.disable(logging.CRITICAL)
    latency = spec.work == "latency"

    def handle(message: Any) -> Any:
        if latency:
            work.one(message.payload.value)
        else:
            work.take(message.payload, attrgetter("payload.value"))
        return message

    class Factory(ProcessingStrategyFactory[Any]):
        def create_with_partitions(self, commit: Any, partitions: Any) -> Any:
            then = RunTask(handle, CommitOffsets(commit))
            return then if latency else BatchStep(spec.batch, 0.5, then)

    config = build_kafka_consumer_configuration(
        {},
        spec.group,
        auto_offset_reset=spec.start,
        queued_max_messages_kbytes=65_536,
        queued_min_messages=100_000,
        bootstrap_servers=[spec.server],
        override_params={"fetch.queue.backoff.ms": 5},
    )
    processor = StreamProcessor(KafkaConsumer(config), Topic(spec.topic), Factory())
    work.on_done = processor.signal_shutdown
    signal.signal(signal.SIGTERM, lambda *_: processor.signal_shutdown())
    processor.run()


if __name__ == "__main__":
    main(run)
