"""Dead letters on real brokers: listed, shown, sent back and thrown away by the command, also by one that is killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pika import BasicProperties

from tests import commands
from tests.waiting import until
from worker import App
from worker.connectors import rabbitmq as rabbitmq_connector
from worker.deadletter import letter
from worker.errors import Refused
from worker.interface import Connection, Partition, Record, SinkOptions, SourceOptions
from worker.letters import Selection
from worker.plugins import connector
from worker.redrive import Pass
from worker.settings import load
from worker.testing import ActiveMQContainer, KafkaContainer, RabbitMQContainer
from worker.work import GivenUp

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("WORKER_TEST_KILLS", "1"))
"""`make chaos` kills more often."""

APP = """
import os
from pathlib import Path
from worker import App, Reject

app = App("shop", connections={"b": "kafka://nowhere"})
handled = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.handler("b:" + os.environ["STREAM"], window=0.05, flood=1, retries=1, backoff=0.01, dead_letter="b:" + os.environ["DEAD"])
def charge(values: list[bytes]):
    os.write(handled, b"".join(value + b"\\n" for value in values))
    if Path("broken").exists():
        return {i: KeyError(value.decode()) if value < b"5" else ValueError("no") for i, value in enumerate(values)}
"""


class Shop:
    """An app on one broker, its stream, and the stream of its dead letters."""

    def __init__(self, container: Any, folder: Path) -> None:
        self.container = container
        self.folder = folder
        self.kafka = isinstance(container, KafkaContainer)
        make = container.topic if self.kafka else container.queue
        self.stream, self.dead = make("orders"), make("orders-dead")
        (folder / "shop.py").write_text(APP)
        told = {"STREAM": self.stream, "DEAD": self.dead, "WORKER_CONNECTIONS__B": container.url}
        self.environ = told
        self.handled = folder / "handled"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "worker", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=os.environ | self.environ, stdout=pipe, stderr=pipe, text=True)

    def letters(self, command: str, *arguments: str, code: int = 0) -> str:
        done = commands.run(self.folder, "dead-letters", command, "shop:app", "charge", *arguments, environ=self.environ)
        assert done.exit_code == code, done.output
        return done.output

    def process(self, command: str, *arguments: str) -> tuple[int, str]:
        """The same, as a user starts it."""
        process = self.start("dead-letters", command, "shop:app", "charge", *arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def overview(self, *arguments: str) -> dict[str, int]:
        """Letters by error."""
        told = json.loads(self.letters("list", "--json", *arguments))
        found: Counter[str] = Counter()
        for group in told["groups"]:
            found[group["error"]] += group["letters"]
        return dict(found)

    def give_up(self, count: int, handler: str = "shop.charge", error: type[Exception] = ValueError) -> None:
        """Writes dead letters as a worker does, without one."""
        at = time.time()
        records = [
            Record(b"%d" % n, b"k%d" % (n % 7), (("h", b"%d" % n),), 1_700_000_000_000, n, Partition(self.stream, n % 4))
            for n in range(count)
        ]
        given = [letter(GivenUp(0, error("no"), 1), record, handler, at) for record in records]
        sink = connector(self.connection.scheme).sink(SinkOptions(self.connection, self.dead))
        sink.open()
        sink.publish(given)
        sink.close()

    @property
    def connection(self) -> Connection:
        scheme, _, rest = self.container.url.partition("://")
        user, _, hosts = rest.rpartition("@")
        name, _, password = user.partition(":")
        return Connection("b", scheme, hosts, username=name or None, password=password or None)

    def read(self, stream: str) -> Sequence[Record[bytes]]:
        return self.container.read(stream)  # type: ignore[no-any-return]

    def waiting(self) -> int:
        """How many records the stream has, of those that were handled none."""
        if self.kafka:
            return int(sum(self.container.ends(self.stream).values()))
        return self.container.depth(self.stream) if hasattr(self.container, "depth") else len(self.read(self.stream))

    def lines(self) -> Counter[str]:
        return Counter(self.handled.read_text().splitlines()) if self.handled.exists() else Counter()


@pytest.fixture(params=["kafka", "rabbitmq", "activemq"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    return Shop(request.getfixturevalue(request.param), tmp_path)


def handle(shop: Shop, lines: int) -> None:
    """Runs the worker until it handled so many more, and until it stops."""
    wanted = shop.lines().total() + lines
    process = shop.start("run", "shop:app")
    try:
        until(lambda: shop.lines().total() >= wanted)  # its letters are published by the drain, at the latest
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


def test_from_the_failure_to_the_mended_handler(shop: Shop) -> None:
    (shop.folder / "broken").touch()
    shop.container.produce(shop.stream, [b"%d" % n for n in range(10)], key=b"k", headers=[("who", b"me")])
    handle(shop, 20)  # each twice
    assert shop.overview() == {"KeyError": 5, "ValueError": 5}
    assert shop.overview() == {"KeyError": 5, "ValueError": 5}, "looking takes nothing"
    shown = json.loads(shop.letters("show", "--json", "--error", "KeyError"))
    assert (shown["value"], shown["key"], shown["headers"], shown["attempts"]) == ("0", "k", [["who", "me"]], 2)
    told = shop.letters("redrive", "--error", "KeyError", "--dry-run")
    assert "5 letters of shop.charge" in told and "ValueError" not in told
    assert "add --yes" in shop.letters("redrive", code=2)

    (shop.folder / "broken").unlink()
    moved = json.loads(shop.letters("redrive", "--error", "KeyError", "--yes", "--json"))
    assert moved["redriven"] == {shop.stream: 5}
    assert shop.overview() == {"ValueError": 5}, "what was not meant is there still"
    before = shop.lines()
    handle(shop, 5)
    assert shop.lines() - before == Counter("01234")
    back = shop.read(shop.stream) if shop.kafka else []
    for record in back[10:]:
        headers = dict(record.headers)
        assert record.key == b"k"
        assert headers == {"who": b"me", "dead_letter_redrives": b"1"}
        assert record.partition == back[0].partition

    assert "5 discarded" in shop.letters("discard", "--yes")
    assert shop.overview() == {}
    shop.letters("show", code=1)


def test_each_command_as_a_process(rabbitmq: RabbitMQContainer, tmp_path: Path) -> None:
    shop = Shop(rabbitmq, tmp_path)
    shop.give_up(3)
    assert shop.process("list") == (0, shop.letters("list"))
    assert "ValueError: no" in shop.process("show")[1]
    code, told = shop.process("redrive", "--yes", "--limit", "1")
    assert code == 0 and "1 redriven" in told
    code, told = shop.process("discard", "--yes")
    assert code == 0 and "2 discarded" in told
    assert shop.process("show")[0] == 1


def test_a_poison_record_does_not_circle(shop: Shop) -> None:
    (shop.folder / "broken").touch()
    shop.container.produce(shop.stream, [b"7"])
    for _ in range(2):
        handle(shop, 2)
        assert "1 redriven" in shop.letters("redrive", "--again", "2", "--yes")
    handle(shop, 2)
    assert "1 left: redriven too often" in shop.letters("redrive", "--again", "2", "--yes")
    assert shop.overview() == {"ValueError": 1}


def test_letters_of_others_stay(shop: Shop) -> None:
    shop.give_up(5)
    shop.give_up(3, handler="other.handler")
    shop.container.produce(shop.dead, [b"foreign"])
    assert "3 of other.handler" in shop.letters("list")
    assert "5 redriven" in shop.letters("redrive", "--yes")
    assert Counter(dict(record.headers).get("dead_letter_handler") for record in shop.read(shop.dead)) == (
        {b"other.handler": 3, None: 1} | ({b"shop.charge": 5} if shop.kafka else {})
    )
    assert "0 letters of shop.charge" in shop.letters("list")


def test_a_letter_cannot_send_records_elsewhere(shop: Shop) -> None:
    mine = shop.stream
    shop.stream = "somewhere-else"
    shop.give_up(2)
    shop.stream = mine
    assert "2 left: the handler does not read somewhere-else" in shop.letters("redrive", "--yes")
    assert shop.overview() == {"ValueError": 2}


def test_a_limit(shop: Shop) -> None:
    shop.give_up(40)
    assert "20 redriven" in shop.letters("redrive", "--yes", "--limit", "20")
    assert shop.overview() == {"ValueError": 20}
    assert len(shop.read(shop.stream)) == 20


def test_many_letters_are_listed(shop: Shop) -> None:
    shop.give_up(20_000)
    assert shop.overview() == {"ValueError": 20_000}


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.connectors.rabbitmq_browse._QUIET", 0.15)


@pytest.mark.usefixtures("quick_looks")
def test_looking_often_loses_nothing(rabbitmq: RabbitMQContainer) -> None:
    """A quorum queue drops a message that came back 20 times, which each look counts as."""
    queue = rabbitmq.queue("worn", x_delivery_limit=20)
    rabbitmq.produce(queue, [b"%d" % n for n in range(5)], headers=[("who", b"me"), ("dead_letter_handler", b"shop.charge")])
    connection = Connection("r", "rabbitmq", rabbitmq.address, username=rabbitmq.USER, password=rabbitmq.PASSWORD)
    for _ in range(30):
        found = [record for batch in rabbitmq_connector.browse(SourceOptions(connection, (queue,), "look")) for record in batch]
        assert sorted(record.value or b"" for record in found) == [b"0", b"1", b"2", b"3", b"4"]
        assert {dict(record.headers)["who"] for record in found} == {b"me"}
        until(lambda: rabbitmq.depth(queue) == 5)


@pytest.mark.usefixtures("quick_looks")
def test_looking_never_wears_out_what_others_wrote(rabbitmq: RabbitMQContainer) -> None:
    """The command refuses while the broker still keeps them."""
    queue = rabbitmq.queue("worn", x_delivery_limit=20)
    rabbitmq.produce(queue, [b"foreign"])
    connection = Connection("r", "rabbitmq", rabbitmq.address, username=rabbitmq.USER, password=rabbitmq.PASSWORD)
    looks = 0
    with pytest.raises(Refused, match="set delivery-limit -1"):
        while looks < 20:
            assert len(list(rabbitmq_connector.browse(SourceOptions(connection, (queue,), "look")))) == 1
            looks += 1
            until(lambda: rabbitmq.depth(queue) == 1)
    assert looks == 15
    until(lambda: rabbitmq.depth(queue) == 1)


def test_many_small_passes_lose_nothing(rabbitmq: RabbitMQContainer, tmp_path: Path) -> None:
    """What a pass fetched beyond its limit comes back, which a quorum queue bears 20 times."""
    shop = Shop(rabbitmq, tmp_path)
    shop.dead = rabbitmq.queue("worn", x_delivery_limit=20)
    shop.give_up(60)
    app = App("shop", connections={"b": rabbitmq.url})

    @app.handler(f"b:{shop.stream}", dead_letter=f"b:{shop.dead}")
    def charge(values: list[bytes]) -> None: ...

    settings = load(app, environ={}).handlers["charge"]
    for _ in range(28):
        assert Pass(settings, Selection("shop.charge"), "redrive", limit=2).run().count == 2
    assert len({record.value for record in shop.read(shop.stream)}) == 56
    until(lambda: rabbitmq.depth(shop.dead) == 4)


def messages(rabbitmq: RabbitMQContainer, queue: str) -> list[tuple[Any, Any, bytes]]:
    """Where each came from, and all that came with it; the broker's counts and times of its own left out."""
    found = []
    with rabbitmq.channel() as channel:
        for _ in range(rabbitmq.depth(queue)):
            method, properties, body = channel.basic_get(queue)
            told = {name: value for name, value in vars(properties).items() if value is not None}
            told["headers"] = {name: value for name, value in told.get("headers", {}).items() if name != "x-delivery-count"}
            found.append(((method.exchange, method.routing_key), told, body))
    return found


