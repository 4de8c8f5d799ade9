"""What a URL for ActiveMQ may say, and the one line that it gets when it says something else."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.activemq_batch import ActiveMQBatch
from connectors.activemq_config import Login
from worker.errors import ConfigError
from worker.interface import Connection, Partition


def login(hosts: str = "localhost", path: str = "", **options: Any) -> Login:
    return Login.of(Connection("shop", "activemq", hosts, path, options=options))


def test_a_transformation_is_asked_for_and_no_header_of_the_record() -> None:
    assert login(transformation="jms-map-json").subscribe == {"transformation": "jms-map-json"}
    [record] = ActiveMQBatch(Partition("q", 0), [(0, b"MESSAGE\ntransformation:jms-map-json\nown:1", b"{}")])
    assert record.headers == (("own", b"1"),)


@pytest.mark.parametrize(
    ("option", "value", "message"), [("transformation", "json", "there are jms-json, jms-xml, jms-map-json")]
)
def test_what_cannot_be_meant(option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^connection shop: {option}: .*{message}"):
        login(**{option: value})
