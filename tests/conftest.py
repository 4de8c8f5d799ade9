"""Fixtures of all tests. Brokers start when the first test asks for one, and live as long as the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import settings

from tests import groups
from worker.testing import ActiveMQContainer, EmbeddedKafka, KafkaContainer, MskContainer, RabbitMQContainer, ToxiproxyContainer
from worker.testing.containers import KAFKA_IMAGE

# Time is no property of our code on a machine that also runs brokers; and what fails for one must fail for all.
settings.register_profile("worker", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("worker")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups.mark(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    groups.check(session.config, session.items)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that ran in this process has sent all log lines to where its user would read them."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if type(handler.formatter).__module__ == "worker.logs":
            root.removeHandler(handler)
            root.setLevel(level)


@cache
def missing_engine() -> str | None:
    """Why there is no container engine; None: there is one."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
    except DockerException as error:
        return f"no container engine: {error}"
    try:
        client.ping()
    except DockerException as error:
        return f"the container engine does not answer: {error}"
    finally:
        client.close()
    return None


def pytest_report_header(config: pytest.Config) -> str | None:
    if "not docker" in config.option.markexpr or (reason := missing_engine()) is None:
        return None
    return (
        f"{reason}\n"
        "The tests on Kafka, Amazon MSK's listeners, RabbitMQ and ActiveMQ are skipped. To run them, start a Docker engine that "
        "this user may use (`docker info` must answer); `make unit` leaves them out on purpose."
    )


def need_engine() -> None:
    """Skips on a laptop without an engine; where CI=true that would hide what is not tested, so it fails."""
    reason = missing_engine()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def embedded() -> EmbeddedKafka:
    return EmbeddedKafka()


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaContainer]:
    """Shared: a test that stops the broker starts it again, or starts one of its own."""
    need_engine()
    with KafkaContainer() as container:
        yield container


@pytest.fixture(scope="session")
def msk() -> Iterator[MskContainer]:
    need_engine()
    if not os.environ.get(KAFKA_IMAGE):
        pytest.skip(f"no image with the listeners of Amazon MSK: {KAFKA_IMAGE} is not set")
    with MskContainer(MSK_CLIENT_AUTH="requested") as container:
        yield container


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQContainer]:
    """Shared: a test that stops the broker starts it again."""
    need_engine()
    with RabbitMQContainer() as container:
        yield container


@pytest.fixture(scope="session")
def activemq() -> Iterator[ActiveMQContainer]:
    """Shared: a test that stops the broker starts it again."""
    need_engine()
    with ActiveMQContainer() as container:
        yield container


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[ToxiproxyContainer]:
    need_engine()
    with ToxiproxyContainer() as container:
        yield container
