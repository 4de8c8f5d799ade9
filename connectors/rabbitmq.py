"""RabbitMQ over AMQP 0-9-1: `rabbitmq://[user:password@]host[:5672][,host2...][/vhost][?option=value]`, or `amqp://`, `amqps://`.

Streams are names of queues, quorum or classic. Hosts are tried in turn. Options, in the query or the mapping:

`declare`: `quorum` or `classic`: declare the queues, durable; a quorum queue with x-delivery-limit=-1. Unset: they must exist.
`prefetch`: messages a queue may have delivered and unsettled; unset: it follows batch_size and parallel.
`consumer_timeout`: seconds the broker lets a delivery wait for its ack (1800, as RabbitMQ's own default).
`auth`: `plain` (default) or `external`. `cafile`, `certfile`, `keyfile`, `keyfile_password`, `server_hostname`, `verify`: TLS.
`connection_name`, `heartbeat`, `frame_max`, `channel_max`, `socket_timeout`, `stack_timeout`, `blocked_connection_timeout`,
`locale`, `client_properties`, `tcp_options`: as pika's parameters of these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from worker.connectors import tls
from worker.connectors.rabbitmq_browse import browse as browse
from worker.connectors.rabbitmq_sink import RabbitMQSink
from worker.connectors.rabbitmq_source import RabbitMQSource
from worker.errors import ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions, meet


def source(options: SourceOptions) -> RabbitMQSource:
    for stream in options.streams:
        _check(stream, options.connection.name)
    if options.start != "earliest":
        raise ConfigError(f"start={options.start}: a queue has no position, it gives what is in it: leave it out")
    return RabbitMQSource(options)


def sink(options: SinkOptions) -> RabbitMQSink:
    _check(options.stream, options.connection.name)
    return RabbitMQSink(options)


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    secure = 5671 if source.scheme == "amqps" else 5672
    same = unquote(source.path[1:]) or "/", unquote(target.path[1:]) or "/"
    return stream == name and same[0] == same[1] and meet(source, target, secure)


def grouped(stream: str) -> bool:
    return False


def warnings(connection: Connection) -> Sequence[str]:
    return tls.warnings(connection)


def _check(queue: str, connection: str) -> None:
    if not 0 < len(queue.encode()) < 256:
        raise ConfigError(f"{connection}:{queue[:50]} is no name of a queue: 1 to 255 bytes of UTF-8")
    if queue.startswith("amq.rabbitmq.reply-to"):
        raise ConfigError(f"{connection}:{queue} is no queue: it is where a client gets answers to its own requests")
