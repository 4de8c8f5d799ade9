"""A connection that ends while TLS is negotiated may heal; one that will never speak TLS is refused."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest

from worker.connectors import activemq_errors, kafka, rabbitmq_errors, tls
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


def test_a_load_balancer_whose_brokers_start_is_tried_again() -> None:
    """Kafka's client says of it "connecting to a PLAINTEXT broker listener?"."""

    def hang_up() -> None:
        while True:
            try:
                with balancer.accept()[0] as client:
                    client.recv(4096)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as balancer:
        threading.Thread(target=hang_up, daemon=True).start()
        address = f"127.0.0.1:{balancer.getsockname()[1]}"
        source = kafka.source(SourceOptions(Connection("b", "kafka", address, options={"security.protocol": "ssl"}), ("q",), "g"))
        with pytest.raises(Unavailable, match="no broker reached"):
            source.open(lambda partitions, *, lost: None)
        balancer.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("scheme", "secure"), [("rabbitmq", "amqps"), ("amqp", "amqps"), ("activemq", "activemq+ssl")])
@pytest.mark.parametrize("option", tls.OPTIONS)
def test_options_of_tls_without_tls(scheme: str, secure: str, option: str) -> None:
    """Turned on in silence, it would go to another port; left off in silence, secrets would go over the wire."""
    connection = Connection("shop", scheme, "host", options={option: "x"})
    with pytest.raises(ConfigError, match=rf"shop: {option}: TLS needs {secure.replace('+', '.')}:// instead of {scheme}://"):
        connector(scheme).source(SourceOptions(connection, ("orders",), "group"))


@pytest.mark.parametrize("scheme", EXPLAIN)
@pytest.mark.parametrize("option", ["cafile", "certfile"])
def test_a_file_that_is_no_name_is_one_line(scheme: str, option: str) -> None:
    connection = Connection("shop", scheme, "host", options={option: 7})
    with pytest.raises(ConfigError, match=f"shop: {option}: 7"):
        connector(scheme).source(SourceOptions(connection, ("orders",), "group"))
