"""What a URL for ActiveMQ may say, and the one line that it gets when it says something else."""

from __future__ import annotations

from typing import Any

import pytest

from worker.connectors.activemq_batch import ActiveMQBatch
from worker.connectors.activemq_config import Login
from worker.errors import ConfigError
from worker.interface import Connection, Partition


def login(hosts: str = "localhost", path: str = "", **options: Any) -> Login:
    return Login.of(Connection("shop", "activemq", hosts, path, options=options))


def test_a_transformation_is_asked_for_and_no_header_of_the_record() -> None:
    assert login(transformation="jms-map-json").subscribe == {"transformation": "jms-map-json"}
    [record] = ActiveMQBatch(Partition("q", 0), [(0, b"MESSAGE\ntransformation:jms-map-json\nown:1", b"{}")])
    assert record.headers == (("own", b"1"),)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("transformation", "json", "there are jms-json, jms-xml, jms-map-json"),
        ("prefetch", "inf", "inf: at least 1 and at most 2147483647"),
        ("limit", "nan", "'nan' is no number: write one, as in limit=200"),
        ("limit", "0", "0: at least 1"),
        ("heartbeat", "nan", "'nan' is no number: write one, as in heartbeat=10"),
        ("heartbeat", float("inf"), "inf: at least 0 and at most 86400"),
        ("connect_timeout", "soon", "'soon' is no number: write one, as in connect_timeout=10"),
    ],
)
def test_what_cannot_be_meant(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^connection shop: {option}: {message}") as raised:
        login(**{option: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "hosts",
    ["a..b", "", "a,,b", "a" * 80, "::1", "[::1", "a b", "host:0", "host:65536", "host:\xb2", "host:x", "http://x", "a:1:2"],
)
def test_what_is_no_host(hosts: str) -> None:
    with pytest.raises(ConfigError, match=r"^connection shop: '.*' is no host: write activemq://host:61613$"):
        login(hosts)


def test_hosts() -> None:
    wanted = (("a", 61613), ("b_1.c", 1), ("::1", 2), ("fe80::1%eth0", 61613), ("m\xfcnchen", 61613))
    assert login("a, b_1.c:1,[::1]:2,[fe80::1%eth0],m\xfcnchen").hosts == wanted


def test_a_path_is_no_queue() -> None:
    assert login(path="/").hosts == (("localhost", 61613),)
    with pytest.raises(ConfigError, match=r'^connection shop: /orders: .* no path: .* as in "shop:orders"$'):
        login(path="/orders")
