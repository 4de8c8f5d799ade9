"""A connection that ends while TLS is negotiated may heal; one that will never speak TLS is refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from connectors import activemq_errors, rabbitmq_errors, tls
from worker.errors import ConfigError, ConnectorError, Refused, Unavailable
from worker.interface import Connection, SourceOptions
from worker.plugins import connector

EXPLAIN = {"amqps": rabbitmq_errors.login_failed, "activemq+ssl": activemq_errors.unreachable}


def no_tls() -> ssl.SSLError:
    """What a broker that greets in plain text gives."""
    came = ssl.MemoryBIO()
    came.write(b"AMQP in plain text")
    with pytest.raises(ssl.SSLError) as raised:
        ssl.create_default_context().wrap_bio(came, ssl.MemoryBIO(), server_hostname="host").do_handshake()
    return raised.value


@pytest.mark.parametrize("scheme", EXPLAIN)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Unavailable),
        (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"), Unavailable),
        (no_tls(), Refused),
    ],
)
def test_a_handshake_that_is_cut_short_is_tried_again(scheme: str, error: ssl.SSLError, kind: type[ConnectorError]) -> None:
    explain: Callable[[Connection, str, BaseException], ConnectorError] = EXPLAIN[scheme]
    found = explain(Connection("b", scheme, "host:1"), "host:1", error)
    assert type(found) is kind and "no TLS" in str(found) and "\n" not in str(found)


@pytest.mark.parametrize(("scheme", "secure"), [("rabbitmq", "amqps"), ("amqp", "amqps"), ("activemq", "activemq+ssl")])
@pytest.mark.parametrize("option", tls.OPTIONS)
def test_options_of_tls_without_tls(scheme: str, secure: str, option: str) -> None:
    """Turned on in silence, it would go to another port; left off in silence, secrets would go over the wire."""
    connection = Connection("shop", scheme, "host", options={option: "x"})
    with pytest.raises(ConfigError, match=rf"shop: {option}: TLS needs {secure.replace('+', '.')}:// instead of {scheme}://"):
        connector(scheme).source(SourceOptions(connection, ("orders",), "group"))
