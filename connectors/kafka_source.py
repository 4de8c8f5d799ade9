"""Reads topics as a member of a consumer group."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.connectors import kafka_config
from worker.connectors.kafka_batch import KafkaBatch, partition_of, split, weight
from worker.connectors.kafka_commit import FLOODED, Positions
from worker.connectors.kafka_errors import MISSING, Explain
from worker.connectors.kafka_group import Waiting, moment
from worker.connectors.kafka_health import Health
from worker.connectors.kafka_reach import find, reach
from worker.connectors.kafka_start import lookup, places_from, starts
from worker.errors import ConnectorError, Refused, Unavailable, Unconfirmed
from worker.interface import Batch, OnRevoke, Partition, SourceOptions

log = logging.getLogger("worker.kafka")

_TEND = 0.1
_REACH = 10.0
_COMMITTED = 30.0
_FLUSH = 5.0
_LEAVE = 5.0
_SHORT = 1.0
_SERVE = 0.05
_AWAY = 45.0
"""Seconds without a broker after which the client is given up, or a session if that is longer. It connects and joins again by
itself, while a new one must log in first: where tokens do not come for a while, only the old one goes on."""
_TAKEN = 45.0
"""Seconds beyond a session that a name may be taken: attempts are up to 30 s apart, and the broker's session may be longer."""
_HELD = 1_000
_HELD_BYTES = 8 * 1024 * 1024
_BESIDE = 2_000
"""Bytes of a key and headers above which the client may not go on fetching while nothing is handled: it bounds values only."""
_HEAVY = 10.0
"""Seconds that this is remembered."""
_BROKEN = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)


