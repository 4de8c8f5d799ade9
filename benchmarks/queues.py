"""Queues: the worker beside what a user would write with the client alone, on the same broker: `python -m benchmarks.queues`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import click

from benchmarks.meter import Meter
from benchmarks.process import ROOT
from worker import App, Batch
from worker.interface import Connection, DeadLetter, Partition, Record, SinkOptions
from worker.settings import load

SIZE = 200
KINDS = {"quorum": "rabbitmq", "classic": "rabbitmq", "persistent": "activemq", "non-persistent": "activemq"}
BATCH = {"rabbitmq": 500, "activemq": 100}
PEERS = {"rabbitmq": ["select", "c", "aio_pika", "faststream"], "activemq": ["socket", "stomp_py"]}
"""Those that are not installed are left out."""
SLOW = {"aio_pika": 10, "faststream": 20}
"""Read so many times fewer messages."""


# What is measured, each in a process of its own


def ours(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    from worker.run import Worker

    app = App("bench", connections={"q": url})
    meter = Meter(messages, lambda: worker.stop())

    def count(batch: Batch) -> None:
        meter.add(len(batch))

    app.handler(f"q:{queue}", batch_size=batch)(count)
    worker = Worker(app, load(app, environ={}))
    if code := worker.run():
        raise SystemExit(code)
    return meter.result()


def select(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """pika's own SelectConnection, its fastest: prefetch of two batches, an ack of `multiple` each."""
    import pika

    meter = Meter(messages)
    seen = 0

    def got(channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen % batch == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
            meter.add(batch)
            if meter.done:
                channel.connection.ioloop.stop()

    def opened(channel: Any) -> None:
        channel.basic_qos(prefetch_count=4 * batch)
        channel.basic_consume(queue, got)

    parameters = pika.URLParameters(url.replace("rabbitmq://", "amqp://"))
    connection = pika.SelectConnection(parameters, on_open_callback=lambda made: made.channel(on_open_callback=opened))
    connection.ioloop.start()
    return meter.result()


def c(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """librabbitmq, where there is a compiler and its header."""
    import tempfile
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/consume"
        built = subprocess.run(
            ["cc", "-O2", "-o", program, str(ROOT / "benchmarks/consume.c"), "-lrabbitmq"], capture_output=True
        )
        if built.returncode:
            raise ImportError("librabbitmq")
        told = [parts.hostname, parts.port, parts.username, parts.password, queue, messages, batch]
        done = subprocess.run([program, *map(str, told)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def aio_pika(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """Its iterator, an ack of `multiple` for each batch."""
    import asyncio

    import aio_pika

    meter = Meter(messages)

    async def read() -> None:
        connection = await aio_pika.connect(url.replace("rabbitmq://", "amqp://"))
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=4 * batch)
        source = await channel.declare_queue(queue, passive=True)
        seen = 0
        async with source.iterator() as iterator:
            async for message in iterator:
                seen += 1
                if seen % batch == 0:
                    await message.ack(multiple=True)
                    meter.add(batch)
                    if meter.done:
                        break
        await connection.close()

    asyncio.run(read())
    return meter.result()


def faststream(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """A subscriber; it knows no batches of RabbitMQ."""
    import asyncio
    import logging

    from faststream import FastStream
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    meter = Meter(messages)
    broker = RabbitBroker(url.replace("rabbitmq://", "amqp://"), logger=None, default_channel=Channel(prefetch_count=4 * batch))
    app = FastStream(broker, logger=None)
    logging.disable(logging.CRITICAL)

    @broker.subscriber(RabbitQueue(queue, declare=False))
    async def count(body: bytes) -> None:
        meter.add(1)
        if meter.done:
            app.exit()

    asyncio.run(app.run())
    return meter.result()


def socket(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """A STOMP socket read in large pieces and split at the NULs, with acks one by one, a batch of them in one write: as ours."""
    import re
    import socket as sockets
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    client = sockets.create_connection((parts.hostname, parts.port))
    client.sendall(f"CONNECT\naccept-version:1.2\nhost:h\nlogin:{parts.username}\npasscode:{parts.password}\n\n\0".encode())
    subscribe = f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\nack:client-individual\nactivemq.prefetchSize:{4 * batch}\n\n\0"
    client.recv(1 << 16)
    client.sendall(subscribe.encode())
    meter, rest, acks, find = Meter(messages), b"", [], re.compile(rb"\nack:([^\n]*)").search
    while not meter.done:
        *frames, rest = (rest + client.recv(1 << 18)).split(b"\0")
        for frame in frames:
            if (found := find(frame)) is not None:
                acks.append(b"ACK\nid:" + found[1] + b"\n\n\0")
            if len(acks) == batch:
                client.sendall(b"".join(acks))
                meter.add(batch)
                acks = []
    client.close()
    return meter.result()


def stomp_py(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """stomp.py, with an ack for each message."""
    import threading
    from urllib.parse import urlsplit

    import stomp

    parts = urlsplit(url)
    connection = stomp.Connection12([(parts.hostname, parts.port)], auto_decode=False)
    meter, done = Meter(messages), threading.Event()

    class Listener(stomp.ConnectionListener):
        def on_message(self, frame: Any) -> None:
            connection.ack(frame.headers["ack"])
            meter.add(1)
            if meter.done:
                done.set()

    connection.set_listener("", Listener())
    connection.connect(parts.username, parts.password, wait=True)
    connection.subscribe(f"/queue/{queue}", 1, "client-individual", {"activemq.prefetchSize": str(4 * batch)})
    done.wait()
    connection.disconnect()
    return meter.result()


def letters(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """Dead letters of ours, confirmed by the batch."""
    from connectors.rabbitmq_sink import RabbitMQSink

    sink = RabbitMQSink(SinkOptions(_connection(url), queue))
    sink.open()
    many = [DeadLetter(Record(b"x" * SIZE, None, (), None, 0, Partition("q", 0)), ValueError(), 1, [])] * batch
    meter = Meter(messages)
    while not meter.done:
        sink.publish(many)
        meter.add(batch)
    sink.close()
    return meter.result()


def sleeping(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """Ours behind a handler that sleeps, for 20 s: memory over what it was before it was opened."""
    import threading

    from benchmarks.meter import memory
    from worker.run import Worker

    app = App("bench", connections={"q": url})

    def sleep(batch: Batch) -> None:
        time.sleep(1.0)

    app.handler(f"q:{queue}", batch_size=batch)(sleep)
    worker = Worker(app, load(app, environ={}))
    idle = memory()
    threading.Timer(20.0, lambda: worker.stop(now=True)).start()
    worker.run()
    return {"peak_over_idle_mib": memory("VmHWM") - idle}


def one_by_one(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """BlockingConnection, which waits for each confirm."""
    import pika

    channel = pika.BlockingConnection(pika.URLParameters(url.replace("rabbitmq://", "amqp://"))).channel()
    channel.confirm_delivery()
    meter = Meter(messages // 20)
    while not meter.done:
        for _ in range(50):
            channel.basic_publish("", queue, b"x" * SIZE, pika.BasicProperties(delivery_mode=2), mandatory=True)
        meter.add(50)
    channel.connection.close()
    return meter.result()


RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    run.__name__: run for run in (ours, select, c, aio_pika, faststream, socket, stomp_py, letters, one_by_one, sleeping)
}


# Around it


def _connection(url: str) -> Connection:
    return load(_with_handler(App("bench", connections={"q": url})), environ={}).connections["q"]


def _with_handler(app: App) -> App:
    app.handler("q:any")(lambda batch: None)
    return app


def measure(run: str, **told: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.queues", "--run", json.dumps({"run": run, **told})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode and ("ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr):
        return {}
    if done.returncode:
        raise click.ClickException(f"{run} ended with {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def brokers(rabbitmq: str | None, activemq: str | None) -> Iterator[dict[str, str]]:
    """Those at the URLs, else containers."""
    from contextlib import ExitStack

    from worker.testing import ActiveMQContainer, RabbitMQContainer

    with ExitStack() as stack:
        yield {
            "rabbitmq": rabbitmq or stack.enter_context(RabbitMQContainer()).url,
            "activemq": activemq or stack.enter_context(ActiveMQContainer()).url,
        }


def fill(kind: str, url: str, queue: str, messages: int) -> None:
    """A fresh queue with a few more messages than are read, so that the last batch need not wait for its window."""
    many = messages + 1_000
    if KINDS[kind] == "rabbitmq":
        measure("letters", url=f"{url}?declare={kind}", queue=queue, messages=many, batch=1_000)
        return
    from connectors.activemq_config import Login
    from connectors.activemq_frames import encode
    from connectors.activemq_link import Link

    link = Link(Login.of(_connection(url)), beats=False)
    told = {"destination": f"/queue/{queue}", "persistent": str(kind == "persistent").lower(), "content-length": str(SIZE)}
    for _ in range(many // 1_000):
        link.write(encode("SEND", told, b"x" * SIZE) * 999)
        link.ask("SEND", told, b"x" * SIZE, timeout=60)
    link.close()


@click.command()
@click.option("--pairs", default=5, show_default=True, help="Runs of each, one after the other.")
@click.option("--messages", default=100_000, show_default=True, help="Messages a run reads.")
@click.option("--rabbitmq", help="A RabbitMQ to use: rabbitmq://user:password@host:5672")
@click.option("--activemq", help="An ActiveMQ to use: activemq://user:password@host:61613")
@click.option("--run", hidden=True)
def main(pairs: int, messages: int, rabbitmq: str | None, activemq: str | None, run: str | None) -> None:
    """Measures consuming from RabbitMQ and ActiveMQ, and dead letters, beside the clients alone.

    Example: python -m benchmarks.queues --pairs 3 --messages 50000
    """
    if run is not None:
        told = json.loads(run)
        print(json.dumps(RUNS[told.pop("run")](**told)))
        return
    with brokers(rabbitmq, activemq) as urls:
        for kind, broker in KINDS.items():
            one_kind(kind, broker, urls[broker], pairs, messages)
        _show("dead letters, quorum", letters_beside_one_by_one(urls["rabbitmq"], pairs, messages))


def one_kind(kind: str, broker: str, url: str, pairs: int, messages: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(pairs):
        for name in ["ours", *PEERS[broker]]:
            queue = f"bench.{kind}.{name}.{number}.{time.time_ns()}"
            many = messages // SLOW.get(name, 1)
            fill(kind, url, queue, many)
            if result := measure(name, url=url, queue=queue, messages=many, batch=BATCH[broker]):
                found.setdefault(name, []).append(result)
    _show(f"{broker}, {kind}", found)
    if kind == "non-persistent":  # which the broker keeps in its own memory
        return
    queue = f"bench.{kind}.sleeping.{time.time_ns()}"
    fill(kind, url, queue, 10 * messages)
    over = measure("sleeping", url=url, queue=queue, messages=0, batch=BATCH[broker])["peak_over_idle_mib"]
    click.echo(f"{broker}, {kind}: {10 * messages:,} waiting behind a handler that sleeps: {over:.0f} MiB over idle")


def letters_beside_one_by_one(url: str, pairs: int, messages: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(pairs):
        for name in ("letters", "one_by_one"):
            told = {"queue": f"bench.letters.{number}.{time.time_ns()}", "messages": messages, "batch": 500}
            if name == "one_by_one":
                measure("letters", url=f"{url}?declare=quorum", **(told | {"messages": 1_000}))
                found.setdefault(name, []).append(measure(name, url=url, **told))
            else:
                found.setdefault(name, []).append(measure(name, url=f"{url}?declare=quorum", **told))
    return found


def _show(what: str, found: dict[str, list[dict[str, Any]]]) -> None:
    first, *others = found
    for name in (first, *others):
        rate = median(one["records_per_second"] for one in found[name])
        cpu = median(one["cpu_us_per_record"] for one in found[name])
        line = f"{what:26} {name:11} {rate:10,.0f}/s {cpu:7.2f} us CPU"
        if name != first:
            pairs = list(zip(found[first], found[name], strict=True))
            times = median(a["records_per_second"] / b["records_per_second"] for a, b in pairs)
            cost = median(a["cpu_us_per_record"] / b["cpu_us_per_record"] for a, b in pairs)
            line += f"   {first}: {times:.2f} x the rate, {cost:.2f} of the CPU"
        click.echo(line)


if __name__ == "__main__":
    main()
