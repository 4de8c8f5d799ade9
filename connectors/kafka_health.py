"""Whether the brokers are there: librdkafka reconnects by itself, so this is about saying it once, and giving up in time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException

from worker.connectors.kafka_errors import Explain
from worker.errors import Unavailable

log = logging.getLogger("worker.kafka")

_INTERVAL = 1.0
_PROBE = 0.1


class Health:
    """`heard` is the client's `error_cb`: it only wakes doubt, as an idle connection that the broker closed sounds the same."""

    def __init__(self, explain: Explain, topic: str | None, patience: float, clock: Callable[[], float]) -> None:
        self.reason: KafkaError | None = None
        """What the client last complained of, where it said more than that all brokers are down."""
        self.fatal = False
        """The client does nothing any more."""
        self.all_down = False
        self.down = False
        self._explain = explain
        self._topic = topic
        self._patience = patience
        self._clock = clock
        self._since: float | None = None
        self._next = 0.0

    def heard(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
        else:
            self.reason = error
        self.wonder()

    def wonder(self) -> None:
        """Something looks as if the broker was not there."""
        if self._since is None:
            self._since = self._clock()
            self._next = 0.0

    @property
    def hopeless(self) -> bool:
        """Whether a commit has no chance."""
        return self.down or self.fatal

    @property
    def doubtful(self) -> bool:
        return self._since is not None

    def look(self, consumer: Consumer) -> None:
        """In doubt, asks the broker once a second; raises `Unavailable` when it has not answered for `patience`."""
        now = self._clock()
        if self._since is None or now < self._next:
            return
        self._next = now + _INTERVAL
        try:
            consumer.list_topics(self._topic, timeout=_PROBE)
        except KafkaException as error:
            self._absent(now, error.args[0])
        else:
            self._present(now)

    def _present(self, now: float) -> None:
        if self.down:
            log.info("the broker is back after %.0f s", now - (self._since or now))
        self._since, self.down, self.all_down, self.reason = None, False, False, None

    def _absent(self, now: float, error: KafkaError) -> None:
        since = self._since or now
        said = self._explain.text(self.reason or error)
        # One probe may time out on a busy broker; nobody connected is another matter.
        if not self.down and (self.all_down or now - since > 2):
            self.down = True
            log.warning("no broker reached: %s; waiting for it", said)
        if now - since > self._patience:
            raise Unavailable(f"no broker reached for {now - since:.0f} s: {said}")
