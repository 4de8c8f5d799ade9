"""What a connector implements and what a handler sees. A connector author needs this page and `worker.errors`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, NoReturn, Protocol, Self, TypeVar

from worker.errors import ConfigError, Invalid

V = TypeVar("V")

KEY_HEADER = "dead_letter_key"
"""A record's key, among the headers of its dead letter, where the broker has no place of its own for it, as RabbitMQ."""
NULL_HEADER = "dead_letter_null"
"""`value`, among the headers of a dead letter whose record had none, where the broker cannot tell that from an empty one."""
LEFT_OUT_HEADER = "dead_letter_left_out"
"""Which headers of a record its dead letter does not have, as its broker cannot take them."""
Start = Literal["earliest", "latest"] | datetime


class Partition(NamedTuple):
    """The unit of order and of position: a topic-partition, a shard, or a whole queue."""

    stream: str
    id: int | str

    def __str__(self) -> str:
        return f"{self.stream}[{self.id}]"


class Unreadable(Sequence[tuple[str, bytes | None]]):
    """Headers that the client cannot read. Whoever looks at them gets `Invalid`: a record is not handled as if it had none."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def _invalid(self, *_: object) -> NoReturn:
        raise Invalid(f"headers that cannot be read: {self.reason}")

    __getitem__ = __len__ = __iter__ = _invalid

    def __repr__(self) -> str:
        return f"<unreadable headers: {self.reason}>"


_UNREADABLE = "unreadable_headers"


def shown(headers: Sequence[tuple[str, bytes | None]]) -> Sequence[tuple[str, bytes | None]]:
    """For logs, dead letters and files: in place of those that cannot be read one that says so."""
    return ((_UNREADABLE, headers.reason.encode()),) if type(headers) is Unreadable else headers


def as_read(headers: Sequence[tuple[str, bytes | None]]) -> Sequence[tuple[str, bytes | None]]:
    """What `shown` was told, for who handles it again: with that one header in its place a handler would succeed."""
    name, value = headers[0] if len(headers) == 1 else ("", None)
    return Unreadable((value or b"").decode(errors="replace")) if name == _UNREADABLE else headers


class Record(NamedTuple, Generic[V]):
    """One record: plain, immutable, picklable. Made only when somebody looks."""

    value: V | None
    """None: a tombstone."""
    key: bytes | None
    """RabbitMQ: the routing key; ActiveMQ: JMSXGroupID."""
    headers: Sequence[tuple[str, bytes | None]]
    """Kafka: `Invalid` for who looks at them, if a name is not UTF-8."""
    timestamp: int | None
    """Milliseconds since the epoch."""
    id: int | str
    """The broker's name for it: offset, delivery tag, message id, sequence number."""
    partition: Partition
    properties: Mapping[str, Any] = {}
    """What only this broker has: priority, content type, x-death, redelivered."""


class Batch(ABC):
    """Records of one partition in delivery order, held as the client's own untouched objects.

    Iterate for `Record`s, one object each; `values()`, `keys()`, `sizes()` and `timestamps()` make none and are fast.
    """

    __slots__ = ("attempt", "native", "partition")

    def __init__(self, partition: Partition, native: Sequence[Any], attempt: int = 1) -> None:
        self.partition = partition
        self.native = native
        self.attempt = attempt
        """Calls with its first record, this one included: 1 for the first."""

    def __len__(self) -> int:
        return len(self.native)

    def __iter__(self) -> Iterator[Record[bytes]]:
        return map(self.record, range(len(self.native)))

    def __getitem__(self, index: int) -> Record[bytes]:
        return self.record(range(len(self.native))[index])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.partition}, {len(self)} records, attempt {self.attempt}>"

    def take(self, start: int, stop: int | None = None) -> Self:
        """The records from `start` up to `stop`."""
        return type(self)(self.partition, self.native[start:stop], self.attempt)

    def pick(self, indices: Iterable[int]) -> Self:
        """The records at `indices`, in the order given."""
        native = self.native
        return type(self)(self.partition, [native[i] for i in indices], self.attempt)

    def join(self, others: Iterable[Self]) -> Self:
        """This batch with `others` of the same partition behind it."""
        native = list(self.native)
        for other in others:
            native += other.native
        return type(self)(self.partition, native, self.attempt)

    @abstractmethod
    def values(self) -> list[bytes | None]: ...

    @abstractmethod
    def keys(self) -> list[bytes | None]: ...

    @abstractmethod
    def timestamps(self) -> list[int | None]:
        """Milliseconds since the epoch; None where the broker gives none."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Bytes of each record that memory is counted by: its value, and its key where the client hands that out."""

    @abstractmethod
    def record(self, index: int) -> Record[bytes]: ...

    def size(self) -> int:
        """The sum of `sizes()`, or more where the client has a guess at what else the records hold."""
        return sum(self.sizes())


