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
from worker.options import HandlerOptions
from worker.plugins import connector
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


def test_a_url_is_no_stream_and_its_password_is_not_shown() -> None:
    undecorated = App("shop")
    undecorated.handler("connection:name", "kafka://user:hunter2@host/orders")
    for told in (
        complaints(app_of(("kafka://user:hunter2@host/orders",))),
        complaints(app_of(dead_letter="kafka://user:hunter2@host/dead")),
        complaints(flags=["handlers.charge.streams=kafka:a,kafka://user:hunter2@host/orders"]),
        complaints(undecorated),
    ):
        assert "connection:name" in told and "hunter2" not in told


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


BREAKING = ["Qx/Zk", "Qx?Zk", "Qx#Zk", "/QxZk", "QxZk#", "Qx/Zk?x=1#y", "Qx@Z/k", "Qx@Zk?w=1", "Qx?Zk=1", "Qx/Z@k"]


@pytest.mark.parametrize("scheme", ["kafka", "msk", "rabbitmq", "amqps", "activemq", "activemq+ssl"])
def test_a_password_that_breaks_a_url_is_refused_and_nothing_of_it_shown(scheme: str) -> None:
    for url in (f"{scheme}://svcuser:{one}@broker:9092{tail}" for one in BREAKING for tail in ("", "/vhost", "?option=1")):
        for told in (
            complaints(environ={"WORKER_CONNECTIONS__KAFKA": url}),
            complaints(app_of(connections={"kafka": {"url": url}})),
            complaints(flags=[f"connections.kafka={url}"]),
        ):
            assert "%2F" in told and "***@broker" in told
            assert not any(part in told for part in ("svcuser", "Qx", "Zk", "Z@k"))


@pytest.mark.parametrize(
    "flag", ["connections.c kafka://u:hunter2@h", "connections.c:kafka://u:hunter2@h?x=1", "c.password hunter2"]
)
def test_a_mistyped_flag_shows_no_password(flag: str) -> None:
    assert "hunter2" not in complaints(flags=[flag])


@pytest.mark.parametrize(
    "name", ["passwd", "pwd", "passphrase", "sasl.oauthbearer.assertion.private.key.passphrase", "sasl_password"]
)
def test_options_that_are_secrets_by_other_names(name: str) -> None:
    assert "hunter2" not in complaints(flags=[f"handlers.charge.{name}=hunter2"])


