"""What a test does to an ActiveMQ in a container: name a queue, write to it, read it back."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from worker.interface import KEY_HEADER, Partition, Record
from worker.testing.containers import BrokerContainer

ACTIVEMQ_IMAGE = "WORKER_TEST_ACTIVEMQ_IMAGE"

_READY = 180.0
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"}
_OF_THE_BROKER = {
    *("ack", "content-length", "destination", "expires", "message-id", "persistent", "priority", "redelivered"),
    *("subscription", "timestamp"),
}

Frame = tuple[str, dict[str, str], bytes]


class ActiveMQContainer(BrokerContainer):
    """ActiveMQ Classic with one broker.

    >>> with ActiveMQContainer() as activemq:
    ...     queue = activemq.queue("orders")
    ...     activemq.produce(queue, [b"1", b"2"])
    """

    USER, PASSWORD = "test", "secret"

    def __init__(self, image: str | None = None, **environment: str) -> None:
        super().__init__(image or os.environ.get(ACTIVEMQ_IMAGE) or "apache/activemq-classic:6.1.7")
        ports = self.publish(61613, 61616)
        self._port, self.openwire_port = ports[61613], ports[61616]
        self.with_envs(ACTIVEMQ_CONNECTION_USER=self.USER, ACTIVEMQ_CONNECTION_PASSWORD=self.PASSWORD)
        self.with_envs(**environment)

    @property
    def address(self) -> str:
        """`host:port` for STOMP."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """For `App(connections={"activemq": activemq.url})`."""
        return f"activemq://{self.USER}:{self.PASSWORD}@{self.address}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY
        while True:
            try:
                with self.session():
                    return
            except (OSError, EOFError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no ActiveMQ at {self.address} after {_READY:.0f} s") from None
                time.sleep(0.1)

    @contextmanager
    def session(self) -> Iterator[Stomp]:
        """A plain client."""
        client = Stomp(self._port, self.USER, self.PASSWORD)
        try:
            yield client
        finally:
            client.close()

    def queue(self, name: str = "queue") -> str:
        """`name` with something unique behind it: the broker makes a queue when it is first used."""
        return f"{name}.{uuid.uuid4().hex[:8]}"

    def produce(
        self,
        queue: str,
        values: Iterable[bytes],
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        persistent: bool = True,
        **more: str,
    ) -> None:
        """Writes `values` in order; returns once the broker has them all. `more` are headers, as in `priority="7"`.

        The key is sent twice, as the broker does not give JMSXGroupID to those who read over STOMP.
        """
        told = {"destination": destination(queue), **{name: (value or b"").decode() for name, value in headers}, **more}
        told["persistent"] = "true" if persistent else "false"
        if key is not None:
            told["JMSXGroupID"] = told[KEY_HEADER] = key.decode()
        with self.session() as client:
            for value in values:
                client.send("SEND", told | {"content-length": str(len(value))}, value)
            client.sync()

    def read(self, queue: str) -> list[Record[bytes]]:
        """All that is in `queue` and not in a consumer's hands; it stays there."""
        found: list[Record[bytes]] = []
        with self.session() as client:
            client.send("SUBSCRIBE", {"destination": destination(queue), "id": "r", "ack": "auto", "browser": "true"})
            while (frame := client.frame()) and frame[1].get("browser") != "end":
                _, told, body = frame
                own = [(name, value.encode()) for name, value in told.items() if name not in _OF_THE_BROKER | {KEY_HEADER}]
                key = told[KEY_HEADER].encode() if KEY_HEADER in told else None
                found.append(Record(body, key, tuple(own), int(told["timestamp"]), told["message-id"], Partition(queue, 0), told))
        return found


class Stomp:
    """As little of STOMP 1.2 as tests need, so that they do not read with what they test."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._buffer = b""
        try:
            self.send("CONNECT", {"accept-version": "1.2", "host": "test", "login": user, "passcode": password})
            connected = self.frame()
            if connected[0] != "CONNECTED":
                raise OSError(str(connected))
        except BaseException:
            self.close()
            raise

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = "".join(f"{_escaped(name)}:{_escaped(value)}\n" for name, value in headers.items())
        self._socket.sendall(f"{command}\n{lines}\n".encode() + body + b"\0")

    def frame(self, timeout: float = 30.0) -> Frame:
        """The next one; EOFError when the broker closes, TimeoutError when none comes."""
        self._socket.settimeout(timeout)
        while True:
            self._buffer = self._buffer.lstrip(b"\n")
            head, found, rest = self._buffer.partition(b"\n\n")
            if found:
                command, *lines = head.decode().split("\n")
                headers = {_plain(name): _plain(value) for name, _, value in (line.partition(":") for line in lines)}
                length = int(headers["content-length"]) if "content-length" in headers else rest.find(b"\0")
                if 0 <= length < len(rest):
                    self._buffer = rest[length + 1 :]
                    return command, headers, rest[:length]
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data

    def sync(self) -> None:
        """Returns once the broker has taken everything sent before."""
        self.send("BEGIN", {"transaction": "sync", "receipt": "sync"})
        while self.frame()[1].get("receipt-id") != "sync":
            pass
        self.send("ABORT", {"transaction": "sync"})

    def close(self) -> None:
        self._socket.close()


def destination(name: str) -> str:
    return f"/{name}" if name.startswith("topic/") else f"/queue/{name}"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "c": ":"}.get(found[1], found[1]), text)