def test_messages_that_no_worker_wrote_stay_as_they_are_on_rabbitmq(rabbitmq: RabbitMQContainer, tmp_path: Path) -> None:
    """x-death, the exchange, the routing key, the user: what a client may not write is lost when one writes it again."""
    shop = Shop(rabbitmq, tmp_path)
    broken = rabbitmq.queue("other", x_dead_letter_exchange=shop.dead)  # which has an exchange of its name
    with rabbitmq.channel() as channel:
        told = BasicProperties(headers={"tenant": "a"}, user_id=rabbitmq.USER, priority=7)
        channel.basic_publish(broken, "invoice.eu", b"foreign", told)
        until(lambda: rabbitmq.depth(broken) == 1)
        method, _, _ = channel.basic_get(broken)
        channel.basic_nack(method.delivery_tag, requeue=False)
        until(lambda: rabbitmq.depth(shop.dead) == 1)
    shop.give_up(3)
    assert "2 redriven" in shop.letters("redrive", "--yes", "--limit", "2")
    assert "1 discarded" in shop.letters("discard", "--yes")
    shop.letters("list")
    until(lambda: rabbitmq.depth(shop.dead) == 1)
    [(route, properties, body)] = messages(rabbitmq, shop.dead)
    assert (route, body) == ((shop.dead, "invoice.eu"), b"foreign")
    assert (properties["user_id"], properties["priority"], properties["headers"]["tenant"]) == (rabbitmq.USER, 7, "a")
    assert properties["headers"]["x-death"][0]["queue"] == broken
    assert not [name for name in properties["headers"] if name.startswith("dead_letter")]


