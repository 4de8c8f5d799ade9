"""A real broker with proxies in front of it, and what a campaign needs to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.chaos.producer import ActiveMQLoad, KafkaLoad, Load, RabbitMQLoad
from worker.interface import Partition, Record
from worker.testing import ActiveMQContainer, KafkaContainer, RabbitMQContainer, ToxiproxyContainer
from worker.testing.activemq import destination
from worker.testing.containers import BrokerContainer
from worker.testing.kafka import Silent
from worker.testing.toxiproxy import Proxy

ROUTES = ("a", "b", "dead")
"""Ways to the broker that can be cut apart: workers take one of the first two, their dead letters the last."""
PARTITIONS = 4
QUEUES = 2


class Letter(NamedTuple):
    """A dead letter; the time is when the broker got it, or, where it does not say, when it was given up."""

    name: str
    time: float


class Stage(ABC):
    """Streams, their dead letters, and the ways there."""

    broker: BrokerContainer
    routes: dict[str, Proxy]
    places: list[Partition]
    dead: str

    @abstractmethod
    def environ(self, route: str) -> dict[str, str]:
        """What a worker must be told that takes this route."""

    @abstractmethod
    def load(self, seed: int, rate: float) -> Load: ...

    @abstractmethod
    def log(self, load: Load) -> dict[Partition, list[str]]:
        """The names of the records that the broker had, in the order of each partition."""

    @abstractmethod
    def letters(self) -> list[Letter]:
        """All dead letters; they may be gone afterwards."""

    def positions(self) -> dict[Partition, int] | None:
        """How many records of each partition the broker counts as finished; None: it cannot be asked now, or ever."""
        return None

    def unsettled(self) -> set[str] | None:
        """The names of all that would come again, where no worker holds any; None: it cannot be asked now, or ever."""
        return None

    @abstractmethod
    def empty(self) -> bool:
        """Nothing waits for a worker; some may hold a little."""

    @abstractmethod
    def settled(self) -> bool:
        """The broker would deliver nothing again, when all workers are gone."""

    def grow(self) -> bool:
        """One partition more, if there can be; `places` has it then."""
        return False

    def alarm(self, on: bool) -> bool:
        """Takes no more messages, for lack of memory, if it can be made to."""
        return False

    def stop_broker(self) -> None:
        """In an orderly way."""
        self.broker.stop_broker()

    def heal(self) -> None:
        for proxy in self.routes.values():
            proxy.restore()
        self.alarm(False)

    def close(self) -> None:
        self.broker.stop()


class KafkaStage(Stage):
    def __init__(self, toxiproxy: ToxiproxyContainer, partitions: int = PARTITIONS) -> None:
        self.broker: KafkaContainer = KafkaContainer()
        self.routes = advertise(self.broker, toxiproxy)
        self.broker.start()
        self._topic = self.broker.topic("chaos", partitions)
        self.dead = self.broker.topic("dead", 1, message_timestamp_type="LogAppendTime")
        self.places = [Partition(self._topic, number) for number in range(partitions)]
        self._group = f"group-of-{self._topic}"

    def environ(self, route: str) -> dict[str, str]:
        # Short, so that a new partition is noticed within a campaign. Sessions are the default.
        hasty = "topic.metadata.refresh.interval.ms=2000"
        return {
            "CHAOS_STREAMS": f"kafka:{self._topic}",
            "WORKER_CONNECTIONS__KAFKA": f"kafka://{self.routes[route].address}?{hasty}",
            "WORKER_CONNECTIONS__DEAD": f"kafka://{self.routes['dead'].address}",
            "WORKER_HANDLERS__HANDLE__GROUP": self._group,
        }

    def load(self, seed: int, rate: float) -> Load:
        return KafkaLoad(self.broker.client, self.places, seed, rate)

    def log(self, load: Load) -> dict[Partition, list[str]]:
        found: dict[Partition, list[str]] = {place: [] for place in self.places}
        for record in self.broker.read(self._topic):
            found[record.partition].append(_name(record))
        return found

    def letters(self) -> list[Letter]:
        return [Letter(_name(record), (record.timestamp or 0) / 1000) for record in self.broker.read(self.dead)]

    @cached_property
    def _asking(self) -> Consumer:
        """It never joins the group."""
        return Consumer({**self.broker.client, "group.id": self._group, "enable.auto.commit": False}, logger=Silent())

    def positions(self) -> dict[Partition, int] | None:
        places = [TopicPartition(place.stream, int(place.id)) for place in list(self.places)]
        try:
            found = self._asking.committed(places, timeout=2)
        except KafkaException:
            return None
        # Offsets are counts: nothing is compacted, and there are no transactions.
        return {Partition(one.topic, one.partition): one.offset for one in found if one.offset >= 0 and one.error is None}

    def settled(self) -> bool:
        ends = {Partition(self._topic, number): end for number, end in self.broker.ends(self._topic).items() if end}
        positions = self.positions() or {}
        return all(positions.get(place) == end for place, end in ends.items())

    def empty(self) -> bool:
        return self.settled()

    def grow(self) -> bool:
        count = len(self.places) + 1
        if count > 2 * PARTITIONS:
            return False
        admin = AdminClient(self.broker.client, logger=Silent())
        admin.create_partitions([NewPartitions(self._topic, count)])[self._topic].result(30)
        self.places.append(Partition(self._topic, count - 1))
        return True

    def close(self) -> None:
        self._asking.close()
        super().close()


def advertise(kafka: KafkaContainer, toxiproxy: ToxiproxyContainer) -> dict[str, Proxy]:
    """A listener for each route: clients go where the broker says that it is."""
    listening = {name: 9100 + number for number, name in enumerate(ROUTES)}
    published = kafka.publish(*listening.values())
    routes = {name: toxiproxy.proxy(f"127.0.0.1:{published[port]}") for name, port in listening.items()}
    advertised = {"PLAINTEXT": kafka.bootstrap, "BROKER": "localhost:9093"}
    advertised |= {name.upper(): proxy.address for name, proxy in routes.items()}
    ports = {"PLAINTEXT": 9092, "BROKER": 9093, "CONTROLLER": 9094} | {name.upper(): port for name, port in listening.items()}
    kafka.with_envs(
        KAFKA_LISTENERS=",".join(f"{name}://:{port}" for name, port in ports.items()),
        KAFKA_ADVERTISED_LISTENERS=",".join(f"{name}://{address}" for name, address in advertised.items()),
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=",".join(f"{name}:PLAINTEXT" for name in ports),
    )
    return routes


class QueueStage(Stage):
    """Queues that one consumer at a time is active on, so that their order is promised across workers."""

    broker: RabbitMQContainer | ActiveMQContainer
    scheme: str
    options: str

    def __init__(self, toxiproxy: ToxiproxyContainer) -> None:
        self.broker.start()
        self.routes = {name: toxiproxy.proxy(self.broker.address) for name in ROUTES}
        self.places = [Partition(self._queue(f"chaos{number}"), 0) for number in range(QUEUES)]
        self.dead = self._dead_queue()

    @abstractmethod
    def _queue(self, name: str) -> str: ...

    def _dead_queue(self) -> str:
        return self.broker.queue("dead")

    def environ(self, route: str) -> dict[str, str]:
        def url(name: str) -> str:
            return self.broker.url.replace(self.broker.address, self.routes[name].address)

        return {
            "CHAOS_STREAMS": ",".join(f"{self.scheme}:{place.stream}" for place in self.places),
            f"WORKER_CONNECTIONS__{self.scheme.upper()}": f"{url(route)}?heartbeat=2{self.options}",
            "WORKER_CONNECTIONS__DEAD": f"{url('dead')}?heartbeat=2",
            "WORKER_HANDLERS__HANDLE__ORDERED": "true",
        }

    def log(self, load: Load) -> dict[Partition, list[str]]:
        """What was sent and not confirmed may be there or not."""
        found: dict[Partition, list[str]] = {place: [] for place in self.places}
        for one in load.sent:
            found[one.place].append(one.name)
        return found


class RabbitMQStage(QueueStage):
    scheme, options = "rabbitmq", ""

    def __init__(self, toxiproxy: ToxiproxyContainer) -> None:
        self.broker: RabbitMQContainer = RabbitMQContainer()
        self._alarmed = False
        super().__init__(toxiproxy)

    def _queue(self, name: str) -> str:
        return self.broker.queue(name, x_single_active_consumer=True)

    def load(self, seed: int, rate: float) -> Load:
        return RabbitMQLoad(self.broker, self.places, seed, rate)

    def letters(self) -> list[Letter]:
        return [_told(record) for record in self.broker.read(self.dead)]

    def unsettled(self) -> set[str] | None:
        with self.broker.channel() as channel:
            asked = [channel.queue_declare(place.stream, passive=True).method for place in self.places]
        if any(one.consumer_count for one in asked):
            return None
        return {name for one in asked for name in self._peek(one.queue, one.message_count)}

    def _peek(self, queue: str, count: int) -> list[str]:
        """The names of the first `count` that wait. None is taken: a quorum queue puts what comes back behind what came back
        before and still waits, so a look with a larger prefetch than the workers' would cost them their order."""
        told = 'element(2, lists:keyfind(<<"payload (max 64 bytes)">>, 1, Told))'
        look = f'begin {{ok, Told}} = rabbit_quorum_queue:peek(<<"/">>, <<"{queue}">>, At), io:format("~s~n", [{told}]) end'
        written = self.broker.ctl("eval", f"[{look} || At <- lists:seq(1, {count})], ok.")
        return [line.split()[0] for line in written.splitlines() if " " in line]

    def empty(self) -> bool:
        return not any(self.broker.depth(place.stream) for place in self.places)

    def settled(self) -> bool:
        return self.unsettled() == set()

    def stop_broker(self) -> None:
        with suppress(RuntimeError):  # it ends with the container; which may wait until it is killed if it is told to stop
            self.broker.ctl("shutdown")
        self.broker.get_wrapped_container().wait(timeout=30)

    def alarm(self, on: bool) -> bool:
        if on != self._alarmed:
            self.broker.ctl("set_vm_memory_high_watermark", "0.0001" if on else "0.6")
            self._alarmed = on
        return True


