"""From a connection to what librdkafka is told: our defaults, the user's properties, and the few that are not theirs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from worker.connectors import kafka_embedded
from worker.errors import ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions, addresses

PORT = 9092
OUT_OF_RANGE = "out_of_range"
POLICIES = ("earliest", "latest", "stop")

# What would break a promise of the worker, and what to write instead.
_NOT_YOURS = {
    "enable.auto.commit": "leave it out: the worker commits what is finished, and `commit_interval` says how often",
    "enable.auto.offset.store": "leave it out: the worker commits what is finished, and nothing else",
    "auto.offset.reset": "`start` is for a group without a position, the connection's `out_of_range` for a position that is gone",
    "group.id": "use the handler's `group`",
    "bootstrap.servers": "write the brokers into the URL: kafka://host:9092,host2:9092",
    "metadata.broker.list": "write the brokers into the URL: kafka://host:9092,host2:9092",
    "acks": "leave it out: a dead letter counts when all in-sync replicas have it",
    "request.required.acks": "leave it out: a dead letter counts when all in-sync replicas have it",
    "enable.idempotence": "leave it out: dead letters are published idempotently, which keeps their order",
    "test.mock.num.brokers": "use the URL kafka://embedded",
}

# librdkafka does not list its properties: these are the ones people set, for "did you mean".
_USUAL = """
    acks allow.auto.create.topics auto.offset.reset batch.size bootstrap.servers broker.address.family check.crcs
    client.dns.lookup client.id client.rack compression.codec compression.type connections.max.idle.ms debug delivery.timeout.ms
    enable.ssl.certificate.verification fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
    fetch.queue.backoff.ms fetch.wait.max.ms group.instance.id group.protocol group.remote.assignor heartbeat.interval.ms
    isolation.level linger.ms max.partition.fetch.bytes max.poll.interval.ms message.max.bytes message.timeout.ms
    metadata.max.age.ms out.of.range partition.assignment.strategy queued.max.messages.kbytes queued.min.messages
    receive.message.max.bytes reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms retries retry.backoff.ms
    sasl.kerberos.keytab sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism sasl.mechanisms sasl.oauthbearer.config
    sasl.oauthbearer.method sasl.password sasl.username security.protocol session.timeout.ms socket.keepalive.enable
    socket.timeout.ms ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites
    ssl.endpoint.identification.algorithm ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
    ssl.keystore.password statistics.interval.ms topic.metadata.refresh.interval.ms