class OnRevoke(Protocol):
    """The loop's; a source calls it from inside `poll` or `close` when partitions leave it.

    Revoked ones may still be committed until it returns; lost ones belong to somebody else already.
    """

    def __call__(self, partitions: Collection[Partition], *, lost: bool) -> None: ...


class Source(Protocol):
    """Where records come from. One caller at a time, so it needs no locks and no threads of its own.

    Any method may raise `Unavailable` (the loop drops everything, closes, backs off, opens again) or `Refused`
    (the handler stops).
    """

    ordered: bool
    """True: `commit` moves a position. False: each record is settled alone."""
    limit: int | None
    """So many records the broker hands out unsettled; a batch does not wait past it."""
    patience: float
    """Seconds that `on_revoke` may take before the broker gives the partitions away regardless; `drain` is shorter."""
    hold: float
    """Seconds a record may stay unsettled before the broker takes it back (`math.inf`: for ever)."""
    timestamps: bool
    """Records have one; else `max_age` can only count from their arrival. One without it does not expire."""
    stalled: bool
    """What has finished is not confirmed for too long: nothing more is begun until it is. A kill would repeat it."""
    session: float
    """Seconds that the commits of a group may have to wait for one of its workers that was killed; 0: they do not."""
    membership: str
    """How the workers of a group share partitions, for people; "": they do not."""
    flooded: bool
    """Set before a close by a loop that dead letters flooded, kept with the positions where the broker can, and read
    by the next worker, which then probes with one record."""

    def open(self, on_revoke: OnRevoke) -> None:
        """Connects and subscribes; says where a partition without a position starts."""

    def poll(self, max_records: int, timeout: float) -> list[Batch]:
        """Returns as soon as anything is here, at most `max_records`, [] after `timeout`, in batches of one partition each.

        Also the moment for keep-alives, commits and rebalances, so it is called often, with 0 when there is no room.
        """

    def commit(self, batches: Sequence[Batch]) -> None:
        """These are finished, never deliver them again (ordered: always the next ones of what was polled).

        Durable at the source's own pace, at the latest before their partition is given away or the source closes.
        """

    def rewind(self, partition: Partition) -> None:
        """Gives back everything unsettled of it, to come again in order; only when none of it is in flight.

        If it is paused, it is held by nobody until it is resumed.
        """

    def reject(self, batches: Sequence[Batch]) -> None:
        """`dead_letter="broker"`: what the broker's policy is for; raises `Refused` where it has none."""

    def finish(self) -> bool:
        """The worker stops: nothing more is fetched. True: the broker counts what is given back, so what was fetched should
        be polled and handled as far as there is time; False: it may as well be given back."""

    def pause(self, partitions: Collection[Partition]) -> None: ...

    def resume(self, partitions: Collection[Partition]) -> None: ...

    def lag(self) -> int | None:
        """Records still at the broker behind the position, as far as the client knows without asking; None: unknown."""

    def close(self, remaining: Callable[[], float] | None = None) -> None:
        """Makes commits durable and hands back what is unfinished; safe to call twice, and after an `open` that failed.

        `remaining` says how many seconds it may still wait for that (None: some); then it raises `Unconfirmed`.
        """


class DeadLetter(NamedTuple):
    """A record that was given up, why, and after how many calls."""

    record: Record[bytes]
    error: Exception
    attempts: int
    headers: Sequence[tuple[str, bytes | None]]
    """What to publish it with: the record's own headers and those of `worker.deadletter`."""