class ActiveMQStage(QueueStage):
    scheme, options = "activemq", "&activemq.exclusive=true"

    def __init__(self, toxiproxy: ToxiproxyContainer) -> None:
        self.broker: ActiveMQContainer = ActiveMQContainer()
        super().__init__(toxiproxy)

    def _queue(self, name: str) -> str:
        return self.broker.queue(name)

    def load(self, seed: int, rate: float) -> Load:
        return ActiveMQLoad(self.broker, self.places, seed, rate)

    def letters(self) -> list[Letter]:
        """Takes them out: the broker shows no more than 400 of a queue."""
        found: list[Letter] = []
        with self.broker.session() as client, suppress(TimeoutError):
            client.send("SUBSCRIBE", {"destination": destination(self.dead), "id": "all", "ack": "auto"})
            while True:
                _, told, body = client.frame(timeout=3)
                found.append(Letter(body.decode().split()[0], int(told["dead_letter_time"]) / 1000))
        return found

    def empty(self) -> bool:
        return all(self.broker.read(place.stream) == [] for place in self.places)

    def settled(self) -> bool:
        return self.empty()


def stage(name: str, toxiproxy: ToxiproxyContainer) -> Stage:
    kinds: dict[str, type[KafkaStage | QueueStage]] = {
        "kafka": KafkaStage,
        "rabbitmq": RabbitMQStage,
        "activemq": ActiveMQStage,
    }
    return kinds[name](toxiproxy)


def _name(record: Record[bytes]) -> str:
    return (record.value or b"").decode().split()[0]


def _told(record: Record[bytes]) -> Letter:
    stamps = dict(record.headers)
    return Letter(_name(record), int(stamps["dead_letter_time"] or b"0") / 1000)