def test_priorities_end_no_redrive(rabbitmq: RabbitMQContainer, tmp_path: Path) -> None:
    shop = Shop(rabbitmq, tmp_path)
    shop.give_up(6, error=TimeoutError)
    with rabbitmq.channel() as channel:
        for _ in range(3):
            headers = {"dead_letter_handler": "shop.charge", "dead_letter_error": "ValueError"}
            channel.basic_publish("", shop.dead, b"bad", BasicProperties(headers=headers, priority=9))
    until(lambda: rabbitmq.depth(shop.dead) == 9)
    assert "6 redriven" in shop.letters("redrive", "--yes", "--error", "TimeoutError", "--rate", "10")


@pytest.mark.parametrize("durable", [True, False])
def test_a_queue_of_letters_that_goes_with_its_last_consumer_is_refused(
    rabbitmq: RabbitMQContainer, tmp_path: Path, durable: bool
) -> None:
    """Looking at it deleted it."""
    shop = Shop(rabbitmq, tmp_path)
    shop.dead = f"{shop.dead}.temporary"
    shop.environ["DEAD"] = shop.dead
    with rabbitmq.channel() as channel:
        channel.queue_declare(shop.dead, durable=durable, auto_delete=True)
        channel.basic_publish("", shop.dead, b"1")
    for arguments in (["dead-letters", "list"], ["dead-letters", "redrive", "--yes"], ["run"]):
        process = shop.start(*arguments, "shop:app")
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "auto_delete" in err) == (3, True), err
    assert rabbitmq.depth(shop.dead) == 1