ODD = [
    None,
    5,
    1.5,
    True,
    [],
    ["x"],
    {},
    {"a": 1},
    object(),
    b"x",
    (),
    float("nan"),
    float("inf"),
    10**400,
    "x" * 100,
    -1,
    "",
    " ",
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_no_value_that_a_setting_may_be_given_ends_in_a_traceback(value: Any, tmp_path: Path) -> None:
    """Each is refused with its name, or taken for what it means."""
    for option in HandlerOptions.model_fields:
        try:
            loaded(app_of(dead_letter="discard") if option != "dead_letter" else app_of(**{option: value}))
            loaded(app_of(**{"dead_letter": "discard", option: value}))
        except ConfigError as error:
            assert f"handlers.charge.{option}" in str(error)
        for text in (str(value), repr(value)):
            try:
                loaded(app_of(dead_letter="discard"), flags=[f"handlers.charge.{option}={text}"])
            except ConfigError as error:
                assert "handlers.charge." in str(error)
    for connections in ({"kafka": value}, {"kafka": {"url": value}}, {"kafka": {"url": "kafka://a", "option": value}}):
        try:
            loaded(app_of(connections=connections))
        except ConfigError as error:
            assert "connections.kafka" in str(error)


def test_what_is_not_set_is_called_so() -> None:
    assert "connections.kafka = None (from code): it is not set" in complaints(app_of(connections={"kafka": None}))
    assert "it is not set" in complaints(environ={"WORKER_CONNECTIONS__KAFKA": ""})
    password = app_of(connections={"kafka": {"url": "kafka://a", "sasl.password": None}})
    assert "connections.kafka.sasl.password" in complaints(password)


@pytest.mark.parametrize(
    "content",
    [
        *("handlers = 5", "[[handlers]]\nx = 1", "handlers.charge = 5", "[handlers.charge]\nstreams = 5", "connections = 1"),
        *("[handlers.charge]\nbatch_size = {a = 1}", "[connections]\nkafka = 1979-05-27", "[connections.kafka]\nurl = 5"),
        *("[handlers.charge]\nstreams = [[1]]", "[handlers.charge]\nstreams = []", "[connections]\nkafka = []", "x = 1"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(content)
    assert str(file) in complaints(file=file)


def test_a_file_may_begin_with_a_byte_order_mark_and_is_utf_8_in_any_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "worker.toml"
    file.write_bytes('\ufeff[handlers.charge]\ngroup = "Ä"\n'.encode())
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "latin-1")
    assert loaded(file=file).handlers["charge"].group == "Ä"
    file.write_bytes("[handlers.charge]".encode("utf-16"))
    assert "not valid TOML" in complaints(file=file)


BAD_WAITS = [-1, -0.1, 1e9, float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize("value", BAD_WAITS)
def test_backoff_has_bounds_in_each_layer(tmp_path: Path, value: float) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f"[handlers.charge]\nbackoff = {value if value != 10**400 else '1e999'}\n".replace("+", ""))
    layers: list[dict[str, Any]] = [
        *({"app": app_of(backoff=wait)} for wait in (value, Backoff(value), Backoff(1.0, value), Backoff("x"))),  # type: ignore
        {"file": file},
        {"environ": {"WORKER_HANDLERS__CHARGE__BACKOFF": str(value)}},
        {"flags": [f"handlers.charge.backoff={value}"]},
    ]
    for layer in layers:
        told = complaints(**layer)
        assert "handlers.charge.backoff = " in told and "0 to 86,400" in told
    for good in (0, 1.5, "2", Backoff(0.0, 5.0)):
        assert loaded(app_of(backoff=good))


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("WORKER_HANDLER__CHARGE__BATCH_SIZE", "WORKER_HANDLERS__CHARGE__BATCH_SIZE"),
        ("WORKER_HANDLERS_CHARGE_BATCH_SIZE", "two underscores"),
        ("WORKER_CONNECTION__KAFKA", "WORKER_CONNECTIONS__KAFKA"),
        ("WORKER_CONNECTIONS_KAFKA", "WORKER_CONNECTIONS__KAFKA"),
        ("WORKER_CONECTIONS__KAFKA", "WORKER_CONNECTIONS__KAFKA"),
        ("WORKER_FOO__BAR", "WORKER_HANDLERS__NAME__OPTION"),
        ("WORKER_HANDLERS__CHRAGE__BATCH_SIZE", "did you mean charge"),
    ],
)
def test_a_variable_that_means_nothing_is_named_with_a_near_one(variable: str, told: str) -> None:
    complaint = complaints(environ={variable: "hunter2"})
    assert told in complaint and "hunter2" not in complaint.replace("= hunter2 (from environment WORKER_HANDLERS", "")


def test_a_variable_that_may_be_anybodys_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"WORKER_LOG_LEVEL": "x", "WORKER_SERVICE_HOST": "x", "WORKER_PORT_80_TCP": "x", "WORKER_TEST_X__Y": "x"}
    assert loaded(environ={**environ, "WORKER_SET": "[]", "WORKER_HANDLERS_SERVICE_PORT_HTTP": "1"})
    assert [record.message for record in caplog.records] == [
        "the environment variable WORKER_LOG_LEVEL means nothing to the worker"
    ]


def sharing(streams: tuple[str, str], connections: Any = None, groups: tuple[str | None, str | None] = (None, None)) -> App:
    app = App("shop", connections=connections or {"k": "kafka://a", "r": "rabbitmq://a", "a": "activemq://a"})

    def charge(values: list[bytes]) -> None: ...
    def audit(values: list[bytes]) -> None: ...

    app.handler(streams[0], group=groups[0])(charge)
    app.handler(streams[1], group=groups[1])(audit)
    return app


TWO = {"k": "kafka://a:9092", "k2": "kafka://A", "r": "rabbitmq://a", "r2": "amqp://a:5672/", "r3": "rabbitmq://a/other"}