class KafkaSource:
    """One consumer. `client` adds to what librdkafka is told, callbacks for instance."""

    ordered = True
    limit = None
    hold = math.inf
    timestamps = True

    def __init__(
        self, options: SourceOptions, client: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._config = kafka_config.consumer_config(options) | dict(client or {})
        self._policy = kafka_config.out_of_range(options.connection)
        self._cooperative = kafka_config.cooperative(self._config)
        self._clock = clock
        self._explain = Explain(options.connection.name, self._config, stream=", ".join(options.streams), group=options.group)
        self.patience = kafka_config.milliseconds(self._config, "max.poll.interval.ms", 300_000)
        self._session = kafka_config.session(self._config)
        self.session = 0.0 if kafka_config.by_broker(self._config) else self._session
        self.membership = kafka_config.protocol(self._config)
        self._consumer: Consumer | None = None
        self._proven = False
        self._taken_since: float | None = None
        """When the group first said that somebody else has our group.instance.id."""
        self._reset()

    def _reset(self) -> None:
        self._health = Health(self._explain, self._some_topic, max(self._session, _AWAY), self._clock)
        self._positions = Positions(self._options.commit_interval, self._explain, self._clock)
        self._waiting = Waiting(self._options.connection, self._config, self._options.group, self._explain, self._clock)
        self.stalled = False
        self._known: dict[str, int] = {}
        self._gone: set[str] = set()
        self._broken: dict[Partition, int] = {}
        self._delivered: dict[Partition, int] = {}
        """The offset behind the last record that was handed out."""
        self._ends: dict[Partition, int] = {}
        """Where the log ended when the client had delivered everything."""
        self._paused: set[Partition] = set()
        self._topic: str | None = None
        # Popped from the client but not handed out: while the core has no room, and within one poll.
        self._held: list[Message] = []
        self._hand: list[Message] = []
        self._choked = False
        self._heavy_until = -math.inf
        self._rebalanced = False
        self._moved = False
        self._raised: BaseException | None = None
        self._polled = self._clock()
        self._gap = 0.0
        self._popped = self._tended = 0.0
        self._grumbled = -60.0

    # -- the connection ------------------------------------------------------------------------------------------------------

    def open(self, on_revoke: OnRevoke) -> None:
        self._reset()
        self._on_revoke = on_revoke
        servers = kafka_config.servers(self._options.connection)
        callbacks = {"error_cb": self._health.heard, "on_commit": self._positions.answered}
        try:
            consumer = Consumer(self._config | callbacks | {"bootstrap.servers": servers}, logger=kafka_config.ClientLog())
        except KafkaException as error:
            raise self._explain.error(error.args[0]) from error
        try:
            self._reach(consumer, servers)
            self._look_for_topics(consumer)
            consumer.subscribe(
                list(self._options.streams),
                on_assign=self._never_raising(self._assigned),
                on_revoke=self._never_raising(self._revoked),
                on_lost=self._never_raising(self._lost),
            )
        except KafkaException as error:
            consumer.close()
            if error.args[0].code() == KafkaError._INVALID_ARG and self._patterns:
                told = f"the client does not understand {', '.join(self._patterns)}: {self._explain.text(error.args[0])}"
                raise Refused(f"connection {self._options.connection.name}: {told}") from error
            raise self._explain.error(error.args[0]) from error
        except BaseException:
            consumer.close()
            raise
        if not self._proven:
            log.info("group %s: joining, protocol %s", self._options.group, self.membership)
        self._consumer = consumer
        self._proven = True
        self._polled = self._clock()

    def _reach(self, consumer: Consumer, servers: str) -> None:
        try:
            reach(consumer, self._some_topic, servers, self._explain, self._health, self._clock)
        except ConnectorError as failure:
            # These settings have worked: a broker that starts refuses logins that it will accept later.
            raise (Unavailable(str(failure)) if self._proven else failure) from failure.__cause__

    @property
    def _patterns(self) -> list[str]:
        return [stream for stream in self._options.streams if stream.startswith("^")]

    @property
    def _some_topic(self) -> str | None:
        """One to ask the broker about; None asks for all, where only patterns are given."""
        return next((stream for stream in self._options.streams if not stream.startswith("^")), None)

    def _look_for_topics(self, consumer: Consumer) -> None:
        """Learns how many partitions there are; refuses a topic that does not exist, unless it did before."""
        if self._patterns:
            self._known = {name: len(topic.partitions) for name, topic in consumer.list_topics(timeout=_REACH).topics.items()}
        for pattern in self._patterns:
            self._look_for_matches(pattern)
        for stream in self._options.streams:
            if stream in self._patterns:
                continue
            topic = find(consumer, stream, self._config, self._clock)
            if topic.error is not None and topic.error.code() in MISSING:
                if not self._proven:
                    raise Refused(self._missing(consumer, stream))
                self._vanished(stream)
            elif topic.error is not None and self._explain.permanent(topic.error):
                raise self._explain.error(topic.error, stream)
            self._known[stream] = len(topic.partitions)

    def _look_for_matches(self, pattern: str) -> None:
        found = [name for name in self._known if re.match(pattern, name)]
        if kafka_config.by_broker(self._config):
            whole = [name for name in found if re.fullmatch(pattern, name)]
            if longer := sorted(set(found) - set(whole))[:5]:
                log.warning(
                    "with KIP-848 %s must match a topic's whole name: %s and the like are not read; write %s.*",
                    *(pattern, ", ".join(longer), pattern),
                )
            found = whole
        if not found:
            log.warning("no topic matches %s yet", pattern)

    def _missing(self, consumer: Consumer, stream: str) -> str:
        near = get_close_matches(stream, consumer.list_topics(timeout=_REACH).topics, 3, 0.7)
        hint = f"did you mean {' or '.join(near)}?" if near else "create it, or correct the handler's stream"
        return f"connection {self._options.connection.name}: there is no topic {stream}: {hint}"

    def close(self, remaining: Callable[[], float] | None = None) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        self._gap = self._clock() - self._polled
        if not self._health.hopeless and self._gap < self.patience:
            with contextlib.suppress(KafkaException):
                self._health.down = not self._settle(consumer, remaining)
        unconfirmed = self._positions.unconfirmed
        reached = self._hand_back(consumer) and not self._health.hopeless
        # Without a broker a client is dropped: its `close` waits for minutes, and a revocation that came to it meanwhile has
        # waited for ever, holding the interpreter's lock.
        end = consumer.close if reached else [consumer].clear
        del consumer
        closing = threading.Thread(target=end, name="kafka-close", daemon=True)
        closing.start()
        closing.join(_LEAVE if reached else _SHORT)
        if reached and closing.is_alive():
            log.warning("the client is still leaving its group: not waiting for it")
        self._raise()
        if unconfirmed:
            raise Unconfirmed(
                f"group {self._options.group}: {unconfirmed} finished records could not be committed and come again",
                unconfirmed,
            )

    def _settle(self, consumer: Consumer, remaining: Callable[[], float] | None) -> bool:
        deadline = self._clock() + _FLUSH
        left = remaining or (lambda: deadline - self._clock())
        self._waiting.over()

        def waiting() -> None:
            self._waiting.look(
                lambda: (
                    f"stopping waits until {self._positions.unconfirmed} finished records are committed, at most until "
                    f"{moment(left())}"
                )
            )

        settled = self._positions.settle(consumer, left, waiting)
        self._waiting.over()
        return settled

    def _hand_back(self, consumer: Consumer) -> bool:
        """Gives the partitions back, here and not in `Consumer.close`, because that calls the core, which expects its own thread;
        whether the client took that."""
        deadline = self._clock() + _LEAVE
        with contextlib.suppress(KafkaException):
            consumer.unsubscribe()
            while len(self._positions) and self._clock() < deadline:
                consumer.poll(_SERVE)
        if rest := set(self._positions):
            self._positions.forget(rest)
            self._on_revoke(rest, lost=True)
        return not rest

    # -- rebalances ----------------------------------------------------------------------------------------------------------

    def _never_raising(
        self, method: Callable[[Consumer, list[TopicPartition]], None]
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        """An exception that leaves a callback destroys the records the client has popped: it is raised afterwards."""

        def callback(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                method(consumer, partitions)
            except KafkaException as error:
                self._raised = self._raised or self._explain.error(error.args[0])
            except BaseException as error:
                self._raised = self._raised or error

        return callback

    def _raise(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        found = consumer.committed(assigned, timeout=_COMMITTED) if assigned else []
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        begin = {Partition(place.topic, place.partition): place.offset for place in found}
        without = [partition for partition, offset in begin.items() if offset < 0]
        if without:
            begin |= starts(consumer, without, self._options.start, self._known, self._options.group)
        if any(place.metadata == FLOODED for place in found):
            self._positions.flooded = True
        for partition, offset in begin.items():
            # The group's positions are there from now on: a partition of this topic without one is new, or the topic is.
            self._known[partition.stream] = 0
            self._positions.own(partition, offset, committed=partition not in without)
            self._delivered[partition] = offset
            self._appeared(partition.stream)
        if without:
            # Else a restart before the first commit would begin at a later "latest", and skip.
            error = self._positions.flush(consumer, without, _FLUSH)
            if error is not None and self._explain.known(error):
                raise KafkaException(error)
        places = [TopicPartition(p.stream, int(p.id), offset) for p, offset in begin.items()]
        (consumer.incremental_assign if self._cooperative else consumer.assign)(places)
        if self._choked:
            consumer.pause(places)
        self._rebalanced = True
        self._taken_since = None
        self._regroup()
        if begin:
            log.info("group %s: assigned %s", self._options.group, places_from(begin))

    def _revoked(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        # librdkafka may call this for partitions that are lost, when the poll came too late (librdkafka#5604).
        self._give_back(consumer, revoked, lost=self._gap > self.patience or self._health.hopeless)

    def _lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._health.wonder()
        self._give_back(consumer, lost, lost=True)

    def _give_back(self, consumer: Consumer, places: list[TopicPartition], lost: bool) -> None:
        partitions = {Partition(place.topic, place.partition) for place in places}
        try:
            if ours := {partition for partition in partitions if partition in self._positions}:
                self._on_revoke(ours, lost=lost)
            if not lost:
                self._positions.flush(consumer, partitions, _FLUSH)
        finally:
            self._moved = self._rebalanced = True
            self._positions.forget(partitions)
            self._drop(partitions)
            self._paused -= partitions
            for partition in partitions:
                self._broken.pop(partition, None)
                self._ends.pop(partition, None)
            self._regroup()
            if self._cooperative:
                consumer.incremental_unassign(places)
            else:
                consumer.unassign()

    def _regroup(self) -> None:
        topics = {partition.stream for partition in self._positions}
        self._topic = topics.pop() if len(topics) == 1 else None

    def _drop(self, partitions: Collection[Partition]) -> None:
        self._hand = [message for message in self._hand if partition_of(message) not in partitions]
        self._held = [message for message in self._held if partition_of(message) not in partitions]

    # -- records -------------------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        consumer = self._consumer
        if consumer is None:
            raise Unavailable("the source is not open")
        self._gap = self._clock() - self._polled
        try:
            messages = self._receive(consumer, max_records, timeout) if max_records else self._idle(consumer)
        except KafkaException as error:
            raise self._refusal(error.args[0]) from error
        self._polled = now = self._clock()
        if self._rebalanced:
            self._wake(consumer)
        batches = self._batches(messages) if messages else []
        for batch in batches:
            self._delivered[batch.partition] = (batch.native[-1].offset() or 0) + 1
            if batch.beside > _BESIDE:
                self._heavy_until = now + _HEAVY
        if now >= self._tended + min(_TEND, self._options.commit_interval):
            self._tended = now
            self._tend(consumer)
        if self._raised is not None:
            self._raise()
        return list(batches)

    def _wake(self, consumer: Consumer) -> None:
        """A rebalance pauses what we keep, and the client's threads that fetch sleep on for up to a second after its end,
        unless a request of another kind wakes them: 0.96 to 0.99 s without a record, none with it (librdkafka 2.x, measured).
        """
        self._rebalanced = False
        if places := [TopicPartition(partition.stream, int(partition.id), OFFSET_END) for partition in self._positions]:
            with contextlib.suppress(KafkaException):  # what it answers does not matter
                consumer.offsets_for_times(places, timeout=0.01)

    def _batches(self, messages: list[Message]) -> list[KafkaBatch]:
        batches = split(messages, self._topic)
        if batches is None:
            batches = split(self._without_errors(messages), self._topic)
        return list(batches or ())

    def _receive(self, consumer: Consumer, max_records: int, timeout: float) -> list[Message]:
        self._moved = False
        self._hand = self._take(max_records) if self._held else []
        if not self._hand:
            first = self._first(consumer, timeout)
            if first is None:
                return []
            self._hand.append(first)
        messages = consumer.consume(max_records - len(self._hand), 0)
        messages[:0] = self._hand
        self._hand = []
        if self._moved:
            messages = [message for message in messages if message.error() or partition_of(message) in self._positions]
        return messages

    def _first(self, consumer: Consumer, timeout: float) -> Message | None:
        """A record, or an error; the end of a partition is noted and waited on, as nothing has come."""
        until = self._clock() + timeout
        while (message := consumer.poll(timeout)) is not None:
            error = message.error()
            if error is None or error.code() != KafkaError._PARTITION_EOF:
                return message
            self._trouble(message, error)
            timeout = max(0.0, until - self._clock())
        return None

    def _take(self, max_records: int) -> list[Message]:
        """What was held back, as far as its partition is not paused."""
        ready = [message for message in self._held if partition_of(message) not in self._paused][:max_records]
        taken = set(map(id, ready))
        self._held = [message for message in self._held if id(message) not in taken]
        return ready

    def _idle(self, consumer: Consumer) -> list[Message]:
        """The core has no room: stays in the group, and serves rebalances, without throwing away what was prefetched.

        A `consume` of nothing counts as a poll but serves no callbacks; popping a record does, so a few are popped and held.
        """
        consumer.consume(0, 0)
        now = self._clock()
        if now < self._popped + _TEND:
            return []
        self._popped = now
        message = consumer.poll(0)
        if message is None:
            return []
        if message.error() is not None:
            return [message]
        self._held.append(message)
        full = len(self._held) >= _HELD or sum(map(weight, self._held)) >= _HELD_BYTES
        if not self._choked and (full or now < self._heavy_until):
            self._choked = True
            consumer.pause(self._places(self._positions))
        return []

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            error = message.error()
            if error is not None:
                self._trouble(message, error)
        return [message for message in messages if message.error() is None]

    def _trouble(self, message: Message, error: KafkaError) -> None:
        code, topic = error.code(), message.topic()
        if code == KafkaError._PARTITION_EOF:
            self._ends[partition_of(message)] = message.offset() or 0
            return
        if code in _BROKEN:
            self._broken[partition_of(message)] = message.offset() or 0
        elif code in MISSING and topic is not None:
            if not topic.startswith("^"):  # a pattern that matches nothing yet: that was told at the start
                self._vanished(topic)
        elif self._explain.permanent(error):
            self._health.fatal |= code == KafkaError._FATAL
            raise self._refusal(error, topic)
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            log.warning("not polled for %.0f s (max.poll.interval.ms): out of the group, its records come again", self.patience)
        elif code in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT):
            self._health.heard(error)
        elif self._clock() - self._grumbled >= 10:
            self._grumbled = self._clock()
            log.warning("%s: %s", topic or "kafka", self._explain.text(error))

    def _refusal(self, error: KafkaError, topic: str | None = None) -> ConnectorError:
        raised = self._explain.error(error, topic)
        if self._explain.code(error) != KafkaError.UNRELEASED_INSTANCE_ID:
            return raised
        now = self._clock()
        self._taken_since = now if self._taken_since is None else self._taken_since
        if now - self._taken_since > self._session + _TAKEN:
            return raised
        return Unavailable(
            f"group {self._options.group} has a member with this group.instance.id: perhaps the one that was killed, until its "
            f"session ends ({kafka_config.BROKERS_SESSION})"
        )

    # -- what is looked after now and then -----------------------------------------------------------------------------------

    def _tend(self, consumer: Consumer) -> None:
        if self._ends:
            self._follow_ends()
        self._positions.send(consumer)
        self._look_if_waiting()
        if self._health.doubtful:
            self._health.look(consumer)
        if self._broken and not self._health.down:
            self._repair(consumer)
        if self._choked and not self._held:
            self._choked = False
            consumer.resume(self._places(set(self._positions) - self._paused))

    def _follow_ends(self) -> None:
        """Behind the last record of a transaction lies its mark: a position before that is a lag to monitors, and gone one day.
        So with nothing in flight the position goes to the end of the log, as the client does."""
        held = set(map(partition_of, self._held))
        for partition, end in list(self._ends.items()):
            if partition not in self._positions or end <= self._positions.next(partition):
                del self._ends[partition]
            elif self._positions.next(partition) == self._delivered.get(partition) and partition not in held:
                self._positions.skip(partition, end)
                self._delivered[partition] = end

    def _look_if_waiting(self) -> None:
        self.stalled = self._positions.stalled
        if self._health.down:  # that was told
            self._waiting.over()
        elif self.stalled:
            self._waiting.look(
                lambda: (
                    f"group {self._options.group}: {self._positions.unconfirmed} finished records are not committed, so nothing "
                    "more is begun"
                ),
                waited=self._positions.waited,
            )
        elif not len(self._positions) and not self._gone:
            self._waiting.look(
                lambda: f"group {self._options.group}: waiting for partitions, there is none for it, or not yet", logging.INFO
            )
        else:
            self._waiting.over()

    def _vanished(self, topic: str) -> None:
        # Made again, it is new: it starts at its earliest record, like any partition that was not there at the start.
        self._known[topic] = 0
        if topic not in self._gone:
            self._gone.add(topic)
            log.warning("topic %s is gone: waiting until it is there again", topic)

    def _appeared(self, topic: str) -> None:
        if topic in self._gone:
            self._gone.discard(topic)
            log.info("topic %s is there again", topic)

    def _repair(self, consumer: Consumer) -> None:
        """The broker does not have the position any more: retention passed it, or the topic is another one now."""
        try:
            first = lookup(consumer, self._broken, OFFSET_BEGINNING)
            end = lookup(consumer, self._broken, OFFSET_END)
        except KafkaException as error:
            if error.args[0].code() in MISSING:
                for partition in self._broken:
                    self._vanished(partition.stream)
            return
        broken, self._broken = self._broken, {}
        for partition, offset in broken.items():
            if partition in self._positions:
                at = offset if offset >= 0 else self._positions.next(partition)
                self._begin_again(consumer, partition, at, first[partition], end[partition])

    def _begin_again(self, consumer: Consumer, partition: Partition, at: int, first: int, end: int) -> None:
        replaced = at > end
        what = (
            f"it ends at {end}, so it was truncated or made again"
            if replaced
            else f"the {max(0, first - at)} offsets from there on are gone, it begins at {first}"
        )
        group = self._options.group
        if self._policy == "stop":
            raise Refused(
                f"group {group} stands at {at} of {partition}, but {what}: set its position, "
                "or the connection's out_of_range to earliest or latest"
            )
        target, name = (end, "latest") if self._policy == "latest" and not replaced else (first, "earliest")
        log.error("group %s stands at %d of %s, but %s: going on at %s (%d)", group, at, partition, what, name, target)
        if replaced:
            # What is in flight or held has offsets of the old log: its result must not move the position in the new one.
            self._on_revoke({partition}, lost=True)
            self._drop({partition})
            self._paused.discard(partition)  # it begins anew, and the core would resume only what it remembers
        if replaced or self._positions.next(partition) <= at:
            self._positions.move(partition, target)
            self._delivered[partition] = target
        self._ends.pop(partition, None)
        self._take_anew(consumer, TopicPartition(partition.stream, int(partition.id), target))

    def _take_anew(self, consumer: Consumer, place: TopicPartition) -> None:
        """After such an error the client reads a partition no more and refuses to seek: only assigning it again helps."""
        partition = Partition(place.topic, place.partition)
        if self._cooperative:
            consumer.incremental_unassign([place])
            consumer.incremental_assign([place])
        else:
            others = consumer.position(self._places(set(self._positions) - {partition}))
            for other in others:
                if other.offset < 0:
                    other.offset = self._positions.next(Partition(other.topic, other.partition))
            consumer.assign([*others, place])
        if stopped := set(self._positions) if self._choked else self._paused:
            consumer.pause(self._places(stopped))

    # -- what the core asks for ----------------------------------------------------------------------------------------------

    def commit(self, batches: Sequence[Batch]) -> None:
        self._positions.finish(batches)

    def rewind(self, partition: Partition) -> None:
        if self._consumer is None or partition not in self._positions:
            return
        self._drop({partition})
        self._ends.pop(partition, None)
        self._delivered[partition] = self._positions.next(partition)
        try:
            self._consumer.seek(TopicPartition(partition.stream, int(partition.id), self._positions.next(partition)))
        except KafkaException as error:
            raise self._explain.error(error.args[0]) from error

    def reject(self, batches: Sequence[Batch]) -> None:
        raise Refused('Kafka has no dead-letter policy, so not dead_letter="broker" but a topic: dead_letter="kafka:TOPIC"')

    def finish(self) -> bool:
        return False

    def pause(self, partitions: Collection[Partition]) -> None:
        ours = {partition for partition in partitions if partition in self._positions} - self._paused
        self._paused |= ours
        if self._consumer is not None and ours and not self._choked:
            self._consumer.pause(self._places(ours))

    def resume(self, partitions: Collection[Partition]) -> None:
        # Resuming what is not paused has delivered records twice (confluent-kafka before 2.4).
        ours = self._paused.intersection(partitions)
        self._paused -= ours
        if self._consumer is not None and ours and not self._choked:
            self._consumer.resume(self._places(ours))

    def _places(self, partitions: Collection[Partition] | Positions) -> list[TopicPartition]:
        return [TopicPartition(partition.stream, int(partition.id)) for partition in partitions]

    def lag(self) -> int | None:
        consumer = self._consumer
        if consumer is None or not len(self._positions):
            return None
        total = len(self._held)
        for place in consumer.position(self._places(self._positions)):
            _, high = consumer.get_watermark_offsets(place, cached=True)
            position = max(place.offset, self._positions.next(Partition(place.topic, place.partition)))
            if high < 0 or position < 0:
                return None
            total += max(0, high - position)
        return total

    @property
    def flooded(self) -> bool:
        return self._positions.flooded

    @flooded.setter
    def flooded(self, flooded: bool) -> None:
        self._positions.flood(flooded)
