"""The first word with the brokers: a client raises nothing by itself when none can be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from worker.connectors.kafka_errors import MISSING, Explain

_REACH = 10.0
_CREATION = 5.0
_ON_ITS_WAY = MISSING | {KafkaError.LEADER_NOT_AVAILABLE}


class Heard(Protocol):
    """What a client's `error_cb` was told."""

    @property
    def reason(self) -> KafkaError | None: ...

    @property
    def all_down(self) -> bool: ...


class Ear:
    """`heard` is for a client's `error_cb`."""

    def __init__(self) -> None:
        self.reason: KafkaError | None = None
        """What it last complained of, where it said more than that all brokers are down."""
        self.all_down = False

    def heard(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
        else:
            self.reason = error


def reach(
    client: Consumer | Producer,
    topic: str | None,
    servers: str,
    explain: Explain,
    heard: Heard,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """What the brokers say of `topic` (None: of all); raises why none can be used, after 10 s or as soon as that is clear."""
    deadline = clock() + _REACH
    wait = 0.5
    while True:
        try:
            return client.list_topics(topic, timeout=wait) if topic is not None else client.list_topics(timeout=wait)
        except KafkaException as error:
            client.poll(0)  # the reason comes to `error_cb`
            reason = heard.reason
            if heard.all_down or (reason is not None and explain.permanent(reason)) or clock() >= deadline:
                raise explain.unreachable(reason, servers) from error
            wait = min(wait * 2, 2.0)


def find(client: Consumer | Producer, topic: str, config: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> Any:
    """What the brokers say of `topic`. With `allow.auto.create.topics` one that is not there is made meanwhile."""
    creates = str(config.get("allow.auto.create.topics")).lower() == "true"
    deadline = clock() + (_CREATION if creates else 0.0)
    while True:
        found = client.list_topics(topic, timeout=_REACH).topics[topic]
        if found.error is None or found.error.code() not in _ON_ITS_WAY or clock() >= deadline:
            return found
        client.poll(0.05)
