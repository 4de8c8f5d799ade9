"""Whatever a connection is given, `worker check` takes it or refuses it in one line."""

from __future__ import annotations

from typing import Any

import pytest

from worker import App, ConfigError
from worker.run import describe
from worker.settings import load

ODD = [
    5,
    1.5,
    True,
    [],
    {"a": 1},
    object(),
    b"x",
    float("nan"),
    float("inf"),
    10**400,
    "x",
    -1,
    "",
    " ",
    "inf",
    "\0",
    "/no",
    "9" * 5_000,
]
TLS = ["cafile", "certfile", "verify"]
OPTIONS = {
    "kafka": [
        "session.timeout.ms",
        "security.protocol",
        "ssl.ca.location",
        "group.protocol",
        "out_of_range",
        "max.poll.interval.ms",
    ],
    "msk": ["region", "auth", "profile", "role_arn", "access_key_id", "session.timeout.ms"],
    "rabbitmq": [
        *("declare", "prefetch", "consumer_timeout", "auth", "connection_name", "heartbeat", "frame_max", "channel_max"),
        *("socket_timeout", "stack_timeout", "blocked_connection_timeout", "locale", "client_properties", "tcp_options"),
    ],
    "amqps": TLS,
    "activemq": [
        "client_id",
        "connect_timeout",
        "dlq",
        "heartbeat",
        "limit",
        "prefetch",
        "selector",
        "transformation",
        "activemq.x",
    ],
    "activemq+ssl": TLS,
}


def described(connection: Any, dead_letter: Any = None) -> dict[str, Any]:
    app = App("shop", connections={"c": connection} | ({"d": dead_letter} if dead_letter else {}))

    @app.handler("c:orders", dead_letter="d:dead" if dead_letter else None)
    def charge(value: bytes) -> None: ...

    return describe(load(app, environ={}).handlers["charge"], "shop:app")


def refusal(connection: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        described(connection)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("scheme", OPTIONS)
def test_no_value_of_an_option_ends_in_a_traceback(scheme: str) -> None:
    host = "b-1.x.y.kafka.eu-west-1.amazonaws.com" if scheme == "msk" else "h"
    for name in OPTIONS[scheme]:
        for value in ODD[::2] if OPTIONS[scheme] is TLS else ODD:  # each reads the system's authorities
            try:
                described({"url": f"{scheme}://{host}", name: value})
            except ConfigError as error:
                assert len(str(error).splitlines()) == 1 and ("connection" in str(error) or "drain" in str(error))


@pytest.mark.parametrize("scheme", OPTIONS)
def test_hosts_and_ports_are_looked_at(scheme: str) -> None:
    region = "?region=eu-west-1" if scheme == "msk" else ""
    for hosts in (
        "h:90x2",
        "h:99999",
        "h:0",
        "h:-1",
        "::1",
        "h:",
        "a..b",
        ":9092",
        "a;b",
        "good,h:90x2",
        "h:1:2",
        "h*",
        "a:1,b:x",
    ):
        assert "no host" in refusal(f"{scheme}://{hosts}{region}")
    for hosts in ("h", "h:1", "my_host-1.x:1", "[::1]", "[::1]:9092", "a:1,b,[::1]:2", "exämple"):
        assert described(f"{scheme}://{hosts}{region}")


@pytest.mark.parametrize("path", ["/orders", "//b:9092", "/orders/"])
@pytest.mark.parametrize("scheme", ["kafka", "msk", "activemq"])
def test_a_path_that_would_be_ignored_is_refused(scheme: str, path: str) -> None:
    assert "has no path" in refusal(f"{scheme}://a:9092{path}" + ("?region=x" if scheme == "msk" else ""))


@pytest.mark.parametrize(
    "url",
    [
        "kafka://h?enable.ssl.certificate.verification=false",
        "kafka://h?ssl.endpoint.identification.algorithm=none",
        "msk://h?region=x&enable_ssl_certificate_verification=false",
        "amqps://h?verify=false",
        "activemq+ssl://h?verify=no",
    ],
)
def test_tls_without_verification_is_warned_of(url: str) -> None:
    [warning] = described(url)["warnings"]
    assert "certificate" in warning and "connection c" in warning
    [warning] = described("kafka://a", url)["warnings"]
    assert "connection d" in warning


@pytest.mark.parametrize("url", ["kafka://h?security.protocol=ssl", "amqps://h?verify=true", "activemq+ssl://h", "kafka://u:p@h"])
def test_tls_with_verification_is_not(url: str) -> None:
    assert described(url)["warnings"] == []
