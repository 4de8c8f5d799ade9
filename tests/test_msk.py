"""Amazon MSK: ports, regions and methods of logging in, checked before anything opens; tokens, without a network."""

from __future__ import annotations

import base64
import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError

from worker.connectors import msk as connector
from worker.connectors.kafka_sink import KafkaSink
from worker.connectors.msk import login_of
from worker.connectors.msk_iam import Tokens
from worker.errors import ConfigError, ConnectorError, PublishError, Refused, Unavailable
from worker.interface import Connection, SinkOptions, SourceOptions

B1 = "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"
PUBLIC = "b-1-public.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"
SERVERLESS = "boot-xyz.c1.kafka-serverless.us-east-1.amazonaws.com"
KEY = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hush"}


def connect(hosts: str, user: str | None = None, **options: Any) -> Connection:
    dotted = {name.replace("__", "."): value for name, value in options.items()}
    return Connection("shop", "msk", hosts, username=user, password="pw" if user else None, options=dotted)


@pytest.mark.parametrize(
    ("hosts", "user", "options", "expected"),
    [
        (B1, None, {}, f"{B1}:9098"),
        (B1, "ann", {}, f"{B1}:9096"),
        (B1, None, {"ssl__certificate__location": "client.pem"}, f"{B1}:9094"),
        (B1, None, {"auth": "none"}, f"{B1}:9092"),
        (PUBLIC, None, {}, f"{PUBLIC}:9198"),
        (PUBLIC, "ann", {}, f"{PUBLIC}:9196"),
        (SERVERLESS, None, {}, f"{SERVERLESS}:9098"),
        (f"{B1}:9098,other.example.com", None, {}, f"{B1}:9098,other.example.com:9098"),
        ("vpce-1.kafka.eu-west-1.vpce.amazonaws.com:14001", None, {"region": "eu-west-1"}, None),
    ],
)
def test_each_method_has_its_port(hosts: str, user: str | None, options: dict[str, str], expected: str | None) -> None:
    assert login_of(connect(hosts, user, **options), {}).connection.hosts == (expected or hosts)


@pytest.mark.parametrize(
    ("hosts", "options", "environ", "region"),
    [
        (B1, {}, {"AWS_REGION": "us-west-2"}, "eu-west-1"),
        (SERVERLESS, {}, {}, "us-east-1"),
        ("broker:9098", {}, {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "x"}, "us-west-2"),
        ("broker:9098", {}, {"AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1"),
        ("broker:9098", {"region": "ap-south-1"}, {"AWS_REGION": "us-west-2"}, "ap-south-1"),
        ("b-1.a.b.c2.kafka.cn-north-1.amazonaws.com.cn", {}, {}, "cn-north-1"),
    ],
)
def test_the_region(hosts: str, options: dict[str, str], environ: dict[str, str], region: str) -> None:
    assert login_of(connect(hosts, **options), environ).region == region


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        (connect("broker:9098"), "region: the host's name does not tell it: write region=eu-west-1, or set AWS_REGION"),
        (connect(B1, region="us-east-1"), "region: us-east-1, but the hosts are in eu-west-1"),
        (connect(f"{PUBLIC}:9098"), "a public endpoint takes auth=iam on port 9198: leave the port out"),
        (connect(f"{B1}:9198"), "this endpoint takes auth=iam on port 9098: leave the port out"),
        (connect(f"{B1}:9096"), "this endpoint takes auth=iam on port 9098"),
        (connect(PUBLIC, auth="none"), "a public endpoint takes iam, scram and tls"),
        (connect(SERVERLESS, "ann"), "auth: scram: MSK Serverless takes iam only"),
        (connect(B1, auth="kerberos"), "auth: kerberos is none of iam, scram, tls, none"),
        (connect(B1, auth="scram"), "auth: scram needs a user: msk://user:password@host"),
        (connect(B1, "ann", auth="iam"), "auth: iam takes no user"),
        (connect(B1, "ann", profile="dev"), "profile: it is for auth=iam, and this is auth=scram"),
        (connect(B1, access_key_id="AK"), "access_key_id: it goes with secret_access_key"),
        (connect(B1, security__protocol="ssl"), "security.protocol: auth= decides that"),
        (connect(B1, sasl__mechanism="PLAIN"), "sasl.mechanism: auth= decides that"),
        (connect(B1, fetch__min__byte="1"), "librdkafka has no property fetch.min.byte, did you mean fetch.min.bytes?"),
    ],
)
def test_what_cannot_work_is_said_before_anything_opens(
    connection: Connection, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    for make in (
        lambda: connector.source(SourceOptions(connection, ("orders",), "group")),
        lambda: connector.sink(SinkOptions(connection, "dead")),
    ):
        with pytest.raises(ConfigError) as raised:
            make()
        assert said in str(raised.value) and str(raised.value).startswith("connection shop: ")
        assert "hush" not in str(raised.value)


def test_nothing_is_asked_while_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokens, "_load", lambda self: pytest.fail("credentials were looked for"))
    connector.source(SourceOptions(connect(B1), ("orders",), "group"))
    connector.sink(SinkOptions(connect(B1, role_arn="arn:aws:iam::1:role/r"), "dead"))


# Tokens


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No credentials but those of a test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    yield


def tokens(**options: str) -> Tokens:
    return Tokens("connection shop: ", "eu-west-1", options)


def signed(token: str) -> dict[str, str]:
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    assert url.hostname == "kafka.eu-west-1.amazonaws.com"
    return {name: values[0] for name, values in parse_qs(url.query).items()}


