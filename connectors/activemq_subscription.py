"""One queue or topic that is subscribed to: what was delivered and not yet handed out, and what the broker was told."""

from __future__ import annotations

from collections.abc import Sequence

from worker.connectors.activemq_acks import Cumulative, Individual, ack_id
from worker.connectors.activemq_batch import ActiveMQBatch, Message
from worker.connectors.activemq_config import WILD, Login, destination
from worker.connectors.activemq_frames import PERSISTENT, Frame, encode, nacks, raw
from worker.connectors.activemq_link import Link
from worker.connectors.activemq_message import message
from worker.interface import Partition


class Subscription:
    """Begins anew under another id when what it holds was given back."""

    def __init__(self, login: Login, partition: Partition, prefetch: int, name: str, ordered: bool) -> None:
        self.partition = partition
        self.paused = False
        self.inbox: list[Frame] = []
        self._login = login
        self._prefetch = prefetch
        self._name = name
        self._ordered = ordered
        self._id: str | None = None
        self._acks: Cumulative | Individual = Individual()
        self._taken = 0
        """How many were handed out: the number of the next one."""

    @property
    def subscribed(self) -> bool:
        return self._id is not None

    def subscribe(self, link: Link) -> None:
        """From the first message that is not settled; `Refused` if the broker does not let us."""
        # In order, what is behind a failed record waits for it anyway, so that one ACK may stand for all.
        self._acks = Cumulative() if self._ordered else Individual()
        self.inbox, self._taken, self._id = [], 0, link.name()
        told = {
            "id": self._id,
            "destination": destination(self.partition.stream),
            "ack": self._acks.mode,
            "activemq.prefetchSize": str(self._prefetch),
            **self._login.subscribe,
        }
        if self.partition.stream.startswith("topic/"):
            # One of a name for a client: with the group's alone, a second topic would take the first one's place.
            told["activemq.subscriptionName"] = f"{self._name}.{self.partition.stream.removeprefix('topic/')}"
        link.inboxes[self._id.encode()] = self.inbox
        link.about = self.partition.stream
        if WILD.search(self.partition.stream):
            # With a receipt Classic subscribes for no messages, confirms, and then asks the queue of just this name for more.
            link.write(encode("SUBSCRIBE", told))
            link.sync()
        else:
            link.ask("SUBSCRIBE", told)
        link.about = ""

    def take(self, most: int) -> ActiveMQBatch:
        """Up to `most` of what was delivered."""
        taken = [(number, head, body) for number, (head, body) in enumerate(self.inbox[:most], self._taken)]
        del self.inbox[:most]
        self._taken += len(taken)
        return ActiveMQBatch(self.partition, taken)

    def ack(self, messages: Sequence[Message]) -> bytes:
        return self._acks.settle(messages)

    def reject(self, link: Link, messages: Sequence[Message]) -> None:
        """To the broker's dead letters: persistent messages by a NACK. Others that would lose, so they are sent there."""
        persistent = [one for one in messages if raw(one[1], PERSISTENT) == b"true"]
        others = [one for one in messages if raw(one[1], PERSISTENT) != b"true"]
        for record in ActiveMQBatch(self.partition, others):
            told, _ = message(record, record.headers, self._login.dlq)
            link.ask("SEND", {**told, "originalDestination": destination(self.partition.stream)}, record.value or b"")
        link.write(nacks(map(ack_id, persistent)) + self._acks.skip(persistent))
        if others:
            link.write(self._acks.settle(others))

    def unsubscribe(self, link: Link) -> None:
        """Gives back what is not settled. Acks that come after it are ignored by the broker, without a word."""
        if self._id is not None:
            link.inboxes.pop(self._id.encode(), None)
            link.ask("UNSUBSCRIBE", {"id": self._id})
        self.inbox, self._id = [], None
