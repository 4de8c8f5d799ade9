"""Whatever is written in settings, URLs and options: it works, or a ConfigError says in whole lines what does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker import App, Batch, ConfigError
from worker.interface import Connection, SinkOptions, SourceOptions
from worker.options import HandlerOptions
from worker.plugins import connector
from worker.settings import load

SCHEMES = ("kafka", "msk", "rabbitmq", "amqp", "amqps", "activemq", "activemq+ssl", "nothing")
OPTIONS = [
    "region",
    "profile",
    "auth",
    "declare",
    "prefetch",
    "heartbeat",
    "consumer_timeout",
    "cafile",
    "certfile",
    "verify",
    "server_hostname",
    "selector",
    "limit",
    "dlq",
    "client_id",
    "connect_timeout",
    "security.protocol",
    "sasl.mechanism",
    "group.id",
    "session.timeout.ms",
    "out_of_range",
    "frame_max",
    "tcp_options",
    "client_properties",
    "socket_timeout",
    "activemq.exclusive",
    "role_arn",
    "access_key_id",
    "ssl.ca.location",
    "debug",
    "broker.address.family",
]
words = st.text(max_size=12) | st.sampled_from(["0", "-1", "1e9", "true", "null", "{}", "[", "x" * 300, "a b", "%zz", "#", "é\n"])


@contextmanager
def works_or_is_refused() -> Iterator[None]:
    """By a connector, which names the connection, its stream or what it cannot start at."""
    try:
        yield
    except ConfigError as error:
        assert error.exit_code == 2 and str(error).startswith(("connection c: ", "c:", "start=")), str(error)
        assert len(str(error)) > 30, str(error)


@contextmanager
def works_or_says(*places: str) -> Iterator[None]:
    """Each line of a complaint begins with the option, the connection or the variable that it is about, and says something."""
    try:
        yield
    except ConfigError as error:
        assert error.exit_code == 2
        for line in str(error).split("\n"):
            found = next((place for place in places if line.startswith(place)), None)
            assert found is not None and len(line) > len(found) + 10, f"{line!r} of {str(error)!r}"


def app_of(url: object) -> App:
    app = App("shop", connections={"c": url})  # type: ignore[dict-item]

    @app.handler("c:orders", dead_letter="c:dead")
    def charge(batch: Batch) -> None: ...

    return app


@given(st.text() | st.builds("{}://{}".format, st.sampled_from(SCHEMES), st.text()))
@example("kafka://[::1")
@example("kafka://user:p@ss:word@host")
def test_urls(url: str) -> None:
    with works_or_says("connections.c"):
        load(app_of(url), environ={})


@given(st.lists(words | st.builds("handlers.charge.{}={}".format, st.sampled_from([*HandlerOptions.model_fields, "x"]), words)))
def test_flags(flags: list[str]) -> None:
    sections = [re.split(r"[^\w+<>-]", flag.partition("=")[0].strip())[0] for flag in flags]
    with works_or_says("handlers.charge.", "--set ", *sections):
        load(app_of("kafka://host"), environ={}, flags=flags)


@given(
    st.dictionaries(st.sampled_from(["WORKER_HANDLERS__CHARGE__RETRIES", "WORKER_CONNECTIONS__C", "WORKER_HANDLERS__"]), words)
)
def test_the_environment(environ: dict[str, str]) -> None:
    with works_or_says("handlers.", "connections.c"):
        load(app_of("kafka://host"), environ=environ)


@settings(max_examples=300)
@given(
    st.sampled_from(SCHEMES[:-1]),
    st.lists(st.sampled_from(["host", "host:1", "host:x", "host:99999", "", "[::1]:5", "é", "a b"]), max_size=3).map(",".join),
    st.sampled_from(["", "/", "/vhost", "/%2f", "//"]),
    st.none() | words,
    st.dictionaries(st.sampled_from(OPTIONS), words | st.integers() | st.booleans() | st.none(), max_size=3),
    words,
)
def test_connections(scheme: str, hosts: str, path: str, user: str | None, options: dict[str, object], stream: str) -> None:
    connection = Connection("c", scheme, hosts, path, user, user, options)
    for start in ("earliest", datetime(2026, 1, 1, tzinfo=UTC)):
        with works_or_is_refused():
            connector(scheme).source(SourceOptions(connection, (stream,), "group", start=start))  # type: ignore[arg-type]
    with works_or_is_refused():
        connector(scheme).sink(SinkOptions(connection, stream))
