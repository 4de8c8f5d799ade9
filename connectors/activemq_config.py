"""From a connection's URL and mapping to where and how to log in over STOMP, and what to ask for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from connectors import tls
from worker.errors import ConfigError
from worker.interface import Connection

_OURS = ("client_id", "connect_timeout", "dlq", "heartbeat", "limit", "prefetch", "selector", "transformation")
_ALL = (*_OURS, *tls.OPTIONS)

_TRANSFORMATIONS = tuple(f"jms-{kind}{form}" for kind in ("", "map-", "object-") for form in ("json", "xml"))
PAGED = 200
"""So many unsettled messages of a destination Classic hands out, whatever the prefetch (its policy's maxPageSize)."""


@dataclass(frozen=True)
class Login:
    """How to connect, and what a subscription asks for, checked."""

    connection: Connection
    hosts: tuple[tuple[str, int], ...]
    secure: ssl.SSLContext | None
    server_hostname: str | None
    heartbeat: float
    connect_timeout: float
    prefetch: int | None
    limit: int
    client_id: str | None
    dlq: str
    subscribe: Mapping[str, str]
    """Headers for SUBSCRIBE: selector, transformation, and anything of `activemq.`"""

    @classmethod
    def of(cls, connection: Connection) -> Login:
        given = {name: value for name, value in connection.options.items() if value not in ("", None)}
        for name in given:
            if name not in _ALL and not name.startswith("activemq."):
                near = get_close_matches(name, _ALL, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_ALL)}, and activemq.* for SUBSCRIBE"
                raise _wrong(connection, name, f"no such option, {hint}")
        if "activemq.prefetchSize" in given:
            raise _wrong(connection, "activemq.prefetchSize", "write prefetch=")
        secure = tls.context(connection, given, wanted=connection.scheme == "activemq+ssl")
        passed = {name: str(value) for name, value in given.items() if name.startswith("activemq.")}
        if given.get("transformation", "jms-json") not in _TRANSFORMATIONS:  # the broker would end the connection at each message
            raise _wrong(connection, "transformation", f"there are {', '.join(_TRANSFORMATIONS)}")
        passed |= {name: str(given[name]) for name in ("selector", "transformation") if name in given}
        return cls(
            connection,
            _hosts(connection, 61614 if secure else 61613),
            secure,
            str(given["server_hostname"]) if "server_hostname" in given else None,
            _number(connection, given, "heartbeat", 10.0, 0.0),
            _number(connection, given, "connect_timeout", 10.0, 0.1),
            int(_number(connection, given, "prefetch", 0, 1)) or None,
            int(_number(connection, given, "limit", PAGED, 1)),
            str(given["client_id"]) if "client_id" in given else None,
            str(given.get("dlq", "ActiveMQ.DLQ")),
            passed,
        )


def destination(stream: str) -> str:
    """`topic/NAME` is a topic, anything else the name of a queue."""
    return f"/{stream}" if stream.startswith("topic/") else f"/queue/{stream}"


def _hosts(connection: Connection, usual: int) -> tuple[tuple[str, int], ...]:
    found = []
    for one in (part.strip() for part in connection.hosts.split(",")):
        host, colon, port = ("", "", "") if one.endswith("]") else one.rpartition(":")
        if not colon:
            host, port = one, str(usual)
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ConfigError(f"connection {connection.name}: {one}: write activemq://host:{usual}")
        found.append((host.strip("[]"), int(port)))
    return tuple(found)


def _number(connection: Connection, given: Mapping[str, Any], name: str, default: float, least: float) -> float:
    if name not in given:
        return default
    try:
        value = float(given[name])
    except (TypeError, ValueError):
        raise _wrong(connection, name, f"{given[name]!r} is no number") from None
    if value < least:
        raise _wrong(connection, name, f"at least {least:g}")
    return value


def _wrong(connection: Connection, name: str, why: str) -> ConfigError:
    return ConfigError(f"connection {connection.name}: {name}: {why}")