@pytest.mark.parametrize(
    ("streams", "groups"),
    [
        (("k:orders", "k:orders"), ("billing", "billing")),
        (("k:orders", "k2:orders"), ("billing", "billing")),
        (("k:^ord.*", "k:orders"), ("billing", "billing")),
        (("k:orders", "k:^ord.*"), ("billing", "billing")),
        (("r:orders", "r:orders"), (None, None)),
        (("r:orders", "r2:orders"), ("one", "other")),
    ],
)
def test_handlers_that_share_a_queue_or_a_group_are_named(
    streams: tuple[str, str], groups: tuple[str | None, str | None]
) -> None:
    told = complaints(sharing(streams, TWO, groups))
    assert "charge" in told and "audit" in told and "each record goes to one of them" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("streams", "told"),
    [(("a:orders.>", "a:orders.eu.new"), True), (("a:topic/x", "a:topic/x"), False), (("a:orders.*", "a:orders.eu.new"), False)],
)
def test_queues_of_activemq_may_be_shared_by_a_wildcard(streams: tuple[str, str], told: bool) -> None:
    if told:
        assert "each record goes to one of them" in complaints(sharing(streams))
    else:
        assert loaded(sharing(streams))


def test_two_selectors_share_a_queue_on_purpose() -> None:
    url = "activemq://a:61613?selector="
    assert loaded(sharing(("eu:orders", "us:orders"), {"eu": f"{url}region='eu'", "us": f"{url}region='us'"}))
    for us in (f"{url}a", "activemq://a:61613"):
        told = complaints(sharing(("eu:orders", "us:orders"), {"eu": f"{url}a", "us": us}))
        assert "each record goes to one of them" in told


@pytest.mark.parametrize(
    ("streams", "groups"),
    [
        (("k:orders", "k:orders"), (None, None)),
        (("k:orders", "k:returns"), ("billing", "billing")),
        (("r:orders", "r:returns"), (None, None)),
        (("r:orders", "r3:orders"), (None, None)),
        (("k:orders", "r:orders"), ("billing", "billing")),
    ],
)
def test_handlers_that_do_not_share_are_left_alone(streams: tuple[str, str], groups: tuple[str | None, str | None]) -> None:
    assert loaded(sharing(streams, TWO, groups))


def test_the_group_may_be_shared_by_the_environment() -> None:
    environ = {"WORKER_HANDLERS__CHARGE__GROUP": "billing", "WORKER_HANDLERS__AUDIT__GROUP": "billing"}
    assert "in group billing" in complaints(sharing(("k:orders", "k:orders")), environ=environ)
    assert load(sharing(("k:orders", "k:orders")), environ=environ, only=["audit"])


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("kafka://localhost:9092", "kafka://localhost:9092/"),
        ("kafka://localhost", "kafka://LOCALHOST:9092"),
        ("kafka://localhost:9092", "kafka://127.0.0.1:9092"),
        ("kafka://a:1,b:2", "kafka://b:2,c:3"),
        ("kafka://u:p@a:1", "kafka://a:1?client.id=x"),
        ("rabbitmq://a", "amqp://a:5672/%2F"),
        ("activemq://a", "activemq://A:61613"),
    ],
)
def test_the_source_is_refused_as_its_own_dead_letter_however_the_url_is_spelt(source: str, target: str) -> None:
    connections = {"in": source, "out": target}
    assert "for ever" in complaints(app_of(("in:same",), connections, dead_letter="out:same"))
    assert loaded(app_of(("in:same",), connections, dead_letter="out:other"))
    assert loaded(app_of(("in:same",), connections | {"out": target.replace("a", "z").replace("A", "z")}, dead_letter="in:z"))


def test_a_remedy_does_not_repeat_the_mistake() -> None:
    told = complaints(app_of(("kafak:orders",)))
    assert "did you mean kafka?" in told and told.count("kafak") == 2
    with pytest.raises(ConfigError, match=r"did you mean kafka://\?"):
        connector("kafkaa")


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
    settings = loaded(app_of(dead_letter="discard"), flags=[f"handlers.charge.{option}={text}"])
    assert getattr(settings.handlers["charge"].options, option) == value


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
