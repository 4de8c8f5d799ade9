"""Publishes dead letters: idempotent, confirmed by all in-sync replicas, in order per key; but those that were too large for
their topic only together come behind the others.

Their timestamp is now, and the record's own is in a header: retention counts from it, and had deleted the letters of old records
at once (measured).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from worker.connectors import kafka_config
from worker.connectors.kafka_errors import MISSING, Explain
from worker.connectors.kafka_reach import Ear, find, reach
from worker.errors import PublishError, Refused
from worker.interface import DeadLetter, Record, SinkOptions

log = logging.getLogger("worker.kafka")

_REACH = 10.0
_SERVE = 0.05
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_NEVER = (*_TOO_LARGE, KafkaError.INVALID_RECORD)
"""What a topic never takes. The broker says it of all letters that went out together."""


class _Reports:
    """What became of the letters of one `publish`; the reports may be served by any thread's poll."""

    def __init__(self, expected: int, served: threading.Condition) -> None:
        self.left = expected
        self._served = served
        self.failed: list[tuple[DeadLetter, KafkaError, Message]] = []

    def __call__(self, letter: DeadLetter, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append((letter, error, message))
        self.left -= 1
        if not self.left:
            with self._served:
                self._served.notify_all()


class KafkaSink:
    """One producer. `client` adds to what librdkafka is told, callbacks for instance."""

    def __init__(
        self, options: SinkOptions, client: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._config = kafka_config.producer_config(options) | dict(client or {})
        self._clock = clock
        self._explain = Explain(options.connection.name, self._config, stream=options.stream, operation="Write")
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self._served = threading.Condition()
        self._producer: Producer | None = None
        self._ear = Ear()
        self._partitions = 0

    def open(self) -> None:
        servers = kafka_config.servers(self._options.connection)
        try:
            producer = self._connected()
            reach(producer, self._options.stream, servers, self._explain, self._ear, self._clock)
            topic = find(producer, self._options.stream, self._config, self._clock)
        except KafkaException as error:
            raise self._explain.error(error.args[0]) from error
        if topic.error is not None and topic.error.code() in MISSING:
            near = get_close_matches(self._options.stream, producer.list_topics(timeout=_REACH).topics, 3, 0.7)
            hint = f"did you mean {' or '.join(near)}?" if near else "create it, or correct its name"
            raise Refused(f"connection {self._options.connection.name}: there is no topic {self._options.stream}: {hint}")
        if topic.error is not None and self._explain.permanent(topic.error):
            raise self._explain.error(topic.error)
        self._partitions = len(topic.partitions)

    def _connected(self) -> Producer:
        with self._lock:
            if self._producer is None:
                self._ear = Ear()
                servers = kafka_config.servers(self._options.connection)
                self._producer = Producer(
                    self._config | {"bootstrap.servers": servers, "error_cb": self._ear.heard}, logger=kafka_config.ClientLog()
                )
            return self._producer

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        failed = self._publish(letters)
        if len(letters) > 1 and _never(failed):
            failed = [found for letter, _, _ in failed for found in self._publish([letter])]
        if failed:
            _, error, message = failed[0]
            raised = self._failure(error, message)
            if _never(failed):
                names = {id(letter) for letter, _, _ in failed}
                raised.refused = [index for index, letter in enumerate(letters) if id(letter) in names]
            raise raised

    def _publish(self, letters: Sequence[DeadLetter]) -> list[tuple[DeadLetter, KafkaError, Message]]:
        """Returns those that were not taken."""
        reports = _Reports(len(letters), self._served)
        deadline = self._clock() + self._options.timeout + 1
        producer = self._connected()
        try:
            for letter in letters:
                self._produce(producer, letter, reports, deadline)
            while reports.left and self._clock() < deadline:
                self._serve(producer, reports)
        except KafkaException as error:
            raise self._failure(error.args[0], None) from error
        if reports.left:
            raise PublishError(f"{self._stream}: {reports.left} not confirmed in {self._options.timeout:g} s{self._why()}")
        return reports.failed

    def _serve(self, producer: Producer, reports: _Reports) -> None:
        """One thread polls, for all: if each did, one would sleep in its poll while another one's serves its reports."""
        if self._polling.acquire(blocking=False):
            try:
                while reports.left and producer.poll(_SERVE):
                    pass
            finally:
                self._polling.release()
                with self._served:
                    self._served.notify_all()
            return
        with self._served:
            self._served.wait_for(lambda: not reports.left or not self._polling.locked(), _SERVE)

    def _produce(self, producer: Producer, letter: DeadLetter, reports: _Reports, deadline: float) -> None:
        record = letter.record
        partition = self._partition(record)
        while True:
            try:
                producer.produce(
                    self._options.stream,
                    record.value,
                    record.key,
                    partition,
                    on_delivery=partial(reports, letter),
                    headers=list(letter.headers),
                )
                return
            except BufferError:
                if self._clock() >= deadline:
                    raise PublishError(f"{self._stream}: the producer's queue stays full{self._why()}") from None
                producer.poll(_SERVE)

    def _partition(self, record: Record[bytes]) -> int:
        """-1: the client chooses, by key."""
        told = record.partition.id
        return told if self._options.partitions and isinstance(told, int) and told < self._partitions else -1

    @property
    def _stream(self) -> str:
        return f"{self._options.connection.name}:{self._options.stream}"

    def _why(self) -> str:
        return f": {self._explain.text(self._ear.reason)}" if self._ear.reason is not None else ""

    def _failure(self, error: KafkaError, message: Message | None) -> PublishError:
        if error.code() == KafkaError._FATAL or error.fatal():
            # An idempotent producer that lost its sequence never works again; a new one does.
            with self._lock:
                self._producer = None
        if error.code() in _TOO_LARGE:
            size = f" of {len(message):,} bytes" if message is not None else ""
            return PublishError(
                f"{self._stream}: a dead letter{size} with its headers is larger than the topic's max.message.bytes"
                f"{self._limit()}: raise that to more than the source's",
                permanent=True,
            )
        if error.code() == KafkaError.INVALID_RECORD:
            why = self._explain.text(error)
            if message is not None and message.key() is None and "compact" in (self._setting("cleanup.policy") or "compact"):
                why = "the topic is compacted and takes no record without a key: set its cleanup.policy=delete"
            return PublishError(f"{self._stream}: {why}", permanent=True)
        if error.code() == KafkaError._MSG_TIMED_OUT:
            return PublishError(f"{self._stream}: not confirmed in {self._options.timeout:g} s{self._why()}")
        return PublishError(str(self._explain.error(error)), permanent=self._explain.known(error) or error.code() in MISSING)

    def _limit(self) -> str:
        """The topic's limit, if we may know it."""
        told = self._setting("max.message.bytes")
        return f" ({int(told):,})" if told else ""

    def _setting(self, name: str) -> str | None:
        """Of the topic, if we may know it."""
        try:
            admin = AdminClient(
                kafka_config.login(self._config) | {"bootstrap.servers": kafka_config.servers(self._options.connection)},
                logger=kafka_config.ClientLog(),
            )
            resource = ConfigResource(ConfigResource.Type.TOPIC, self._options.stream)
            return str(admin.describe_configs([resource], request_timeout=5)[resource].result(6)[name].value)
        except (KafkaException, TimeoutError, KeyError):
            return None

    def close(self) -> None:
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.flush(1)


def _never(failed: Sequence[tuple[DeadLetter, KafkaError, Message]]) -> bool:
    return all(error.code() in _NEVER for _, error, _ in failed)
