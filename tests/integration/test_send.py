"""`worker send` on real brokers: whole lines, confirmed, with their key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import commands

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq", "activemq"])
def test_lines_are_records(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    container = request.getfixturevalue(broker)
    stream = container.topic("lines", 1) if broker == "kafka" else container.queue("lines")
    (tmp_path / "lines").write_bytes(b'{"id": 1}\n\n\xff\xfe')
    done = commands.run(tmp_path, "send", f"b:{stream}", "lines", "--key", "k", "--set", f"connections.b={container.url}")
    assert (done.exit_code, done.stdout) == (0, f"2 records confirmed by b:{stream}, 1 empty line left out\n"), done.stderr
    found = container.read(stream)
    assert [record.value for record in found] == [b'{"id": 1}', b"\xff\xfe"]
    assert {record.key for record in found} == {b"k"}


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_a_stream_that_is_not_there_is_refused(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    container = request.getfixturevalue(broker)
    (tmp_path / "lines").write_bytes(b"1\n")
    done = commands.run(tmp_path, "send", "b:not.there", "lines", "--set", f"connections.b={container.url}")
    assert done.exit_code == 3 and "not.there" in done.stderr, done.stderr
    assert done.stdout == "0 records confirmed by b:not.there\n"
