"""Why a group keeps its members waiting, as far as its coordinator says; asked on a connection and a thread of its own, as the
member's own connection is what waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.connectors import kafka_config
from worker.connectors.kafka_errors import Explain
from worker.errors import count
from worker.interface import Connection

log = logging.getLogger("worker.kafka")

PATIENCE = 2.0
"""Seconds of waiting before the first word."""
AGAIN = 10.0
_ANSWER = 3.0


class Waiting:
    """Tells why something is waited for: after 2 s, and again every 10 s."""

    def __init__(
        self, connection: Connection, config: Mapping[str, Any], group: str, explain: Explain, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._config = config
        self._group = group
        self._explain = explain
        self._clock = clock
        self._since: float | None = None
        self._told = -AGAIN
        self._stable = ""
        """What was told of a group in which nothing happens: once is enough, for a worker that stands by."""

    def over(self) -> None:
        self._since, self._stable = None, ""

    def look(self, what: Callable[[], str], level: int = logging.WARNING, waited: float = 0.0) -> None:
        """It goes on. `what`: what is waited for; `waited`: so many seconds already at the first look."""
        now = self._clock()
        if self._since is None:
            self._since = now - waited
            self._told = self._since - AGAIN + PATIENCE
        if now - self._told >= AGAIN:
            self._told = now
            said = f"{what()}, for {now - self._since:.0f} s now"
            threading.Thread(target=self._tell, args=(level, said, self._since), name="kafka-why", daemon=True).start()

    def _tell(self, level: int, said: str, since: float) -> None:
        reason = self._reason()
        if self._since == since and reason != self._stable:
            self._stable = reason if " is stable, " in reason else ""
            log.log(level, "%s: %s", said, reason)

    def _reason(self) -> str:
        if kafka_config.by_broker(self._config):
            return f"a member that was killed holds its partitions until its session ends ({kafka_config.BROKERS_SESSION})"
        try:
            admin = AdminClient(
                kafka_config.login(self._config) | {"bootstrap.servers": kafka_config.servers(self._connection)},
                logger=kafka_config.ClientLog(),
            )
            # Not describe_consumer_groups: where the broker goes meanwhile, librdkafka 2.16 ends the process over that. And not
            # AdminClient's own list_groups, which only adds a warning that it is deprecated.
            found = super(AdminClient, admin).list_groups(self._group, timeout=_ANSWER)
        except KafkaException as error:
            return f"its coordinator does not say why ({self._explain.text(error.args[0])})"
        except ImportError:  # the client warns that a class of its own is deprecated, and here warnings are errors
            return "its coordinator was not asked"
        return (
            self._explained(found[0].state or "unknown", len(found[0].members))
            if found
            else "its coordinator does not know the group"
        )

    def _explained(self, state: str, members: int) -> str:
        group = f"group {self._group}"
        if state in ("PreparingRebalance", "CompletingRebalance"):
            return (
                f"{group} is rebalancing and waits until each of its {members} members has answered: for one that was killed at "
                f"most its session timeout ({kafka_config.session(self._config):g} s here); a new group waits for more members, "
                "3 s by default"
            )
        return f"{group} is {state.lower()}, with {count(members, 'member')}"


def moment(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