"""

_SECRET = re.compile(r"password|passphrase|secret|\.pem$|oauthbearer\.config|oauthbearer\.client\.credentials")


class ClientLog:
    """Where librdkafka writes instead of stderr: all of it at DEBUG, because what matters is said once by ourselves."""

    _logger = logging.getLogger("worker.kafka.client")

    def log(self, _level: int, message: str, *arguments: object) -> None:
        self._logger.debug(message, *arguments)


SESSION, HEARTBEAT = 6_000, 1_000
"""Milliseconds, in a classic group. While a member that was killed is waited for, nobody's commits are answered once another one
joins, so the client's own 45 s are too many; and the members hear of a rebalance with a heartbeat. It is the least that brokers
allow by default: one that is killed while it joins is waited for twice, and with 10 s that was 15 (docs/kafka.md)."""
BROKERS_SESSION = "the broker's group.consumer.session.timeout.ms, 45 s if nobody has set it"
"""Of groups whose partitions the broker assigns."""


def is_embedded(connection: Connection) -> bool:
    return connection.hosts.partition(":")[0] == kafka_embedded.HOST


def servers(connection: Connection) -> str:
    """`bootstrap.servers`, with the default port where none is given; starts the embedded cluster if that is meant."""
    if is_embedded(connection):
        return kafka_embedded.bootstrap()
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses(connection, PORT))


def out_of_range(connection: Connection) -> str:
    """What happens to a position that the broker no longer has: `earliest`, `latest` or `stop`."""
    given = {_dotted(name): value for name, value in connection.options.items()}.get(_dotted(OUT_OF_RANGE), "earliest")
    if given not in POLICIES:
        raise ConfigError(f"connection {connection.name}: {OUT_OF_RANGE}={given!r} is none of {', '.join(POLICIES)}")
    return str(given)


def consumer_config(options: SourceOptions) -> dict[str, Any]:
    """Everything for `Consumer` but `bootstrap.servers` and callbacks."""
    connection = options.connection
    given = _given(connection)
    defaults: dict[str, Any] = {
        "isolation.level": "read_committed",
        "allow.auto.create.topics": is_embedded(connection),
        # A full queue is looked at again after this, 1000 by default: with a small queue fetching would stand still.
        "fetch.queue.backoff.ms": 5,
        # Runs of one partition are of 1 MiB. With 8, 12, 16 of them an async handler of 16 partitions reaches 9.5, 10.6, 11.7
        # times the rate of one at a time, and the memory, of 200 B records, is 1.04, 1.16, 1.3 of the client's own.
        "queued.max.messages.kbytes": 12288,
        # That counts values only. So also this many of a partition, 100,000 by default: keys and headers may be of any size. With
        # 5,000 the worker waited for the client (1.8 s became 2.5 s), with 20,000 it does not.
        "queued.min.messages": 20_000,
        # Partitions added and topics made again are found this soon; 5 minutes by default.
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if given.get("group.protocol", "classic") == "classic":
        defaults["partition.assignment.strategy"] = "cooperative-sticky"
        if is_embedded(connection):
            defaults["session.timeout.ms"] = kafka_embedded.SESSION
        else:
            defaults |= {"session.timeout.ms": SESSION, "heartbeat.interval.ms": HEARTBEAT}
    ours = {
        "group.id": options.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }
    return _checked(connection, {"client.id": options.group} | defaults | given | ours, Consumer)


def producer_config(options: SinkOptions) -> dict[str, Any]:
    """Everything for `Producer` but `bootstrap.servers` and callbacks."""
    connection = options.connection
    defaults = {
        "client.id": f"dead-letters-{options.stream}",
        "linger.ms": 0.5,  # a batch's letters in one request: at 0 the first goes alone, which was a fifth slower without order
        "compression.type": "lz4",
        # Only the broker and the topic decide what is too large.
        "message.max.bytes": 1_000_000_000,
        "message.timeout.ms": max(1, int(options.timeout * 1000)),
        "allow.auto.create.topics": is_embedded(connection),
    }
    given = _given(connection)
    if {"delivery.timeout.ms", "message.timeout.ms"} & given.keys():
        del defaults["message.timeout.ms"]
    return _checked(connection, defaults | given | {"enable.idempotence": True, "acks": "all"}, Producer)


def warnings(connection: Connection) -> list[str]:
    """A connection that anybody in between may read and change."""
    given = {_dotted(name): _plain(value) for name, value in connection.options.items()}
    found = []
    if str(given.get("enable.ssl.certificate.verification", "true")).lower() in ("false", "0", "no", "f", "n"):
        found.append("enable.ssl.certificate.verification=false: the brokers' certificates are not checked")
    if str(given.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        found.append("ssl.endpoint.identification.algorithm=none: a certificate of any name is taken for the brokers'")
    return found


def cooperative(config: Mapping[str, Any]) -> bool:
    """Whether rebalances hand over single partitions, or everything at once."""
    return by_broker(config) or "cooperative" in str(config.get("partition.assignment.strategy"))


def by_broker(config: Mapping[str, Any]) -> bool:
    """Whether the broker assigns the group's partitions, and ends its members' sessions (KIP-848)."""
    return config.get("group.protocol") == "consumer"


def session(config: Mapping[str, Any]) -> float:
    """Seconds after which the partitions of a member that was killed are free; what the broker's default is, where it decides."""
    return 45.0 if by_broker(config) else milliseconds(config, "session.timeout.ms", 45_000)


def protocol(config: Mapping[str, Any]) -> str:
    """For people."""
    told = f"consumer (KIP-848), session timeout: {BROKERS_SESSION}"
    return told if by_broker(config) else f"classic, session timeout {session(config):g} s"


def login(config: Mapping[str, Any]) -> dict[str, Any]:
    """What another client needs of it to reach the same brokers."""
    return {name: value for name, value in config.items() if name.startswith(("security", "sasl", "ssl", "oauth"))}


def milliseconds(config: Mapping[str, Any], name: str, default: int) -> float:
    """A property in seconds; the client reads a number as far as it is one."""
    match = re.match(r"\s*(\d+)", str(config.get(name, default)))
    return int(match[1]) / 1000 if match else default / 1000