def test_a_token_of_explicit_credentials() -> None:
    made = tokens(**KEY, session_token="st")
    token, expires = made()
    query = signed(token)
    assert query["X-Amz-Credential"].startswith("AKIDEXAMPLE/") and "/eu-west-1/kafka-cluster/" in query["X-Amz-Credential"]
    assert (query["Action"], query["X-Amz-Security-Token"]) == ("kafka-cluster:Connect", "st")
    assert 800 < expires - time.time() < 910, "seconds, and no milliseconds"
    assert made.principal == "access key AKIDEXAMPLE"


def test_a_token_of_the_environment_and_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert signed(tokens()()[0])["X-Amz-Credential"].startswith("FROMENV/")
    (tmp_path / "credentials").write_text("[dev]\naws_access_key_id=FROMPROFILE\naws_secret_access_key=hush\n")
    assert signed(tokens(profile="dev")()[0])["X-Amz-Credential"].startswith("FROMPROFILE/")


def test_a_token_does_not_outlive_its_credentials() -> None:
    made = tokens()
    now = datetime.datetime.now(datetime.UTC)
    made._credentials = RefreshableCredentials("AK", "hush", "st", now, lambda: {}, "test", lambda: now)
    made._credentials._expiry_time = now + datetime.timedelta(hours=1)
    assert made()[1] - time.time() > 61
    made._credentials.refresh_needed = lambda refresh_in=None: False
    made._credentials._expiry_time = now + datetime.timedelta(seconds=60)
    assert made()[1] - time.time() < 61


def test_credentials_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.session import Session

    found = []
    real = Session.get_credentials
    monkeypatch.setattr(Session, "get_credentials", lambda self: found.append(1) or real(self))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "B")
    made = tokens()
    assert [made()[0][:10] for _ in range(3)] and found == [1]


def failure(made: Tokens) -> ConnectorError:
    with pytest.raises(ConnectorError) as raised:
        made()
    assert made.failure is raised.value
    assert "\n" not in str(raised.value) and "hush" not in str(raised.value)
    return raised.value


def test_no_credentials() -> None:
    error = failure(tokens())
    assert isinstance(error, Refused) and "no AWS credentials found: set AWS_ACCESS_KEY_ID" in str(error)


def test_a_profile_that_does_not_exist() -> None:
    error = failure(tokens(profile="nobody"))
    assert isinstance(error, Refused) and "nobody" in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("AccessDenied", Refused), ("SignatureDoesNotMatch", Refused), ("Throttling", Unavailable)],
)
def test_a_role_that_is_not_assumed(monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception]) -> None:
    def refuse(self: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "not today"}}, "AssumeRole")

    from botocore.credentials import AssumeRoleCredentialFetcher

    monkeypatch.setattr(AssumeRoleCredentialFetcher, "_get_credentials", refuse)
    error = failure(tokens(**KEY, role_arn="arn:aws:iam::1:role/reader"))
    assert type(error) is kind
    assert f"AWS refuses arn:aws:iam::1:role/reader: {code}: not today" in str(error)


@pytest.mark.parametrize("permanent", [True, False])
def test_a_letter_that_is_denied_is_explained_like_a_record(monkeypatch: pytest.MonkeyPatch, permanent: bool) -> None:
    def denied(self: Any, letters: Any) -> None:
        raise PublishError("kafka: cannot log in (SASL authentication error: Access denied)", permanent=permanent)

    monkeypatch.setattr(KafkaSink, "publish", denied)
    with pytest.raises(PublishError, match="its policy must allow kafka-cluster:Connect") as raised:
        connector.sink(SinkOptions(connect(B1, **KEY), "dead")).publish([])
    assert raised.value.permanent is permanent


def test_an_assumed_role_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers refuse to re-authenticate a connection as another principal."""
    from botocore.credentials import AssumeRoleCredentialFetcher

    asked = []

    def assume(self: Any) -> Any:
        asked.append(self._assume_kwargs)
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        told = {"AccessKeyId": "ASIA", "SecretAccessKey": "hush", "SessionToken": "st", "Expiration": ends.isoformat()}
        return {"Credentials": told}

    monkeypatch.setattr(AssumeRoleCredentialFetcher, "_get_credentials", assume)
    for _ in range(2):
        made = tokens(**KEY, role_arn="arn:aws:iam::1:role/reader")
        assert signed(made()[0])["X-Amz-Credential"].startswith("ASIA/")
        assert made.principal == "arn:aws:iam::1:role/reader"
    assert [told["RoleSessionName"] for told in asked] == ["stream-worker"] * 2


def test_a_failure_that_passes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens(**KEY)
    real = Tokens._load

    def broken(self: Tokens) -> Any:
        raise ValueError("AWS Credentials can not be empty")

    monkeypatch.setattr(Tokens, "_load", broken)
    assert isinstance(failure(made), Unavailable)
    monkeypatch.setattr(Tokens, "_load", real)
    made()
    assert made.failure is None


# What goes over the wire


@pytest.mark.parametrize(
    ("user", "options"),
    [(None, KEY), ("ann", {}), ("ann", {"auth": "scram"}), (None, {"auth": "tls"})],
    ids=["iam", "scram", "auth=scram", "tls"],
)
def test_every_login_begins_with_tls(user: str | None, options: dict[str, str]) -> None:
    """A token or a password in plain text is anybody's."""
    first: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as client:
                    first.append(client.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=listen, daemon=True).start()
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        region = {"region": "eu-west-1"} if user is None and "auth" not in options else {}
        source = connector.source(SourceOptions(connect(where, user, **options, **region), ("orders",), "group"))
        with pytest.raises(ConnectorError):
            source.open(lambda partitions, *, lost: None)
        source.close()
        listening.shutdown(socket.SHUT_RDWR)
    assert first[0] == b"\x16", "a handshake; afterwards our own look at what speaks there is in plain text"
