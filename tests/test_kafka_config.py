"""What a connection may say, without any broker."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from worker.connectors import kafka, kafka_config
from worker.errors import ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions


def connection(**options: Any) -> Connection:
    return Connection("shop", "kafka", "broker", options={name.replace("__", "."): value for name, value in options.items()})


def source_config(where: Connection) -> dict[str, Any]:
    return kafka_config.consumer_config(SourceOptions(where, ("orders",), "group"))


def complaint(where: Connection) -> str:
    with pytest.raises(ConfigError) as raised:
        kafka.source(SourceOptions(where, ("orders",), "group"))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_unknown_property_is_named_with_its_nearest_neighbour() -> None:
    assert complaint(connection(sesion__timeout__ms=6000)) == (
        "connection shop: librdkafka has no property sesion.timeout.ms, did you mean session.timeout.ms?"
    )


def test_a_wrong_value_is_named() -> None:
    assert "session.timeout.ms" in complaint(connection(session__timeout__ms="soon"))
    assert "soon" in complaint(connection(session__timeout__ms="soon"))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("enable.auto.commit", "commit_interval"),
        ("enable.auto.offset.store", "commits what is finished"),
        ("auto.offset.reset", "`start`"),
        ("group.id", "`group`"),
        ("group_id", "`group`"),
        ("bootstrap.servers", "URL"),
        ("acks", "in-sync"),
    ],
)
def test_what_would_break_a_promise_is_refused_with_what_to_write_instead(name: str, instead: str) -> None:
    assert instead in complaint(Connection("shop", "kafka", "broker", options={name: "1"}))


def test_underscores_serve_as_dots() -> None:
    assert source_config(connection(fetch_wait_max_ms=7))["fetch.wait.max.ms"] == "7"


def test_a_user_means_plain_over_tls() -> None:
    config = source_config(Connection("shop", "kafka", "broker", username="ann", password="pa55"))
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("sasl_ssl", "PLAIN")
    assert (config["sasl.username"], config["sasl.password"]) == ("ann", "pa55")


def test_what_is_stated_wins_over_what_a_user_means() -> None:
    where = Connection(
        "shop",
        "kafka",
        "b",
        username="ann",
        password="x",
        options={"security.protocol": "sasl_plaintext", "sasl_mechanism": "SCRAM-SHA-256"},
    )
    config = source_config(where)
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("sasl_plaintext", "SCRAM-SHA-256")


def test_tls_options_alone_mean_tls() -> None:
    assert source_config(connection(ssl__endpoint__identification__algorithm="none"))["security.protocol"] == "ssl"


def test_a_user_who_would_not_be_sent_is_refused() -> None:
    where = Connection("shop", "kafka", "b", username="ann", password="x", options={"security.protocol": "ssl"})
    assert "sasl_ssl" in complaint(where)


def test_a_certificate_that_cannot_be_read_is_named_and_nothing_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert "ssl.ca.location=/nowhere.pem cannot be read" in complaint(connection(ssl__ca__location="/nowhere.pem"))
    assert capfd.readouterr().err == ""


def test_passwords_are_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    where = Connection("shop", "kafka", "b", username="ann", password="hunter2", options={"sasl.mechanism": "hunter2"})
    assert "hunter2" not in complaint(where)
    assert "hunter2" not in caplog.text


def test_kip_848_goes_without_the_options_it_does_not_know() -> None:
    config = source_config(connection(group__protocol="consumer"))
    assert "partition.assignment.strategy" not in config
    assert kafka_config.cooperative(config)


def test_kip_848_in_the_embedded_broker_too() -> None:
    where = Connection("shop", "kafka", "embedded", options={"group.protocol": "consumer"})
    assert "session.timeout.ms" not in source_config(where)


def test_classic_groups_are_cooperative_unless_told_otherwise() -> None:
    assert kafka_config.cooperative(source_config(connection()))
    assert not kafka_config.cooperative(source_config(connection(partition__assignment__strategy="range")))


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("a", "a:9092"),
        ("a:1,b", "a:1,b:9092"),
        ("[::1]:5, [::1]", "[::1]:5,[::1]:9092"),
    ],
)
def test_the_port_is_9092_where_none_is_given(hosts: str, servers: str) -> None:
    assert kafka_config.servers(Connection("shop", "kafka", hosts)) == servers


def test_no_host_is_refused() -> None:
    assert "names no broker" in complaint(Connection("shop", "kafka", ""))


def test_the_policy_for_a_lost_position_is_checked() -> None:
    assert "earliest, latest, stop" in complaint(connection(out_of_range="newest"))


@pytest.mark.parametrize("stream", ["or ders", "orders*", "^orders[", ""])
def test_what_is_neither_topic_nor_pattern_is_refused(stream: str) -> None:
    with pytest.raises(ConfigError, match="shop:"):
        kafka.source(SourceOptions(connection(), (stream,), "group"))


def test_a_dead_letter_topic_is_no_pattern() -> None:
    with pytest.raises(ConfigError, match="no topic name"):
        kafka.sink(SinkOptions(connection(), "^orders"))


def test_a_classic_group_waits_6_s_for_a_member_that_was_killed_unless_told_otherwise() -> None:
    """With the client's own 45 s the commits of all the others are not answered for so long."""
    config = source_config(connection())
    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (6_000, 1_000)
    assert kafka_config.protocol(config) == "classic, session timeout 6 s"
    assert source_config(connection(session__timeout__ms=30_000))["session.timeout.ms"] == "30000"
    new = source_config(connection(group__protocol="consumer"))
    assert "session.timeout.ms" not in new and "heartbeat.interval.ms" not in new
    assert "KIP-848" in kafka_config.protocol(new) and "45 s" in kafka_config.protocol(new)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"^rx-\d+$", "write [0-9]"),
        (r"^\w+", "write [A-Za-z0-9_]"),
        (r"^a\b", r"has \b"),
        (r"^(a)\1", r"has \1"),
        (r"^rx-(?!us).*orders", "no look ahead"),
        ("^rx-(?:eu|us)", "only ( ) and |"),
        ("^(?i)a", "only ( ) and |"),
        ("^a.*?b", "the same with *"),
        ("^a{2}?", "the same with {2}"),
        ("^a{,3}", "write {0,"),
        (r"^[\w.]+", "write 'A-Za-z0-9_' in its place"),
        (r"^[a\].]+", "a ] as the first"),
        (r"^[a\-z]+", "a - as the last"),
        ("^[[:alpha:]]+", "is read in different ways"),
        ("^(a", "is no regular expression"),
    ],
)
def test_a_pattern_that_is_not_read_alike_everywhere_is_refused_with_what_to_write(pattern: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        kafka.check_stream(pattern, "kafka")
    assert told in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "pattern", [r"^orders\..*", "^a(b|c)+$", "^[a-z_.-]{2,5}x?", "^[^.]+[.]dead", r"^a\-b\\", "^[]a]", "^.*[.]v[0-9]"]
)
def test_a_pattern_that_is_read_alike_everywhere_is_taken(pattern: str) -> None:
    kafka.check_stream(pattern, "kafka")