def redact(text: str, config: Mapping[str, Any]) -> str:
    """`text` without the passwords and keys of `config`, whoever wrote it."""
    for name, value in config.items():
        if _SECRET.search(name) and isinstance(value, str) and value:
            text = text.replace(value, "***")
    return text


def _dotted(name: str) -> str:
    return name.replace("_", ".")


def _given(connection: Connection) -> dict[str, Any]:
    """The user's properties: dots for underscores (environment variables hold no dots), without our own option."""
    given = {_dotted(name): _plain(value) for name, value in connection.options.items()}
    given.pop(_dotted(OUT_OF_RANGE), None)
    for name, remedy in _NOT_YOURS.items():
        if name in given:
            raise ConfigError(f"connection {connection.name}: {name} cannot be set: {remedy}")
    if not connection.hosts.strip(", "):
        raise ConfigError(f"connection {connection.name}: its URL names no broker: write kafka://host:9092")
    if connection.path.strip("/"):
        raise ConfigError(
            f"connection {connection.name}: {connection.path}: a URL of Kafka has no path: topics are named by the handlers, "
            "and several brokers are written host1:9092,host2:9092"
        )
    if not is_embedded(connection):
        addresses(connection, PORT)
    return given | _security(connection, given)


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value if callable(value) else str(value)


def _security(connection: Connection, given: dict[str, Any]) -> dict[str, Any]:
    """The user and password of the URL, and the protocol they ask for, where it is not stated.

    PLAIN, because librdkafka's own default, GSSAPI, takes no password; over TLS, because PLAIN shows it to the wire.
    """
    found: dict[str, Any] = {}
    if connection.username is not None:
        found["sasl.username"] = connection.username
    if connection.password is not None:
        found["sasl.password"] = connection.password
    merged = found | given
    sasl = any(name.startswith("sasl.") for name in merged)
    protocol = str(merged.get("security.protocol", "")).lower()
    if protocol in ("plaintext", "ssl") and "sasl.username" in merged:
        raise ConfigError(
            f"connection {connection.name}: security.protocol={protocol} sends no user and password: "
            f"write {'sasl_ssl' if protocol == 'ssl' else 'sasl_plaintext'}, or leave out the user"
        )
    if "sasl.username" in merged and not {"sasl.mechanism", "sasl.mechanisms"} & merged.keys():
        found["sasl.mechanism"] = "PLAIN"
    if not protocol and (sasl or any(name.startswith("ssl.") for name in merged)):
        found["security.protocol"] = "sasl_ssl" if sasl else "ssl"
    return found


def _checked(connection: Connection, config: dict[str, Any], client: Callable[..., Any]) -> dict[str, Any]:
    """`config`, if a client can be made of it: one that knows no broker, and is thrown away."""
    trial = {name: value for name, value in config.items() if not callable(value) and name != "debug"}
    try:
        made = client(trial, logger=ClientLog())
    except KafkaException as error:
        raise _complaint(connection, config, error.args[0].str()) from None
    except (TypeError, ValueError) as error:
        raise _complaint(connection, config, str(error)) from None
    made.close()
    return config


def _complaint(connection: Connection, config: dict[str, Any], text: str) -> ConfigError:
    where = f"connection {connection.name}: "
    if unknown := re.match(r'No such configuration property: "(.*)"', text):
        near = get_close_matches(unknown[1], _USUAL.split(), 1, 0.75)
        hint = f", did you mean {near[0]}?" if near else ": see librdkafka's CONFIGURATION.md"
        return ConfigError(f"{where}librdkafka has no property {unknown[1]}{hint}")
    if match := re.search(r'onfiguration property "(.*)"', text):
        name = match[1]
        value = "" if _SECRET.search(name) or name not in config else f" (it is {str(config[name])[:100]!r})"
        return ConfigError(f"{where}{_one_line(redact(text, config))}{value}")
    if match := re.match(r"Failed to create \w+: (ssl\.\S+\.location) failed", text):
        return ConfigError(f"{where}{match[1]}={config.get(match[1])} cannot be read, or is no PEM file")
    return ConfigError(where + _one_line(redact(re.sub(r"^Failed to create \w+: ", "", text), config)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
