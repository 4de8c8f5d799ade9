"""ActiveMQ Classic over STOMP 1.2: `activemq://[user:password@]host[:61613][,host2...][?option=value]`, or `activemq+ssl://`.

Streams are names of queues, or `topic/NAME` for a durable subscription to a topic. Hosts are tried in turn. Options, in the
query or the mapping:

`prefetch`: messages a subscription may have delivered and unsettled; unset: it follows batch_size and parallel.
`limit`: so many the broker really hands out unsettled, 200 by its default policy (maxPageSize): a batch does not wait past it.
`selector`: which messages to get, as in JMS. `activemq.*`: headers for SUBSCRIBE, as in `activemq.exclusive=true`.
`transformation`: how map and object messages come, as `jms-json`; unset: empty.
`client_id`: for topics; unset: the handler's group. `dlq`: where dead_letter="broker" puts messages that are not persistent.
`max_frame_size`: bytes of a message with its headers, 100 MiB: more ends the connection.
`heartbeat`: seconds, 10; 0: none. `connect_timeout`: seconds, 10.
`cafile`, `certfile`, `keyfile`, `keyfile_password`, `server_hostname`, `verify`: TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from worker.connectors import tls
from worker.connectors.activemq_browse import browse as browse
from worker.connectors.activemq_config import WILD, covers, usual_port
from worker.connectors.activemq_config import matches as matches
from worker.connectors.activemq_picker import Picker
from worker.connectors.activemq_sink import ActiveMQSink
from worker.connectors.activemq_source import ActiveMQSource
from worker.errors import ConfigError
from worker.interface import Connection, Record, SinkOptions, SourceOptions, meet

_FOREIGN = re.compile(r"/*(?P<kind>(?:temp-)?(?:queue|topic)|dsub|exchange|amq/queue)(?:/+|://)", re.IGNORECASE)
"""What other clients and tools, JMS and STOMP, put in front of a name."""


def source(options: SourceOptions) -> ActiveMQSource:
    for stream in options.streams:
        _check(stream, options.connection.name)
    if options.start != "earliest":
        raise ConfigError(f"start={options.start}: a queue has no position, it gives what is in it: leave it out")
    return ActiveMQSource(options)


def sink(options: SinkOptions) -> ActiveMQSink:
    where = f"{options.connection.name}:{options.stream}"
    _check(options.stream, options.connection.name)
    if WILD.search(options.stream):
        raise ConfigError(f"{where} names many queues: a message to it would be somebody else's")
    if options.stream.startswith("topic/") and options.partitions:
        raise ConfigError(f"{where}: a letter of a topic cannot be redriven, as every subscriber would get it again")
    if options.stream.startswith("topic/"):
        raise ConfigError(f"{where}: a topic keeps nothing for nobody: name a queue")
    return ActiveMQSink(options)


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    return meet(source, target, usual_port(source)) and covers(stream, name)


def grouped(stream: str) -> bool:
    """Of a topic each group has a subscription of its own."""
    return stream.startswith("topic/")


def warnings(connection: Connection) -> Sequence[str]:
    return tls.warnings(connection)


def picker(options: SourceOptions, meant: Callable[[Record[bytes]], bool]) -> Picker:
    return Picker(options, meant)


def _check(stream: str, connection: str) -> None:
    foreign = _FOREIGN.match(stream)
    if foreign and foreign[0] != "topic/":
        kind, name = foreign["kind"].lower(), stream[foreign.end() :]
        raise ConfigError(
            f"{connection}:{stream} is how other clients write it: "
            + (f'write "{connection}:topic/{name}"' if kind == "topic" else f'write "{connection}:{name}"')
            + (", of a queue that stays" if kind.startswith("temp") else "")
        )
    name = stream.removeprefix("topic/")
    if not name or any(character in name for character in ",?\n\r"):
        raise ConfigError(f"{connection}:{stream} is no name: write NAME for a queue, topic/NAME for a topic, one each")
    if stream.startswith("topic/ActiveMQ.Advisory."):
        raise ConfigError(f"{connection}:{stream}: the broker keeps advisories for nobody: a worker cannot read them")
