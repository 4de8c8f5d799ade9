"""Who consumes from RabbitMQ and ActiveMQ, each in a process and an environment of its own: a counting handler, 200 B a message,
prefetch of four batches, acknowledged by the batch where the client can."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.meter import Meter
from benchmarks.process import ROOT

SIZE = 200


def ours(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """This worker, as `worker run` makes it."""
    from worker import App
    from worker.run import Worker
    from worker.settings import load

    app = App("bench", connections={"q": url})
    meter = Meter(messages, lambda: worker.stop())

    def count(batch):  # type: ignore[no-untyped-def]  # a batch
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
    import subprocess
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
    from worker.connectors.rabbitmq_sink import RabbitMQSink
    from worker.interface import DeadLetter, Partition, Record, SinkOptions

    sink = RabbitMQSink(SinkOptions(connection(url), queue))
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
    from worker import App
    from worker.run import Worker
    from worker.settings import load

    app = App("bench", connections={"q": url})

    def sleep(batch):  # type: ignore[no-untyped-def]
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


def dramatiq(url: str, queue: str, messages: int, batch: int) -> dict[str, Any]:
    """An actor on its eight threads; it knows no batches, and makes a queue of its own, classic with priorities, filled here."""
    import threading

    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=url.replace("rabbitmq://", "amqp://"), confirm_delivery=False, middleware=[])
    dramatiq.set_broker(broker)
    meter, done, lock = Meter(messages), threading.Event(), threading.Lock()

    @dramatiq.actor(queue_name=f"{queue}.dramatiq", broker=broker)
    def count(value: str) -> None:
        with lock:
            meter.add(1)
            if meter.done:
                done.set()

    for _ in range(messages + 100):
        count.send("x" * SIZE)
    worker = dramatiq.Worker(broker, worker_timeout=100)
    worker.start()
    done.wait()
    worker.stop()
    return meter.result()


RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    run.__name__: run
    for run in (ours, select, c, aio_pika, faststream, dramatiq, socket, stomp_py, letters, one_by_one, sleeping)
}


def connection(url: str) -> Any:
    from worker import App
    from worker.settings import load

    app = App("bench", connections={"q": url})
    app.handler("q:any")(lambda batch: None)
    return load(app, environ={}).connections["q"]


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    print(json.dumps(RUNS[told.pop("run")](**told)), flush=True)
