"""Apache Kafka: `kafka://[user:password@]host[:9092][,host2...][?property=value]`, or `kafka://embedded` inside the process.

Streams are topic names, or patterns that begin with `^`: regular expressions, as far as Python, the client and the broker agree.
Any property of librdkafka may be given in the query or the mapping, with dots or underscores:
`?security.protocol=ssl&ssl.ca.location=/etc/ca.pem`. A user means `sasl_ssl` with mechanism PLAIN, and `ssl.*` means `ssl`,
unless `security.protocol` and `sasl.mechanism` are stated. One option is our own:

`out_of_range`: what happens when the broker does not have the group's position any more, because retention passed it:
`earliest` (default: go on at the first record there is), `latest` (skip to the end) or `stop` (the handler stops, exit 3).
All say how many offsets are gone. A topic that was truncated or made again is read from its beginning, or stops with `stop`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from worker.connectors import kafka_config
from worker.connectors.kafka_browse import browse as browse
from worker.connectors.kafka_pattern import complaint
from worker.connectors.kafka_sink import KafkaSink
from worker.connectors.kafka_source import KafkaSource
from worker.errors import ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions, meet

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def source(options: SourceOptions) -> KafkaSource:
    for stream in options.streams:
        check_stream(stream, options.connection.name)
    if isinstance(options.start, datetime) and kafka_config.is_embedded(options.connection):
        raise ConfigError(f"start={options.start}: the embedded Kafka cannot look up a time, use earliest or latest")
    return KafkaSource(options)


def sink(options: SinkOptions) -> KafkaSink:
    if not _TOPIC.fullmatch(options.stream):
        raise ConfigError(f"{options.connection.name}:{options.stream} is no topic name: letters, digits, '.', '_' and '-' only")
    return KafkaSink(options)


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    if kafka_config.is_embedded(source) or kafka_config.is_embedded(target):
        same = kafka_config.is_embedded(source) and kafka_config.is_embedded(target)
    else:
        same = meet(source, target, kafka_config.PORT)
    try:
        return same and (stream == name or (stream.startswith("^") and re.match(stream, name) is not None))
    except re.error:
        return False


def grouped(stream: str) -> bool:
    return True


def warnings(connection: Connection) -> Sequence[str]:
    return kafka_config.warnings(connection)


def check_stream(stream: str, connection: str) -> None:
    """`ConfigError` for what can be neither a topic nor a pattern."""
    if stream.startswith("^"):
        if (told := complaint(stream)) is not None:
            raise ConfigError(f"{connection}:{stream} {told}")
    elif not _TOPIC.fullmatch(stream):
        raise ConfigError(
            f"{connection}:{stream} is no topic name (letters, digits, '.', '_' and '-'); a pattern begins with ^, "
            f"as in {connection}:^orders\\..*"
        )
