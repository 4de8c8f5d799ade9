"""Handshakes with a server that has a certificate: what must fail by default, and what makes it succeed."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.waiting import until
from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Connection, SinkOptions, SourceOptions
from worker.plugins import connector

SCHEMES = ["amqps", "activemq+ssl"]


class Server:
    """Shakes hands, notes what came of it, and hangs up."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.shaken: list[str] = []
        """"done", or why not; with the name of the client's certificate, if it showed one."""
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            client.settimeout(20)
            try:
                with self._context.wrap_socket(client, server_side=True) as shaken:
                    if not shaken.recv(1):  # something is sent only by who trusts us
                        raise ConnectionResetError("it closed the connection")
                    shown: Any = shaken.getpeercert() or {}
                    names = [name for kind, name in shown.get("subjectAltName", ()) if kind == "DNS"]
                    self.shaken.append(" ".join(["done", *names]))
            except (OSError, ValueError) as error:
                self.shaken.append(str(error))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    client = authority.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    return folder


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    """Its certificate is for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    made = Server(context)
    yield made
    made.close()


def failure(scheme: str, host: str, server: Server, **options: Any) -> ConnectorError:
    """Why it could not be opened: the source and the sink alike."""
    connection = Connection("shop", scheme, f"{host}:{server.port}", options=options)
    source = connector(scheme).source(SourceOptions(connection, ("orders",), "group"))
    with pytest.raises(ConnectorError) as raised:
        source.open(lambda partitions, *, lost: None)
    source.close()
    sink = connector(scheme).sink(SinkOptions(connection, "dead", 1.0))
    with pytest.raises(type(raised.value)):
        sink.open()
    sink.close()
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("trusted", [None, "other.pem"])
def test_a_certificate_of_an_unknown_authority_is_refused(scheme: str, trusted: str | None, server: Server, files: Path) -> None:
    options = {} if trusted is None else {"cafile": str(files / trusted)}
    error = failure(scheme, "localhost", server, **options)
    assert isinstance(error, Refused) and "its certificate is not accepted" in str(error) and "cafile=" in str(error)
    until(lambda: len(server.shaken) >= 2)
    assert not any(told.startswith("done") for told in server.shaken)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_for_another_name_is_refused(scheme: str, server: Server, files: Path) -> None:
    options = {"cafile": str(files / "ca.pem")}
    assert isinstance(failure(scheme, "127.0.0.1", server, **options), Refused)
    assert isinstance(failure(scheme, "localhost", server, **options, server_hostname="other.example"), Refused)
    until(lambda: len(server.shaken) >= 4)
    assert not any(told.startswith("done") for told in server.shaken)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("localhost", {"cafile": "ca.pem"}),
        ("localhost", {"cafile": "ca.pem", "verify": "true"}),
        ("127.0.0.1", {"cafile": "ca.pem", "server_hostname": "localhost"}),
        ("127.0.0.1", {"verify": "false"}),
        ("127.0.0.1", {"verify": False}),
    ],
)
def test_what_makes_a_handshake_succeed(scheme: str, host: str, options: dict[str, Any], server: Server, files: Path) -> None:
    told = {name: str(files / value) if name == "cafile" else value for name, value in options.items()}
    assert isinstance(failure(scheme, host, server, **told), Unavailable), "it hung up after the handshake"
    until(lambda: len(server.shaken) >= 2)
    assert set(server.shaken) == {"done"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_of_ones_own_is_shown(scheme: str, server: Server, files: Path) -> None:
    options = {name: str(files / file) for name, file in (("cafile", "ca.pem"), ("certfile", "client.pem"))}
    failure(scheme, "localhost", server, **options, keyfile=str(files / "client.key"))
    until(lambda: len(server.shaken) >= 2)
    assert set(server.shaken) == {"done client.example"}


@pytest.mark.parametrize(
    ("host", "trusted", "done"), [("localhost", None, False), ("127.0.0.1", "ca.pem", False), ("localhost", "ca.pem", True)]
)
def test_kafka_verifies_authority_and_name(host: str, trusted: str | None, done: bool, server: Server, files: Path) -> None:
    options = {"security.protocol": "ssl"} | ({"ssl.ca.location": str(files / trusted)} if trusted else {})
    connection = Connection("shop", "kafka", f"{host}:{server.port}", options={**options, "broker.address.family": "v4"})
    for made in (
        connector("kafka").source(SourceOptions(connection, ("orders",), "group")),
        connector("kafka").sink(SinkOptions(connection, "dead", 1.0)),
    ):
        with pytest.raises(ConnectorError):
            made.open(lambda partitions, *, lost: None) if hasattr(made, "poll") else made.open()  # type: ignore[call-arg]
        made.close()
    assert any(told == "done" for told in server.shaken) is done and server.shaken
