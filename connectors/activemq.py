"""ActiveMQ Classic over STOMP 1.2: `activemq://[user:password@]host[:61613][,host2...][?option=value]`, or `activemq+ssl://`.

Streams are names of queues, or `topic/NAME` for a durable subscription to a topic. Hosts are tried in turn. Options, in the
query or the mapping:

`prefetch`: messages a subscription may have delivered and unsettled; unset: it follows batch_size and parallel.
`limit`: so many the broker really hands out unsettled, 200 by its default policy (maxPageSize): a batch does not wait past it.
`selector`: which messages to get, as in JMS. `activemq.*`: headers for SUBSCRIBE, as in `activemq.exclusive=true`.
`transformation`: how map and object messages come, as `jms-json`; unset: empty.
`client_id`: for topics; unset: the handler's group. `dlq`: where dead_letter="broker" puts messages that are not persistent.
`heartbeat`: seconds, 10; 0: none. `connect_timeout`: seconds, 10.
`cafile`, `certfile`, `keyfile`, `keyfile_password`, `server_hostname`, `verify`: TLS.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors import tls
from connectors.activemq_browse import browse as browse
from connectors.activemq_config import covers, usual_port
from connectors.activemq_sink import ActiveMQSink
from connectors.activemq_source import ActiveMQSource
from worker.errors import ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions, meet


def source(options: SourceOptions) -> ActiveMQSource:
    for stream in options.streams:
        _check(stream, options.connection.name)
    if options.start != "earliest":
        raise ConfigError(f"start={options.start}: a queue has no position, it gives what is in it: leave it out")
    return ActiveMQSource(options)


def sink(options: SinkOptions) -> ActiveMQSink:
    _check(options.stream, options.connection.name)
    if options.stream.startswith("topic/"):
        raise ConfigError(f"{options.connection.name}:{options.stream}: a topic keeps nothing for nobody: name a queue")
    return ActiveMQSink(options)


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    return meet(source, target, usual_port(source)) and covers(stream, name)


def grouped(stream: str) -> bool:
    """Of a topic each group has a subscription of its own."""
    return stream.startswith("topic/")


def warnings(connection: Connection) -> Sequence[str]:
    return tls.warnings(connection)


def _check(stream: str, connection: str) -> None:
    name = stream.removeprefix("topic/")
    if not name or any(character in name for character in ",?\n\r") or name.startswith("queue/"):
        raise ConfigError(f"{connection}:{stream} is no name: write NAME for a queue, topic/NAME for a topic, one each")
