"""Small servers that speak AMQP 0-9-1 and STOMP as far as the connectors do, and note everything that they are told."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pika import frame as frames
from pika import spec

from worker.connectors.activemq_frames import encode, headers

CAN = {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}


class Server(ABC):
    """One thread for each client; `close` ends all connections."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.clients: list[socket.socket] = []
        self.ended = 0
        """Connections that are gone."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self.talk(client)
        self.ended += 1

    @abstractmethod
    def talk(self, client: socket.socket) -> None:
        """Until the client has gone."""

    def close(self) -> None:
        for one in (self._listening, *self.clients):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Amqp(Server):
    """RabbitMQ with one queue. `told` holds the methods of clients, in order."""

    def __init__(self, messages: Sequence[bytes] = ()) -> None:
        self.told: list[Any] = []
        self.login: tuple[str, bytes] | None = None
        self.published: list[tuple[spec.Basic.Publish, spec.BasicProperties, bytes]] = []
        self.answer = "ack"
        """To a publish: ack, nack, return or silence."""
        self.missing = self.stream = False
        """Of the queue."""
        self._messages = [(body, spec.BasicProperties(), False) for body in messages]
        super().__init__()

    def put(self, body: bytes, properties: spec.BasicProperties, *, redelivered: bool = False) -> None:
        """Before it is consumed."""
        self._messages.append((body, properties, redelivered))

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.told if isinstance(one, kind)]

    @property
    def settled(self) -> list[tuple[str, int, bool]]:
        """What it was told of deliveries: how, the tag, and whether all up to it or, of a rejection, whether to requeue."""
        kinds = {spec.Basic.Ack: "multiple", spec.Basic.Reject: "requeue", spec.Basic.Nack: "requeue"}
        return [
            (type(one).__name__.lower(), one.delivery_tag, bool(getattr(one, kinds[type(one)])))
            for one in self.told
            if type(one) in kinds
        ]

    def talk(self, client: socket.socket) -> None:
        buffer, sent, publishing = b"", 0, {}
        while data := client.recv(1 << 16):
            buffer += data
            while True:
                size, frame = frames.decode_frame(buffer)
                if frame is None:
                    break
                buffer = buffer[size:]
                if isinstance(frame, frames.ProtocolHeader):
                    start = spec.Connection.Start(0, 9, {"capabilities": CAN}, b"PLAIN EXTERNAL", b"en_US")
                    client.sendall(frames.Method(0, start).marshal())
                elif isinstance(frame, frames.Header):
                    publishing[frame.channel_number] += [frame.properties, frame.body_size, b""]
                elif isinstance(frame, frames.Body):
                    publishing[frame.channel_number][3] += frame.fragment
                elif isinstance(frame, frames.Method):
                    self.told.append(frame.method)
                    if isinstance(frame.method, spec.Basic.Publish):
                        publishing[frame.channel_number] = [frame.method]
                    for answer in self._answers(frame.method):
                        client.sendall(self._marshalled(frame.channel_number, answer))
                done = publishing.get(frame.channel_number, []) if not isinstance(frame, frames.ProtocolHeader) else []
                if len(done) == 4 and len(done[3]) == done[2]:
                    method, properties, _, body = publishing.pop(frame.channel_number)
                    self.published.append((method, properties, body))
                    sent += 1
                    for answer in self._confirms(sent):
                        client.sendall(self._marshalled(frame.channel_number, answer))

    def _marshalled(self, channel: int, answer: Any) -> bytes:
        if not isinstance(answer, tuple):
            return bytes(frames.Method(channel, answer).marshal())
        method, properties, body = answer
        parts = [frames.Method(channel, method), frames.Header(channel, len(body), properties), frames.Body(channel, body)]
        return b"".join(part.marshal() for part in parts)

    def _answers(self, told: Any) -> Iterator[Any]:
        if isinstance(told, spec.Connection.StartOk):
            self.login = (told.mechanism, told.response)
            yield spec.Connection.Tune(10, 131_072, 60)
        elif isinstance(told, spec.Connection.Open):
            yield spec.Connection.OpenOk()
        elif isinstance(told, spec.Connection.Close):
            yield spec.Connection.CloseOk()
        elif isinstance(told, spec.Channel.Open):
            yield spec.Channel.OpenOk()
        elif isinstance(told, spec.Channel.Close):
            yield spec.Channel.CloseOk()
        elif isinstance(told, spec.Queue.Declare):
            kind = (told.arguments or {}).get("x-queue-type")
            if kind == "stream" and not self.stream:
                yield spec.Channel.Close(406, "inequivalent arg 'x-queue-type'", 50, 10)
            elif self.missing and told.passive:
                yield spec.Channel.Close(404, "no queue", 50, 10)
            else:
                yield spec.Queue.DeclareOk(told.queue, 0, 0)
        elif isinstance(told, spec.Basic.Qos):
            yield spec.Basic.QosOk()
        elif isinstance(told, spec.Basic.Consume):
            yield spec.Basic.ConsumeOk(told.consumer_tag)
            for tag, (body, properties, redelivered) in enumerate(self._messages, 1):
                yield spec.Basic.Deliver(told.consumer_tag, tag, redelivered, "", told.queue), properties, body
        elif isinstance(told, spec.Basic.Cancel):
            yield spec.Basic.CancelOk(told.consumer_tag)
        elif isinstance(told, spec.Confirm.Select):
            yield spec.Confirm.SelectOk()

    def _confirms(self, tag: int) -> Iterator[Any]:
        if self.answer == "return":
            method, properties, body = self.published[-1]
            yield spec.Basic.Return(312, "NO_ROUTE", "", method.routing_key), properties, body
        if self.answer in ("ack", "return"):
            yield spec.Basic.Ack(tag)
        elif self.answer == "nack":
            yield spec.Basic.Nack(tag)


class Stomp(Server):
    """ActiveMQ with one queue. `told` holds the frames of clients, in order: command, headers, body."""

    def __init__(self, messages: Sequence[bytes] = (), *, beat: str = "0,0") -> None:
        self.told: list[tuple[str, dict[str, str], bytes]] = []
        self.quiet: set[str] = set()
        """Commands that it does not answer."""
        self.error: str | None = None
        """What it says to a SEND."""
        self.beat = beat
        self._messages = list(enumerate(messages))
        super().__init__()

    def of(self, command: str) -> list[dict[str, str]]:
        return [head for kind, head, _ in self.told if kind == command]

    def talk(self, client: socket.socket) -> None:
        buffer = b""
        while data := client.recv(1 << 16):
            buffer += data
            while (found := _taken(buffer.lstrip(b"\n"))) is not None:
                told, buffer = found
                self.told.append(told)
                for answer in self._answers(*told):
                    client.sendall(answer + b"\n")

    def _answers(self, command: str, head: dict[str, str], body: bytes) -> Iterator[bytes]:
        if command in self.quiet:
            return
        if command == "CONNECT":
            yield encode("CONNECTED", {"version": "1.2", "server": "ActiveMQ/6.1", "heart-beat": self.beat})
        if command == "SEND" and self.error is not None:
            yield encode("ERROR", {"message": self.error}, b"java.lang.SecurityException: no\n")
            return
        if "receipt" in head:
            yield encode("RECEIPT", {"receipt-id": head["receipt"]})
        if command == "SUBSCRIBE":
            for number, one in self._messages:
                told = {"subscription": head["id"], "message-id": f"m{number}", "ack": f"a{number}", "destination": "/queue/q"}
                yield encode("MESSAGE", {**told, "persistent": "true", "content-length": str(len(one))}, one)


def _taken(buffer: bytes) -> tuple[tuple[str, dict[str, str], bytes], bytes] | None:
    """The first frame of a client, and the rest."""
    lines, found, rest = buffer.partition(b"\n\n")
    if not found:
        return None
    head = headers(lines)
    size = int(head["content-length"]) if "content-length" in head else rest.find(b"\0")
    if size < 0 or len(rest) <= size:
        return None
    return (lines.partition(b"\n")[0].decode(), head, rest[:size]), rest[size + 1 :]