class Sink(Protocol):
    """Where dead letters go. Called by the handlers' threads, several at once, never by the loop."""

    def open(self) -> None:
        """Connects and checks that the destination exists: `Refused` if it does not, `Unavailable` if nobody answers."""

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Returns once the broker has them all durably, in order per key; else raises `PublishError`: all of them come again."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Connection:
    """A named connection: its URL taken apart, with the query and the mapping as `options`."""

    name: str
    scheme: str
    hosts: str
    """`host:port,host:port` as the URL has it."""
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Anything else the client library can be told."""

    def __str__(self) -> str:
        """The URL without secrets and options: what logs and errors may say."""
        user = f"{self.username}@" if self.username else ""
        return f"{self.scheme}://{user}{self.hosts}{self.path}"


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+)(?::([0-9]+))?")
_HERE = ("127.0.0.1", "::1")


def addresses(connection: Connection, usual: int) -> list[tuple[str, int]]:
    """Each of its hosts, without brackets, and its port: `usual` where none is given. ConfigError for what is no host."""
    found = []
    for one in (part.strip() for part in connection.hosts.split(",")):
        match = _HOST.fullmatch(one)
        host, port = match.groups() if match else ("", None)
        if not _is_name(host) or not 0 < int((port or str(usual))[:6]) < 65_536:
            raise ConfigError(f"connection {connection.name}: {one!r} is no host: write {connection.scheme}://host:{usual}")
        found.append((host.strip("[]"), int(port or usual)))
    return found


def _is_name(host: str) -> bool:
    """What the resolver would not even ask for: an empty or too long label."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def meet(one: Connection, other: Connection, usual: int) -> bool:
    """Whether they have a broker in common, however it is spelt."""
    brokers = [
        {("localhost" if host in _HERE else host.lower().rstrip("."), port) for host, port in addresses(connection, usual)}
        for connection in (one, other)
    ]
    return not brokers[0].isdisjoint(brokers[1])


@dataclass(frozen=True)
class SourceOptions:
    """What the loop tells a connector when it makes a source."""

    connection: Connection
    streams: tuple[str, ...]
    group: str
    """Kafka: the consumer group; elsewhere a name for logs and the connection."""
    batch_size: int = 100
    ordered: bool = False
    """Queues: a record that failed is waited for, and nothing behind it is settled before; logs always are in order."""
    in_flight: int = 100
    """How many records may be unsettled at once: a queue's prefetch follows it."""
    window: float = 0.5
    start: Start = "earliest"
    commit_interval: float = 1.0
    letters: bool = False
    """For a command over dead letters: what it looks at must be there afterwards."""


@dataclass(frozen=True)
class SinkOptions:
    """What the loop tells a connector when it makes a sink for dead letters."""

    connection: Connection
    stream: str
    timeout: float = 60.0
    """Seconds within which one `publish` must be confirmed."""
    partitions: bool = False
    """Each record goes back to the partition that it names, where that is still there; else its key decides."""


class Connector(Protocol):
    """A module does, found through the entry points of group `worker.connectors` by its connections' scheme.

    The functions check their options and raise `ConfigError`. `source` and `sink` do not connect, that is `open`'s. A connector
    may do without `reads`, `grouped` and `warnings`: then equal URLs are one broker, and groups are as on Kafka.
    """

    def source(self, options: SourceOptions) -> Source: ...

    def sink(self, options: SinkOptions) -> Sink: ...

    def reads(self, source: Connection, stream: str, target: Connection, name: str) -> bool:
        """Whether a handler of `stream` gets what is published to `name`, as far as the settings tell."""

    def grouped(self, stream: str) -> bool:
        """Each group gets all of it; else each record goes to one of all that read the stream, whatever their group."""

    def warnings(self, connection: Connection) -> Sequence[str]:
        """What is allowed, and yet somebody should know."""

    def browse(self, options: SourceOptions) -> Iterator[Batch]:
        """What waits for the group now, each partition in order, without taking any of it; what comes meanwhile is left out.

        For dead letters. Raises `Refused` or `Unavailable`.
        """
