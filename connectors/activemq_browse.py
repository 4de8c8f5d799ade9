"""Looks through a queue of ActiveMQ with a browser, which takes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from worker.connectors.activemq_batch import ActiveMQBatch
from worker.connectors.activemq_config import Login, destination
from worker.connectors.activemq_frames import Frame, header
from worker.connectors.activemq_link import Link
from worker.interface import Batch, Partition, SourceOptions

_PREFETCH = 10_000
_SILENCE = 30.0


def browse(options: SourceOptions) -> Iterator[Batch]:
    """What the queue holds now, as far as the broker's memory for it reaches."""
    login = Login.of(options.connection)
    link = Link(login)
    link.acknowledges = False
    try:
        for stream in options.streams:
            name = link.name()
            inbox = link.inboxes[name.encode()] = []
            told = {"id": name, "destination": destination(stream), "ack": "auto", "browser": "true"}
            link.about = stream
            # Not what the connection's subscriptions ask for: a selector would hide letters.
            link.ask("SUBSCRIBE", {**told, "activemq.prefetchSize": str(_PREFETCH)})
            yield from _read(link, inbox, Partition(stream, 0), options.batch_size)
    finally:
        link.close()


def _read(link: Link, inbox: list[Frame], partition: Partition, most: int) -> Iterator[ActiveMQBatch]:
    taken = 0
    while True:
        if not inbox:
            link.wait(lambda: inbox, _SILENCE)
        frames = inbox[:most]
        del inbox[:most]
        last = frames[-1][0]
        # A message may have any properties, but the broker gives it a priority.
        end = header(last, b"browser") == b"end" and header(last, b"message-id") == b"0" and header(last, b"priority") is None
        messages = [(number, head, body) for number, (head, body) in enumerate(frames[:-1] if end else frames, taken)]
        taken += len(messages)
        if messages:
            yield ActiveMQBatch(partition, messages)
        if end:
            return
