"""Amazon MSK: `msk://[user:password@]host[,host2...][?auth=iam|scram|tls|none&...]`; everything else is as with `kafka://`.

`auth`: `iam` (default), `scram` (default with a user in the URL), `tls` (default with ssl.certificate.location) or `none`.
A host without a port gets the one of its method: 9098, 9096, 9094, 9092; of a public endpoint 9198, 9196, 9194.
With `iam`: `region` (unset: from the host's name, else AWS_REGION or AWS_DEFAULT_REGION); credentials from `access_key_id`,
`secret_access_key` and `session_token`, a `profile`, or the default chain; `role_arn` and `role_session_name` assume a role.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from worker.connectors import kafka, kafka_browse
from worker.connectors.kafka_sink import KafkaSink
from worker.connectors.kafka_source import KafkaSource
from worker.errors import ConfigError, ConnectorError, PublishError, Unavailable
from worker.interface import Batch, Connection, DeadLetter, OnRevoke, SinkOptions, SourceOptions

_PORTS = {"iam": 9098, "scram": 9096, "tls": 9094, "none": 9092}
_PUBLIC = 100
"""A public endpoint's ports are so much higher."""
_IAM = ("region", "profile", "role_arn", "role_session_name", "access_key_id", "secret_access_key", "session_token")
_OURS = ("security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.oauthbearer.method", "sasl.oauthbearer.config")
_HOST = re.compile(r"(?P<first>[^.]+)\..*\.(?P<kind>kafka|kafka-serverless)\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?$")


class Tokens(Protocol):
    principal: str
    failure: ConnectorError | None

    def __call__(self, config: str | None = None) -> tuple[str, float]: ...


@dataclass(frozen=True)
class Login:
    """The connection as Kafka's connector takes it, and where tokens come from."""

    connection: Connection
    auth: str
    region: str | None = None
    tokens: Tokens | None = None

    @property
    def client(self) -> dict[str, Any]:
        """What confluent-kafka is told besides."""
        if self.tokens is None:
            return {}
        return {"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER", "oauth_cb": self.tokens}

    def try_a_token(self) -> None:
        """At once, and with the reason: the client waits ten seconds for one, and then says only that it has none."""
        if self.tokens is not None:
            self.tokens()

    def explain(self, error: ConnectorError) -> ConnectorError:
        """What MSK means by it."""
        text = str(error)
        said = text[text.find("(") + 1 :].rstrip(")")  # the client's words, behind what our own line makes of them
        if self.tokens is not None and self.tokens.failure is not None:
            return self.tokens.failure
        if self.tokens is not None and ("Access denied" in said or "OAuth" in said):
            told = (
                f"Amazon MSK denies {self.tokens.principal}: its policy must allow kafka-cluster:Connect on this cluster, "
                f"the key must be valid, this machine's clock right, and {self.region} the cluster's region ({said})"
            )
        elif "supported mechanisms" in said or "SASL state" in said:
            port = _PORTS[self.auth]
            told = f"auth={self.auth} is not for this port: {port}, public {port + _PUBLIC}, is ({said})"
        else:
            return error
        return type(error)(f"connection {self.connection.name}: {told}")


def source(options: SourceOptions) -> KafkaSource:
    for stream in options.streams:
        kafka.check_stream(stream, options.connection.name)
    login = login_of(options.connection, os.environ)
    return MskSource(replace(options, connection=login.connection), login)


def sink(options: SinkOptions) -> KafkaSink:
    login = login_of(options.connection, os.environ)
    return MskSink(replace(options, connection=login.connection), login)


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    return kafka.reads(source, stream, target, name)


grouped, warnings = kafka.grouped, kafka.warnings


def browse(options: SourceOptions) -> Iterator[Batch]:
    login = login_of(options.connection, os.environ)
    login.try_a_token()
    try:
        yield from kafka_browse.browse(replace(options, connection=login.connection), login.client)
    except ConnectorError as error:
        raise login.explain(error) from error


class MskSource(KafkaSource):
    def __init__(self, options: SourceOptions, login: Login) -> None:
        super().__init__(options, login.client)
        self._login = login

    def open(self, on_revoke: OnRevoke) -> None:
        self._login.try_a_token()
        try:
            super().open(on_revoke)
        except ConnectorError as error:
            raise self._login.explain(error) from error

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        try:
            return super().poll(max_records, timeout)
        except ConnectorError as error:
            raise self._login.explain(error) from error


