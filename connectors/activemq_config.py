"""From a connection's URL and mapping to where and how to log in over STOMP, and what to ask for."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from worker.connectors import tls
from worker.connectors.activemq_frames import MOST
from worker.errors import ConfigError
from worker.interface import Connection, addresses

_OURS = ("client_id", "connect_timeout", "dlq", "heartbeat", "limit", "max_frame_size", "prefetch", "selector", "transformation")
_ALL = (*_OURS, *tls.OPTIONS)

_DAY = 86_400.0
_MANY = float(2**31 - 1)
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
    max_frame_size: int
    subscribe: Mapping[str, str]
    """Headers for SUBSCRIBE: selector, transformation, and anything of `activemq.`"""

    @classmethod
    def of(cls, connection: Connection) -> Login:
        if connection.path.strip("/"):
            raise ConfigError(
                f"connection {connection.name}: {connection.path}: a URL of ActiveMQ has no path: "
                f'queues are named by the handlers, as in "{connection.name}:{connection.path.strip("/")}"'
            )
        given = {name: value for name, value in connection.options.items() if value not in ("", None)}
        for name in given:
            if name not in _ALL and not name.startswith("activemq."):
                near = get_close_matches(name, _ALL, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_ALL)}, and activemq.* for SUBSCRIBE"
                raise _wrong(connection, name, f"no such option, {hint}")
        if "activemq.prefetchSize" in given:
            raise _wrong(connection, "activemq.prefetchSize", "write prefetch=")
        secure = tls.context(connection, given, scheme="activemq+ssl")
        passed = {name: str(value) for name, value in given.items() if name.startswith("activemq.")}
        if given.get("transformation", "jms-json") not in _TRANSFORMATIONS:  # the broker would end the connection at each message
            raise _wrong(connection, "transformation", f"there are {', '.join(_TRANSFORMATIONS)}")
        passed |= {name: str(given[name]) for name in ("selector", "transformation") if name in given}
        return cls(
            connection,
            tuple(addresses(connection, usual_port(connection))),
            secure,
            str(given["server_hostname"]) if "server_hostname" in given else None,
            _number(connection, given, "heartbeat", 10.0, 0.0, _DAY),
            _number(connection, given, "connect_timeout", 10.0, 0.1, _DAY),
            int(_number(connection, given, "prefetch", 0, 1, _MANY)) or None,
            int(_number(connection, given, "limit", PAGED, 1, _MANY)),
            str(given["client_id"]) if "client_id" in given else None,
            str(given.get("dlq", "ActiveMQ.DLQ")),
            int(_number(connection, given, "max_frame_size", MOST, 1 << 20, _MANY)),
            passed,
        )


WILD = re.compile(r"[*>]")


def matches(subscribed: str, stream: str) -> bool:
    """Whether a subscription gets the messages of a queue or topic: `*` is one part of a name, `>` all that follow."""
    alike = subscribed.startswith("topic/") == stream.startswith("topic/")
    return (
        subscribed == stream if not WILD.search(subscribed) else alike and not WILD.search(stream) and covers(subscribed, stream)
    )


def destination(stream: str) -> str:
    """`topic/NAME` is a topic, anything else the name of a queue."""
    return f"/{stream}" if stream.startswith("topic/") else f"/queue/{stream}"


def usual_port(connection: Connection) -> int:
    return 61614 if connection.scheme == "activemq+ssl" else 61613


def covers(stream: str, name: str) -> bool:
    """`orders.*` covers one more word, `orders.>` any number of them."""
    wanted, words = stream.split("."), name.split(".")
    for number, one in enumerate(wanted):
        if one == ">":
            return True
        if number >= len(words) or one not in ("*", words[number]):
            return False
    return len(wanted) == len(words)


def _number(connection: Connection, given: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    if name not in given:
        return default
    try:
        value = float(given[name])
    except (OverflowError, TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        raise _wrong(connection, name, f"{given[name]!r} is no number: write one, as in {name}={default or 100:g}")
    if not least <= value <= most:
        raise _wrong(connection, name, f"{given[name]}: at least {least:g} and at most {most:.0f}")
    return value


def _wrong(connection: Connection, name: str, why: str) -> ConfigError:
    return ConfigError(f"connection {connection.name}: {name}: {why}")
