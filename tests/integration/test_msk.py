"""Logins at a stand-in for Amazon MSK that verifies tokens: what is refused is one clear line, what is renewed loses nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_engine
from tests.contract import Member, letter
from tests.test_contract_msk import IAM, Behind, connect
from worker.connectors import msk as connector
from worker.connectors.msk_iam import Tokens
from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Connection, SinkOptions, SourceOptions
from worker.testing import MskContainer
from worker.testing.containers import KAFKA_IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MskContainer, Path]]:
    """Wants every connection to log in again after ten seconds."""
    need_engine()
    if not os.environ.get(KAFKA_IMAGE):
        pytest.skip(f"no image with the listeners of Amazon MSK: {KAFKA_IMAGE} is not set")
    keys = "AKIDEXAMPLE:secret,TEMPORARY:secret:session"
    with MskContainer(KAFKA_CONNECTIONS_MAX_REAUTH_MS="10000", MSK_IAM_KEYS=keys) as container:
        yield container, container.pem("ca.pem", tmp_path_factory.mktemp("strict"))


def refusal(connection: Connection) -> ConnectorError:
    """What opening raises: one line, without a secret, the same for source and sink."""
    began = time.monotonic()
    source = connector.source(SourceOptions(connection, ("orders",), "group"))
    with pytest.raises(ConnectorError) as raised:
        source.open(lambda partitions, lost: None)
    source.close()
    assert time.monotonic() - began < 8
    sink = connector.sink(SinkOptions(connection, "orders"))
    with pytest.raises(type(raised.value)):
        sink.open()
    sink.close()
    assert "\n" not in str(raised.value) and "wrong-secret" not in str(raised.value)
    return raised.value


DENIED = "Amazon MSK denies access key {}: its policy must allow kafka-cluster:Connect on this cluster"


@pytest.mark.parametrize(
    "login",
    [
        {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wrong-secret"},
        {"access_key_id": "NOBODY", "secret_access_key": "wrong-secret"},
        {"access_key_id": "TEMPORARY", "secret_access_key": "secret", "session_token": "expired"},
    ],
    ids=["secret", "key", "session"],
)
def test_who_is_denied(strict: tuple[MskContainer, Path], login: dict[str, str]) -> None:
    container, ca = strict
    error = refusal(connect(container, "IAM", ca, **{**IAM, **login}))
    assert isinstance(error, Refused)
    assert DENIED.format(login["access_key_id"]) in str(error)
    assert "clock right, and eu-west-1 the cluster's region" in str(error) and "Access denied" in str(error)


def test_no_credentials_are_said_at_once(
    strict: tuple[MskContainer, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    container, ca = strict
    assert "no AWS credentials found" in str(refusal(connect(container, "IAM", ca, region="eu-west-1")))


def test_iam_at_the_port_of_scram(strict: tuple[MskContainer, Path]) -> None:
    container, ca = strict
    error = refusal(connect(container, "SCRAM", ca, **IAM))
    assert isinstance(error, Refused) and "auth=iam is not for this port: 9098, public 9198, is" in str(error)


def test_scram_at_the_port_of_tls(strict: tuple[MskContainer, Path]) -> None:
    container, ca = strict
    assert "auth=scram is not for this port: 9096, public 9196, is" in str(refusal(connect(container, "TLS", ca, "user")))


def test_temporary_credentials(strict: tuple[MskContainer, Path]) -> None:
    container, ca = strict
    topic = Behind(container).topic("temporary")
    login = {**IAM, "access_key_id": "TEMPORARY", "session_token": "session"}
    sink = connector.sink(SinkOptions(connect(container, "IAM", ca, **login), topic))
    sink.open()
    sink.close()


def test_a_password(strict: tuple[MskContainer, Path]) -> None:
    container, ca = strict
    topic = Behind(container).topic("scram")
    login = connect(container, "SCRAM", ca, "user")
    Behind(container).produce(topic, [b"1"])
    member = Member(connector.source(SourceOptions(login, (topic,), "scram"))).open()
    member.receive(1)
    member.source.close()


def test_mutual_tls(msk: MskContainer, tmp_path: Path) -> None:
    ca = msk.pem("ca.pem", tmp_path)
    files = {"ssl.certificate.location": msk.pem("client.pem", tmp_path), "ssl.key.location": msk.pem("client.key", tmp_path)}
    topic = Behind(msk).topic("tls")
    sink = connector.sink(SinkOptions(connect(msk, "TLS", ca, **{name: str(path) for name, path in files.items()}), topic))
    sink.open()
    sink.close()


def steadily(container: MskContainer, member: Member, topic: str, seconds: float) -> list[bytes]:
    """Writes a few records at a time and reads them, for so long; returns what was written."""
    kafka = Behind(container)
    written: list[bytes] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        new = [b"%d" % number for number in range(len(written), len(written) + 20)]
        kafka.produce(topic, new, partition=0)
        written += new
        for batch in member.poll(500, 0.1):
            member.source.commit([batch])
    return written


def test_connections_log_in_again_without_losing_a_record(
    strict: tuple[MskContainer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens live 12 s, and the broker wants a new login every 10: both come several times."""
    container, ca = strict
    topic = Behind(container).topic("again")
    made: list[float] = []
    real = Tokens.__call__

    def short(self: Tokens, config: str | None = None) -> tuple[str, float]:
        made.append(time.monotonic())
        return real(self)[0], time.time() + 12

    monkeypatch.setattr(Tokens, "__call__", short)
    member = Member(connector.source(SourceOptions(connect(container, "IAM", ca, **IAM), (topic,), "again"))).open()
    sink = connector.sink(SinkOptions(connect(container, "IAM", ca, **IAM), topic))
    written = steadily(container, member, topic, 35)
    member.until(lambda: len(member.got) >= len(written))
    assert [record.value for record in member.got] == written
    assert len(made) >= 3 and not member.revoked
    sink.publish([letter(member.got[0])])
    sink.close()
    member.source.close()


def test_tokens_that_stop_coming_and_come_again(msk: MskContainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is logged in goes on with its last token, until the broker wants another one; who is not says why; nothing is lost."""
    container, ca = msk, msk.pem("ca.pem", tmp_path)
    kafka = Behind(container)
    topic = kafka.topic("stops")
    away, asked = [False], list[bool]()
    real = Tokens._load

    def load(self: Tokens) -> Any:
        asked.append(away[0])
        if away[0]:
            raise ValueError("the metadata service is away")
        return real(self)

    call = Tokens.__call__
    monkeypatch.setattr(Tokens, "_load", load)
    monkeypatch.setattr(Tokens, "__call__", lambda self, config=None: (call(self, config)[0], time.time() + 5))

    def member() -> Member:
        return Member(connector.source(SourceOptions(connect(container, "IAM", ca, **IAM), (topic,), "stops")))

    first, late = member().open(), member()
    kafka.produce(topic, [b"0"], partition=0)
    first.receive(1)
    away[0] = True
    first.until(lambda: asked[-1])
    with pytest.raises(Unavailable, match="the metadata service is away"):
        late.open()
    late.source.close()
    kafka.produce(topic, [b"1"], partition=0)
    first.receive(1)
    away[0] = False
    first.until(lambda: not asked[-1])
    kafka.produce(topic, [b"2"], partition=0)
    first.receive(1)
    assert [record.value for record in first.got] == [b"0", b"1", b"2"] and not first.revoked
    first.source.close()
