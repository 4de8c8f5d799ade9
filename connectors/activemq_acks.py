"""What the broker is told of messages that are finished: all up to one of them, or each alone."""

from __future__ import annotations

from collections.abc import Sequence

from worker.connectors.activemq_batch import Message
from worker.connectors.activemq_frames import ACK, acks, raw


class Cumulative:
    """For subscriptions of `ack:client`, where an ACK settles everything up to its message: it is sent for a finished prefix.

    What is finished behind a gap is held back until the gap closes.
    """

    mode = "client"

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, Message | None] = {}
        """None: settled by other means."""

    def settle(self, messages: Sequence[Message]) -> bytes:
        last = messages[-1]
        end = self._next + len(messages)
        if not self._held and messages[0][0] == self._next and last[0] == end - 1 == max(one[0] for one in messages):
            self._next = end
            return acks([ack_id(last)])
        self._held.update((message[0], message) for message in messages)
        return self._advance()

    def skip(self, messages: Sequence[Message]) -> bytes:
        """These are settled by other means."""
        self._held.update((message[0], None) for message in messages)
        return self._advance()

    def _advance(self) -> bytes:
        last = None
        while self._next in self._held:
            last = self._held.pop(self._next) or last
            self._next += 1
        return b"" if last is None else acks([ack_id(last)])


class Individual:
    """For subscriptions of `ack:client-individual`."""

    mode = "client-individual"

    def settle(self, messages: Sequence[Message]) -> bytes:
        return acks(map(ack_id, messages))

    def skip(self, messages: Sequence[Message]) -> bytes:
        return b""


def ack_id(message: Message) -> bytes:
    """As it came, for it goes back as it is."""
    found = raw(message[1], ACK)
    assert found is not None, "a message without an ack header"
    return found
