"""Which tests share a process under `--dist loadgroup`, and with it the brokers that its fixtures start."""

from __future__ import annotations

import pytest

DOCKER = {"kafka", "msk", "rabbitmq", "activemq", "toxiproxy"}
"""Fixtures that start containers."""

_BROKER = {
    "kafka": "kafka",
    **dict.fromkeys(("msk", "strict", "guarded"), "msk"),
    **dict.fromkeys(("rabbitmq", "quorum", "classic"), "rabbitmq"),
    "activemq": "activemq",
}
"""The broker that a test needs, by the name of its fixture or of its parameter."""

_COMMANDS = {"test_faults.py", "test_queue_faults.py", "test_dead_letters.py"}
"""They run `worker` as a process, wait for it most of the time, and restart the broker: each has a broker to itself."""


def mark(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & DOCKER:
            item.add_marker(pytest.mark.docker)
        if "embedded" in fixtures or item.path.name == "test_kafka_embedded.py":
            item.add_marker(pytest.mark.embedded)
        if (group := _group(item)) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str | None:
    """None: the test shares no broker with others, so any process runs it."""
    if not item.get_closest_marker("docker") or item.path.name == "test_chaos.py":  # campaigns start brokers of their own
        return None
    call = getattr(item, "callspec", None)
    names = [*(call.params.values() if call else ()), *getattr(item, "fixturenames", ())]
    broker = next((_BROKER[name] for name in names if isinstance(name, str) and name in _BROKER), None)
    return f"{broker}-{item.path.stem}" if broker and item.path.name in _COMMANDS else broker


def check(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Else every test would start a broker of its own, and the run would take three times as long and fail by chance."""
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist did not group the tests: it does not know this version of pytest (pyproject.toml)")
