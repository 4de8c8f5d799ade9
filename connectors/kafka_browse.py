"""What a group has not finished, read without joining the group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.connectors import kafka_config
from worker.connectors.kafka_batch import KafkaBatch, partition_of, split
from worker.connectors.kafka_errors import MISSING, RETRIED, Explain
from worker.connectors.kafka_reach import Ear, reach
from worker.errors import Refused, Unavailable
from worker.interface import Batch, Partition, SourceOptions

_ANSWER = 10.0
_AGAIN = 0.2
_SILENCE = 30.0
"""Seconds without a record, though some are there."""


def browse(options: SourceOptions, client: Mapping[str, Any] | None = None) -> Iterator[Batch]:
    """From the group's positions (without one: the earliest record) to the ends of now; nothing is committed."""
    config = kafka_config.consumer_config(options) | {"enable.partition.eof": True} | dict(client or {})
    explain = Explain(options.connection.name, config, stream=", ".join(options.streams), group=options.group)
    ear = Ear()
    servers = kafka_config.servers(options.connection)
    try:
        consumer = Consumer(config | {"bootstrap.servers": servers, "error_cb": ear.heard}, logger=kafka_config.ClientLog())
        try:
            for stream in options.streams:
                reach(consumer, stream, servers, explain, ear)
                yield from _read(consumer, stream, options)
        finally:
            consumer.close()
    except KafkaException as error:
        raise explain.error(error.args[0]) from error


def _read(consumer: Consumer, stream: str, options: SourceOptions) -> Iterator[KafkaBatch]:
    ends = _assign(consumer, stream, options)
    heard = time.monotonic()
    while ends:
        messages = consumer.consume(options.batch_size, 0.5)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > _SILENCE:
            raise Unavailable(f"connection {options.connection.name}: nothing came of {stream} for {_SILENCE:g} s")
        yield from split([message for message in messages if _is_record(message, ends)], stream) or ()
        for message in messages:
            place = partition_of(message)
            if message.error() is not None or message.offset() >= ends.get(place, 0) - 1:  # type: ignore[operator]
                ends.pop(place, None)


def _assign(consumer: Consumer, stream: str, options: SourceOptions) -> dict[Partition, int]:
    """Begins to read what is between position and end; returns the ends of the partitions where that is anything."""
    topic = consumer.list_topics(stream, timeout=_ANSWER).topics[stream]
    if topic.error is not None and topic.error.code() in MISSING:
        raise Refused(f"connection {options.connection.name}: there is no topic {stream}")
    if topic.error is not None:
        raise KafkaException(topic.error)
    ends, places = {}, []
    for place in _committed(consumer, [TopicPartition(stream, number) for number in topic.partitions]):
        first, end = consumer.get_watermark_offsets(place, timeout=_ANSWER)
        begin = max(first, place.offset)
        if begin < end:
            ends[Partition(stream, place.partition)] = end
            places.append(TopicPartition(stream, place.partition, begin))
    consumer.assign(places)
    return ends


def _committed(consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
    """A broker that has just begun to look after the group says for a while that it does not."""
    deadline = time.monotonic() + _ANSWER
    while True:
        try:
            found = consumer.committed(places, timeout=_ANSWER)
            error = next((place.error for place in found if place.error is not None), None)
        except KafkaException as raised:
            found, error = [], raised.args[0]
        if error is None:
            return found
        if error.code() not in RETRIED or time.monotonic() >= deadline:
            raise KafkaException(error)
        time.sleep(_AGAIN)


def _is_record(message: Message, ends: Mapping[Partition, int]) -> bool:
    error = message.error()
    if error is None:
        return message.offset() < ends.get(partition_of(message), 0)  # type: ignore[operator]
    if error.code() != KafkaError._PARTITION_EOF:
        raise KafkaException(error)
    return False
