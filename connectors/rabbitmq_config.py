"""From a connection's URL and mapping to pika's parameters, one for each host, and the few options that are our own."""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

import pika

from worker.connectors import tls
from worker.errors import ConfigError
from worker.interface import Connection, addresses

_NUMBERS: Mapping[str, type] = {
    "blocked_connection_timeout": float,
    "channel_max": int,
    "frame_max": int,
    "heartbeat": int,
    "socket_timeout": float,
    "stack_timeout": float,
}
_TEXTS = ("locale",)
_MAPPINGS = ("client_properties", "tcp_options")
_OURS = ("auth", "connection_name", "consumer_timeout", "declare", "prefetch")
_ALL = (*_NUMBERS, *_TEXTS, *_MAPPINGS, *tls.OPTIONS, *_OURS)

CONSUMER_TIMEOUT = 1800.0
"""Seconds that RabbitMQ lets a delivery go without an ack, unless told otherwise."""
MOST_PREFETCH = 65_535


@dataclass(frozen=True)
class Login:
    """How to connect, checked."""

    connection: Connection
    hosts: tuple[pika.ConnectionParameters, ...]
    declare: str | None
    """The type of the queues to declare; None: they must exist."""
    prefetch: int | None
    consumer_timeout: float

    @classmethod
    def of(cls, connection: Connection, purpose: str, **changes: Any) -> Login:
        """`purpose` is what the broker's console calls the connection; `changes` are parameters that are not the user's."""
        given = {name: value for name, value in connection.options.items() if value not in ("", None)}
        for name in given:
            if name not in _ALL:
                near = get_close_matches(name, _ALL, 1)
                raise _wrong(
                    connection, name, f"no such option{f', did you mean {near[0]}?' if near else ': ' + ', '.join(_ALL)}"
                )
        if not connection.hosts.strip(", "):
            raise ConfigError(f"connection {connection.name}: its URL names no broker: write rabbitmq://host:5672")
        declare = given.get("declare")
        if declare not in (None, "quorum", "classic"):
            raise _wrong(connection, "declare", "quorum or classic")
        prefetch = _number(connection, given, "prefetch", int)
        if prefetch is not None and not 1 <= prefetch <= MOST_PREFETCH:
            raise _wrong(connection, "prefetch", f"1 to {MOST_PREFETCH:,}")
        timeout = _number(connection, given, "consumer_timeout", float)
        if timeout is not None and timeout <= 0:
            raise _wrong(connection, "consumer_timeout", "seconds, more than 0: the broker's own setting")
        common = _parameters(connection, given, purpose) | changes
        secure = tls.context(connection, given, scheme="amqps")
        try:
            hosts = tuple(
                pika.ConnectionParameters(host=host, port=port, ssl_options=_options(secure, given, host), **common)
                for host, port in addresses(connection, 5671 if secure is not None else 5672)
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"connection {connection.name}: {error}") from None
        return cls(connection, hosts, declare, prefetch, CONSUMER_TIMEOUT if timeout is None else timeout)


def _parameters(connection: Connection, given: Mapping[str, Any], purpose: str) -> dict[str, Any]:
    found: dict[str, Any] = {name: _number(connection, given, name, kind) for name, kind in _NUMBERS.items() if name in given}
    found |= {name: str(given[name]) for name in _TEXTS if name in given}
    for name in _MAPPINGS:
        if name in given:
            if not isinstance(given[name], Mapping):
                raise _wrong(connection, name, "a mapping: App(connections={...}) or worker.toml")
            found[name] = dict(given[name])
    found["client_properties"] = {"connection_name": str(given.get("connection_name", purpose))} | found.get(
        "client_properties", {}
    )
    found.setdefault("tcp_options", {"TCP_NODELAY": 1})
    found["virtual_host"] = unquote(connection.path[1:]) or "/"
    found["credentials"] = _credentials(connection, given)
    return found


def _credentials(connection: Connection, given: Mapping[str, Any]) -> Any:
    auth = given.get("auth", "plain")
    if auth == "external":
        if connection.scheme != "amqps":
            raise _wrong(connection, "auth", "external logs in with a TLS certificate: write amqps:// and certfile=, keyfile=")
        return pika.credentials.ExternalCredentials()
    if auth != "plain":
        raise _wrong(connection, "auth", "plain or external")
    if connection.username is None:
        return pika.PlainCredentials("guest", "guest")
    return pika.PlainCredentials(connection.username, connection.password or "")


def _options(secure: ssl.SSLContext | None, given: Mapping[str, Any], host: str) -> pika.SSLOptions | None:
    return None if secure is None else pika.SSLOptions(secure, str(given.get("server_hostname", host)))


def _number(connection: Connection, given: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in given:
        return None
    try:
        number = kind(given[name])
        if not math.isfinite(number):
            raise ValueError
        return number
    except (OverflowError, TypeError, ValueError):
        raise _wrong(connection, name, f"{given[name]!r} is no number") from None


def _wrong(connection: Connection, name: str, why: str) -> ConfigError:
    return ConfigError(f"connection {connection.name}: {name}: {why}")