class MskSink(KafkaSink):
    def __init__(self, options: SinkOptions, login: Login) -> None:
        super().__init__(options, login.client)
        self._login = login

    def open(self) -> None:
        self._login.try_a_token()
        try:
            super().open()
        except ConnectorError as error:
            raise self._login.explain(error) from error

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        try:
            super().publish(letters)
        except PublishError as error:
            told = self._login.explain(Unavailable(str(error)))
            raise PublishError(str(told), permanent=error.permanent) from error


def login_of(connection: Connection, environ: Mapping[str, str]) -> Login:
    """Checked, without a look at AWS or at the brokers."""
    given = {name.replace("_", ".") if "ssl" in name else name: value for name, value in connection.options.items()}
    for name in _OURS:
        if name in given or name.replace(".", "_") in given:
            raise _wrong(connection, name, "auth= decides that: iam, scram, tls or none")
    auth = str(given.pop("auth", "") or _usual(connection, given))
    if auth not in _PORTS:
        raise _wrong(connection, "auth", f"{auth} is none of {', '.join(_PORTS)}")
    hosts = [host.strip() for host in connection.hosts.split(",") if host.strip()]
    region = _region(connection, given, hosts, environ)
    iam = {name: str(given.pop(name)) for name in _IAM if name in given}
    made = replace(connection, hosts=",".join(_with_port(connection, host, auth) for host in hosts))
    if auth == "iam":
        return Login(replace(made, options=given), auth, region, _tokens(connection, iam, region))
    if iam:
        raise _wrong(connection, next(iter(iam)), f"it is for auth=iam, and this is auth={auth}")
    if auth == "scram":
        if connection.username is None:
            raise _wrong(connection, "auth", "scram needs a user: msk://user:password@host")
        given |= {"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512"}
    elif auth == "tls":
        given |= {"security.protocol": "ssl"}
    return Login(replace(made, options=given), auth)


def _usual(connection: Connection, given: Mapping[str, Any]) -> str:
    if connection.username is not None:
        return "scram"
    return "tls" if any(name.startswith(("ssl.certificate", "ssl.keystore")) for name in given) else "iam"


def _tokens(connection: Connection, iam: Mapping[str, str], region: str | None) -> Tokens:
    if region is None:
        raise _wrong(connection, "region", "the host's name does not tell it: write region=eu-west-1, or set AWS_REGION")
    if ("access_key_id" in iam) != ("secret_access_key" in iam):
        raise _wrong(connection, "access_key_id", "it goes with secret_access_key")
    if connection.username is not None:
        raise _wrong(connection, "auth", "iam takes no user: leave it out of the URL, or write auth=scram")
    try:
        import aws_msk_iam_sasl_signer  # noqa: F401  # untyped

        from worker.connectors import msk_iam
    except ImportError as error:
        raise ConfigError(f"connection {connection.name}: auth=iam: {error}; pip install stream-worker[msk]") from error
    return msk_iam.Tokens(f"connection {connection.name}: ", region, iam)


def _region(connection: Connection, given: Mapping[str, Any], hosts: list[str], environ: Mapping[str, str]) -> str | None:
    """The option's; else the host's, as the environment tells where the worker runs; else the environment's."""
    named = {found["region"] for host in hosts if (found := _HOST.match(_split(host)[0]))}
    told = str(given["region"]) if given.get("region") else None
    if told and named and told not in named:
        raise _wrong(connection, "region", f"{told}, but the hosts are in {', '.join(sorted(named))}")
    return told or next(iter(named), None) or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")


def _with_port(connection: Connection, host: str, auth: str) -> str:
    name, port = _split(host)
    found = _HOST.match(name)
    if found and found["kind"] == "kafka-serverless" and auth != "iam":
        raise _wrong(connection, "auth", f"{auth}: MSK Serverless takes iam only")
    public = found is not None and found["first"].endswith("-public")
    usual = _PORTS[auth] + (_PUBLIC if public else 0)
    if public and auth == "none":
        raise _wrong(connection, "auth", "none: a public endpoint takes iam, scram and tls")
    if found and port and 9092 <= int(port) <= 9198 and int(port) != usual:
        kind = "a public endpoint" if public else "this endpoint"
        raise ConfigError(f"connection {connection.name}: {host}: {kind} takes auth={auth} on port {usual}: leave the port out")
    return f"{name}:{port or usual}"


def _split(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdigit() else (host, "")


def _wrong(connection: Connection, name: str, why: str) -> ConfigError:
    return ConfigError(f"connection {connection.name}: {name}: {why}")
