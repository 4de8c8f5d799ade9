"""Looks through a queue of RabbitMQ: what is in it is delivered, and goes back to its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from worker.connectors.rabbitmq_config import MOST_PREFETCH
from worker.connectors.rabbitmq_source import RabbitMQSource
from worker.interface import Batch, SourceOptions

_QUIET = 0.5
"""Seconds without a message after which the queue has no more of them."""


def browse(options: SourceOptions) -> Iterator[Batch]:
    """At most 65,535, as no more can be delivered and unsettled."""
    connection = replace(options.connection, options={**options.connection.options, "prefetch": MOST_PREFETCH})
    source = RabbitMQSource(replace(options, connection=connection, ordered=False))
    worn: list[Batch] = []
    try:
        source.open(lambda partitions, *, lost: None)
        while batches := source.poll(options.batch_size, _QUIET):
            for batch in batches:
                worn += source.worn(batch)
                yield batch
    finally:
        try:
            source.renew(worn)
        finally:
            source.close()
