"""For tests of your handlers and of your connectors: one call, a running app, fakes, an embedded Kafka, brokers in containers.

Each name is imported when it is used, so nothing here needs `stream-worker[testing]` but the containers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.replay import replay
    from worker.testing.activemq import ActiveMQContainer
    from worker.testing.calls import call
    from worker.testing.clock import ManualClock
    from worker.testing.containers import KafkaContainer, MskContainer
    from worker.testing.fake import FakeBatch, FakeSink, FakeSource, batch
    from worker.testing.kafka import EmbeddedKafka, Kafka
    from worker.testing.live import Running, running
    from worker.testing.rabbitmq import RabbitMQContainer
    from worker.testing.toxiproxy import ToxiproxyContainer

__all__ = [
    "ActiveMQContainer",
    "EmbeddedKafka",
    "FakeBatch",
    "FakeSink",
    "FakeSource",
    "Kafka",
    "KafkaContainer",
    "ManualClock",
    "MskContainer",
    "RabbitMQContainer",
    "Running",
    "ToxiproxyContainer",
    "batch",
    "call",
    "replay",
    "running",
]

_HOME = {
    "ActiveMQContainer": "activemq",
    "EmbeddedKafka": "kafka",
    "FakeBatch": "fake",
    "FakeSink": "fake",
    "FakeSource": "fake",
    "Kafka": "kafka",
    "KafkaContainer": "containers",
    "ManualClock": "clock",
    "MskContainer": "containers",
    "RabbitMQContainer": "rabbitmq",
    "Running": "live",
    "ToxiproxyContainer": "toxiproxy",
    "batch": "fake",
    "call": "calls",
    "running": "live",
}


def __getattr__(name: str) -> object:
    if name == "replay":
        return import_module("worker.replay").replay
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