def test_what_was_taken_by_a_queue_that_is_full_is_not_sent_again(rabbitmq: RabbitMQContainer, tmp_path: Path) -> None:
    shop = Shop(rabbitmq, tmp_path)
    shop.stream = rabbitmq.queue("small", kind="classic", x_max_length=2, x_overflow="reject-publish")
    shop.environ["STREAM"] = shop.stream
    shop.give_up(5)
    assert "2 are done, the others stay" in shop.letters("redrive", "--yes", code=4)
    assert shop.overview() == {"ValueError": 3}
    assert {record.value for record in shop.read(shop.stream)} == {b"0", b"1"}


def test_messages_that_no_worker_wrote_stay_as_they_are_on_activemq(activemq: ActiveMQContainer, tmp_path: Path) -> None:
    """They are not even fetched; and a selector of the connection hides no letter."""
    shop = Shop(activemq, tmp_path)
    shop.environ["WORKER_CONNECTIONS__B"] = activemq.url + "?selector=region='EU'"
    activemq.produce(shop.dead, [b"foreign%d" % n for n in range(300)], headers=[("tenant", b"a")])
    before = {record.id for record in activemq.read(shop.dead)}
    shop.give_up(300)
    assert shop.overview() == {"ValueError": 300}
    assert "1 redriven" in shop.letters("redrive", "--yes", "--id", "7")
    assert "74 redriven" in shop.letters("redrive", "--yes", "--partition", "3")
    assert "225 discarded" in shop.letters("discard", "--yes")
    after = activemq.read(shop.dead)
    assert {record.id for record in after} == before
    assert all(not record.properties.get("redelivered") for record in after)


def test_a_redrive_of_a_wildcard_goes_to_the_queue_that_it_was(activemq: ActiveMQContainer, tmp_path: Path) -> None:
    shop = Shop(activemq, tmp_path)
    eu, us, base = f"{shop.stream}.eu", f"{shop.stream}.us", shop.stream
    shop.environ["STREAM"] = f"{base}.>"
    (shop.folder / "broken").touch()
    activemq.produce(eu, [b"from-eu"])
    activemq.produce(us, [b"from-us"])
    handle(shop, 4)
    assert "1 redriven to " + eu in (told := shop.letters("redrive", "--yes")) and "1 redriven to " + us in told
    assert [[record.value for record in shop.read(one)] for one in (eu, us)] == [[b"from-eu"], [b"from-us"]]


def test_killed_at_random(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost, and each kill repeats no more than what was published and not yet committed."""
    # ActiveMQ looks for each letter by its id, and is asked for some hundred a second.
    least = 5_000 if isinstance(shop.container, ActiveMQContainer) else 20_000
    count, chance, kills = max(least, 5_000 * KILLS), random.Random(4), 0
    shop.give_up(count)
    while kills < KILLS:
        process = shop.start("dead-letters", "redrive", "shop:app", "charge", "--yes", "--rate", "4000")
        enough = shop.waiting() + chance.randrange(500, 2_500)
        until(lambda process=process, enough=enough: shop.waiting() > enough or process.poll() is not None)
        if process.poll() is not None:
            break
        process.kill()
        kills += 1
        process.communicate()
    shop.letters("redrive", "--yes")
    found = Counter(record.value for record in shop.read(shop.stream))
    lost = count - len(found)
    with capsys.disabled():
        print(f"\n{type(shop.container).__name__}: redrive killed {kills} times, {lost} lost, {found.total() - count} repeated")
    assert lost == 0
    assert kills >= min(KILLS, 3)
    assert found.total() - count <= 1_000 * kills
