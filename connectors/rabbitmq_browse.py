"""Looks through a queue of RabbitMQ: what is in it is delivered, and goes back to its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from connectors.rabbitmq_batch import RabbitMQBatch
from connectors.rabbitmq_config import MOST_PREFETCH
from connectors.rabbitmq_queue import RETURNS, returns
from connectors.rabbitmq_sink import RabbitMQSink
from connectors.rabbitmq_source import RabbitMQSource
from worker.interface import Batch, DeadLetter, SinkOptions, SourceOptions

_QUIET = 0.5
"""Seconds without a message after which the queue has no more of them."""


def browse(options: SourceOptions) -> Iterator[Batch]:
    """At most 65,535, as no more can be delivered and unsettled."""
    connection = replace(options.connection, options={**options.connection.options, "prefetch": MOST_PREFETCH})
    source = RabbitMQSource(replace(options, connection=connection, ordered=False))
    worn: list[RabbitMQBatch] = []
    try:
        source.open(lambda partitions, *, lost: None)
        while batches := source.poll(options.batch_size, _QUIET):
            for batch in batches:
                assert isinstance(batch, RabbitMQBatch)
                worn += _worn(batch)
                yield batch
    finally:
        try:
            if worn:
                _renew(options, source, worn)
        finally:
            source.close()


def _renew(options: SourceOptions, source: RabbitMQSource, worn: list[RabbitMQBatch]) -> None:
    """Puts copies in their place, which count from 0 again."""
    for batch in worn:
        sink = RabbitMQSink(SinkOptions(options.connection, batch.partition.stream))
        try:
            sink.publish([DeadLetter(record, ValueError(), 1, record.headers) for record in batch])
            source.commit([batch])
        finally:
            sink.close()


def _worn(batch: RabbitMQBatch) -> list[RabbitMQBatch]:
    """Those that a quorum queue would drop when they had been looked at a few times more."""
    found = [index for index, one in enumerate(batch.native) if returns(one) >= RETURNS]
    return [batch.pick(found)] if found else []
