"""Layers, and complaints that say which option, where from, its value and what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import App
from worker.errors import ConfigError
from worker.retry import Backoff
from worker.settings import Settings, load


def app_of(streams: tuple[str, ...] = ("kafka:orders",), connections: Any = None, **options: Any) -> App:
    app = App("shop", connections={"kafka": "kafka://code:9092"} if connections is None else connections)

    @app.handler(*streams, **options)
    def charge(values: list[bytes]) -> None: ...

    return app


def loaded(
    app: App | None = None, *, file: Path | None = None, environ: dict[str, str] | None = None, flags: Any = ()
) -> Settings:
    return load(app or app_of(), file=file, environ=environ or {}, flags=flags)


def complaints(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*arguments, **keywords)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_each_layer_overrules_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(
        '[connections]\nkafka = "kafka://file:9092"\n'
        '[handlers.charge]\nbatch_size = 2\nretries = 2\nwindow = 2\ndead_letter = "discard"\n'
    )
    settings = loaded(
        app_of(batch_size=1, retries=1, window=1.0, drain=1.0),
        file=file,
        environ={"WORKER_HANDLERS__CHARGE__RETRIES": "3", "WORKER_HANDLERS__CHARGE__WINDOW": "3"},
        flags=["handlers.charge.window=4"],
    )
    options = settings.handlers["charge"].options
    assert (options.drain, options.batch_size, options.retries, options.window) == (1, 2, 3, 4)
    assert settings.connections["kafka"].hosts == "file:9092"


def test_a_connection_merges_its_url_and_its_options() -> None:
    app = app_of(connections={"kafka": {"url": "kafka://a:1?x=1", "y": "2", "z": "3"}})
    environ = {"WORKER_CONNECTIONS__KAFKA": "kafka://u:p%40ss@b:2,c:3?x=9", "WORKER_CONNECTIONS__KAFKA__SASL_PASSWORD": "s"}
    connection = loaded(app, environ=environ).connections["kafka"]
    assert (connection.hosts, connection.username, connection.password) == ("b:2,c:3", "u", "p@ss")
    assert connection.options == {"x": "9", "y": "2", "z": "3", "sasl_password": "s"}
    assert str(connection) == "kafka://u@b:2,c:3"
    assert "p@ss" not in repr(connection)


def test_all_complaints_come_at_once_with_origin_value_and_bound() -> None:
    told = complaints(
        app_of(batch_size=0),
        environ={"WORKER_HANDLERS__CHARGE__WINDOW": "301", "WORKER_HANDLERS__CHARGE__RETRYS": "1"},
        flags=["handlers.charge.concurrency=x"],
    )
    assert "handlers.charge.batch_size = 0 (from code): a whole number; at least 1; at most 10,000" in told
    assert (
        "handlers.charge.window = 301 (from environment WORKER_HANDLERS__CHARGE__WINDOW): a number; at least 0; at most 300"
        in told
    )
    assert "retrys = 1" in told and "did you mean retries?" in told
    assert "handlers.charge.concurrency = x (from --set): a whole number" in told


def test_a_value_with_its_end_of_line_is_told_in_one_line() -> None:
    told = complaints(environ={"WORKER_HANDLERS__CHARGE__BATCH_SIZE": "many\n", "WORKER_CONNECTIONS__KAFKA": "kafka://a b\n"})
    assert [line.partition(" = ")[0] for line in told.split("\n")] == ["connections.kafka", "handlers.charge.batch_size"]
    assert r"many\n (from" in told


def test_names_that_do_not_exist_are_named_with_a_near_one() -> None:
    assert "did you mean charge?" in complaints(flags=["handlers.chrage.window=1"])
    assert "did you mean handlers?" in complaints(flags=["handler.charge.window=1"])
    assert "WORKER_CONNECTIONS__RABBIT=" in complaints(app_of(("rabbit:orders",)))
    assert "connections.NAME" in complaints(flags=["x=1"]) and "--set" in complaints(flags=["nothing"])


def test_secrets_are_never_shown() -> None:
    told = complaints(
        environ={"WORKER_CONNECTIONS__KAFKA": "kafka://user:hunter2@:bad host/?sasl.password=hunter2"},
        flags=["connections.other.sasl.password=hunter2", "handlers.charge.password=hunter2"],
    )
    assert "hunter2" not in told and "***" in told


@pytest.mark.parametrize(
    "url", ["", "localhost:9092", "kafka://", "kafka://a,,b", "kafka:// a", "kafka://u:p#x@h", "kafka://[::1"]
)
def test_a_malformed_url_says_what_one_looks_like(url: str) -> None:
    assert "kafka://" in complaints(environ={"WORKER_CONNECTIONS__KAFKA": url}) or url == "kafka://u:p#x@h"


def test_the_source_is_refused_as_its_own_dead_letter() -> None:
    assert "for ever" in complaints(app_of(dead_letter="kafka:orders"))
    assert "for ever" in complaints(app_of(("kafka:^ord.*",), dead_letter="kafka:orders.dead"))
    assert loaded(app_of(dead_letter="kafka:orders.dead")).handlers["charge"].dead_letter is not None


@pytest.mark.parametrize(("option", "value"), [("retries", 0), ("retries", 5), ("max_age", 60.0)])
def test_a_limit_without_a_place_for_what_exceeds_it_is_refused(tmp_path: Path, option: str, value: float) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f"[handlers.charge]\n{option} = {value}\n")
    variable = f"WORKER_HANDLERS__CHARGE__{option.upper()}"
    layers: list[dict[str, Any]] = [
        {"app": app_of(**{option: value})},
        {"file": file},
        {"environ": {variable: str(value)}},
        {"flags": [f"handlers.charge.{option}={value}"]},
    ]
    for layer in layers:
        told = complaints(**layer)
        assert f"handlers.charge.{option} = {value}" in told
        assert 'dead_letter="kafka:' in told and 'dead_letter="discard"' in told
    for place in ("kafka:dead", "discard"):
        for layer in layers:
            assert loaded(**{**layer, "environ": {**layer.get("environ", {}), "WORKER_HANDLERS__CHARGE__DEAD_LETTER": place}})


def test_discard_is_a_dead_letter_in_each_layer(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[handlers.charge]\ndead_letter = "discard"\n')
    for layer in (
        {"app": app_of(dead_letter="discard")},
        {"file": file},
        {"environ": {"WORKER_HANDLERS__CHARGE__DEAD_LETTER": "discard"}},
        {"flags": ["handlers.charge.dead_letter=discard"]},
    ):
        assert loaded(**layer).handlers["charge"].dead_letter == "discard"  # type: ignore[arg-type]


def test_streams_of_one_connection_only() -> None:
    told = complaints(app_of(("kafka:a", "other:b"), connections={"kafka": "kafka://a", "other": "kafka://b"}))
    assert "of one connection" in told
    assert loaded(app_of(("kafka:a:b", "kafka:c"))).handlers["charge"].streams == ("a:b", "c")


def test_an_empty_variable_is_an_unset_one_and_others_are_not_ours() -> None:
    environ = {"WORKER_HANDLERS__CHARGE__RETRIES": "", "WORKER_TEST_KAFKA_IMAGE": "x", "WORKERS": "1"}
    assert loaded(environ=environ).handlers["charge"].options.retries is None


def test_a_dotted_key_of_the_file_is_an_option(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[connections.kafka]\nurl = "kafka://a"\nssl.ca.location = "ca.pem"\n')
    assert loaded(file=file).connections["kafka"].options == {"ssl.ca.location": "ca.pem"}
    file.write_text("[connections")
    assert "not valid TOML" in complaints(file=file)


@given(st.text(), st.text())
def test_whatever_the_url_and_the_value_only_config_errors_come(url: str, value: str) -> None:
    app = app_of(connections={"kafka": url})
    try:
        load(app, environ={"WORKER_HANDLERS__CHARGE__BATCH_SIZE": value}, flags=[])
    except ConfigError as error:
        assert str(error)


def test_only_the_handlers_that_are_named_are_run() -> None:
    app = app_of()

    @app.handler("kafka:other")
    def refund(values: list[bytes]) -> None: ...

    assert list(load(app, environ={}).handlers) == ["charge", "refund"]
    assert list(load(app, environ={}, only=["refund"]).handlers) == ["refund"]
    with pytest.raises(ConfigError, match="did you mean refund"):
        load(app, environ={}, only=["refnd"])


def test_a_group_is_the_handlers_own_unless_named() -> None:
    assert loaded().handlers["charge"].group == "shop.charge"
    named = loaded(app_of(group="others")).handlers["charge"]
    assert (named.group, named.label) == ("others", "shop.charge")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("backoff", "0.5", Backoff(0.5)),
        ("bisect", "false", False),
        ("ordered", "false", False),
        ("max_age", "60", 60.0),
        ("flood", "1", 1.0),
        ("start", "2026-01-02T03:04:05+00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("dead_letter_timeout", "5", 5.0),
        ("timeout", "2.5", 2.5),
        ("isolation", "process", "process"),
        ("on_flood", "probe", "probe"),
    ],
)
def test_what_is_written_as_text_is_what_the_handler_gets(option: str, text: str, value: object) -> None:
    assert getattr(loaded(flags=[f"handlers.charge.{option}={text}"]).handlers["charge"].options, option) == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("flood", "0"), ("flood", "1.1"), ("retries", "-1"), ("timeout", "0"), ("max_age", "0"), ("drain", "-1")),
        *(("dead_letter", "nowhere"), ("isolation", "container"), ("on_flood", "go on"), ("start", "soon"), ("parallel", "0")),
        *(("commit_interval", "0"), ("dead_letter_timeout", "0"), ("window", "-1"), ("max_bytes", "0"), ("batch_size", "10001")),
    ],
)
def test_what_no_handler_can_do_is_refused(option: str, value: str) -> None:
    told = complaints(flags=[f"handlers.charge.{option}={value}"])
    assert told.startswith(f"handlers.charge.{option} = {value} (from --set): ") and "\n" not in told
