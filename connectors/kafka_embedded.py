"""An Apache Kafka inside this process, for tests and the demo: librdkafka's mock cluster speaks the real protocol on loopback.

It keeps at most 5 MiB or 100,000 records a partition and silently drops what passes that, makes a topic of 4 partitions
when somebody asks for it, cannot look up offsets by time, and lets a closed member block its group for a session.
"""

from __future__ import annotations

import threading

from confluent_kafka import Producer

HOST = "embedded"
"""`kafka://embedded` is this cluster."""

SESSION = 6000
"""`session.timeout.ms`: how long a member that died blocks its group."""

_lock = threading.Lock()
_cluster: Producer | None = None


class _Silent:
    def log(self, *_: object) -> None: ...


def bootstrap() -> str:
    """`host:port` of this process's cluster, started at the first call and alive as long as the process."""
    global _cluster
    with _lock:
        if _cluster is None:
            _cluster = Producer({"test.mock.num.brokers": 1}, logger=_Silent())
        broker = next(iter(_cluster.list_topics(timeout=10).brokers.values()))
        return f"{broker.host}:{broker.port}"
