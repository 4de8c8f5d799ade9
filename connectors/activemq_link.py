"""One STOMP connection, pumped by whoever calls it: no thread of its own, heartbeats included."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping

from worker.connectors import activemq_errors
from worker.connectors.activemq_config import Login
from worker.connectors.activemq_frames import (
    ACK,
    RECEIPT_ID,
    SUBSCRIPTION,
    Decoder,
    Frame,
    Malformed,
    command,
    encode,
    headers,
    raw,
    unescape,
)
from worker.errors import ConnectorError, Refused, Unavailable

log = logging.getLogger("worker.activemq")

_READ = 1 << 18
_FIRST = 64
"""Bytes by which an answer is told from another protocol's."""
_TURN = 1 << 20
"""Bytes that one pump reads at most."""
_HEART_BEAT = re.compile(r"([0-9]{1,9}),([0-9]{1,9})")
_REPLY = 15.0
_CLOSE = 5.0
_PATIENCE = 2.0
"""The broker is late with its heartbeats when it was silent for so many of their intervals."""


class Link:
    """An open connection. `Unavailable` from any method: it is gone; `Refused`: the broker said no."""

    def __init__(
        self, login: Login, client_id: str | None = None, *, beats: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connects to the first host that answers. `beats`: this side is pumped often enough to promise heartbeats."""
        self.inboxes: dict[bytes, list[Frame]] = {}
        """By subscription id; messages of others are dropped: they come again."""
        self.acknowledges = True
        """A message that cannot be acknowledged is none that can be handled; a browser acknowledges nothing."""
        self.gap = False
        """A message could not be read, as the name of a property of it holds an end of line: the broker has it still."""
        self.about = ""
        """What an error would be about."""
        self.waiting: set[str] = set()
        """Receipts that have not come."""
        self._login = login
        self._clock = clock
        self._secret = secrets.token_hex(16)
        """In the ids of subscriptions and receipts: what carries it is from the broker, whatever a message holds."""
        self._numbers = itertools.count(1)
        self._prompt = self.name()
        self._lost: ConnectorError | None = None
        self._server: dict[str, str] | None = None
        failures: list[ConnectorError] = []
        for host, port in login.hosts:
            where = f"{host}:{port}"
            try:
                self._connect(host, port, client_id, beats)
                break
            except (OSError, ssl.SSLError) as error:
                failures.append(activemq_errors.unreachable(login.connection, where, error))
            except ConnectorError as error:
                self._socket.close()
                failures.append(error)
        else:
            raise next((one for one in failures if isinstance(one, Refused)), failures[0])

    def _connect(self, host: str, port: int, client_id: str | None, beats: bool) -> None:
        self._lost, self._server = None, None
        self._decoder = Decoder(self._secret.encode(), self._login.max_frame_size)
        self._out, self._prompted = bytearray(), False
        deadline = self._clock() + self._login.connect_timeout
        self._socket = socket.create_connection((host, port), self._login.connect_timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._login.secure is not None:
                name = self._login.server_hostname or host
                self._socket = self._login.secure.wrap_socket(self._socket, server_hostname=name)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._heard = self._sent = self._clock()
        self._send_every = self._hear_every = 0.0
        beat = int(self._login.heartbeat * 1000)
        told = {"accept-version": "1.2", "host": host, "heart-beat": f"{beat if beats else 0},{beat}"}
        connection = self._login.connection
        told |= {} if connection.username is None else {"login": connection.username}
        told |= {} if connection.password is None else {"passcode": connection.password}
        told |= {} if client_id is None else {"client-id": client_id}
        self._first = b""
        self._where = f"{host}:{port}"
        self.write(encode("CONNECT", told))
        while self._server is None:
            if self._clock() >= deadline:
                raise Unavailable(f"connection {connection.name}: {self._where}: no answer in {self._login.connect_timeout:g} s")
            self.pump(0.1)
        self._agree(self._server, beat if beats else 0, beat)

    def _agree(self, server: Mapping[str, str], sends: int, wants: int) -> None:
        """Heartbeats are as frequent as the slower side wants them."""
        told = _HEART_BEAT.fullmatch(server.get("heart-beat", "0,0"))
        if told is None:
            raise Unavailable(f"connection {self._login.connection.name}: {self._where}: its heart-beat is no two numbers")
        can, hopes = map(int, told.groups())
        self._send_every = max(sends, hopes) / 1000 if sends and hopes else 0.0
        self._hear_every = max(wants, can) / 1000 if wants and can else 0.0

    @property
    def server(self) -> str:
        """What the broker calls itself."""
        return (self._server or {}).get("server", "unknown")

    @property
    def alive(self) -> bool:
        return self._lost is None

    def pump(self, timeout: float = 0.0) -> None:
        """Reads, writes and keeps alive; returns as soon as anything was read."""
        if self._lost is not None:
            raise self._lost
        try:
            self._pump(timeout)
        except ConnectorError as error:
            self._lose(error)
            raise
        except Malformed as error:
            raise self._lose(Unavailable(f"connection {self._login.connection.name}: {error}")) from error
        except (OSError, ssl.SSLError) as error:
            self._last_words()
            told = getattr(error, "strerror", None) or error
            raise self._lose(Unavailable(f"connection {self._login.connection.name}: lost: {told}")) from error

    def _last_words(self) -> None:
        """Why the broker closed, if it said so: a frame of ERROR may lie behind what could not be written."""
        try:
            self._read()
        except (Refused, Malformed) as error:
            raise self._lose(error if isinstance(error, Refused) else Unavailable(str(error))) from error
        except (OSError, ssl.SSLError, ConnectorError):
            pass

    def _lose(self, error: ConnectorError) -> ConnectorError:
        self._lost = error
        self._socket.close()
        return error

    def _pump(self, timeout: float) -> None:
        now = self._clock()
        if self._send_every and now - self._sent >= self._send_every * 0.8 and not self._out:
            self._out += b"\n"
        self._flush()
        if not self._read() and timeout > 0:
            due = self._sent + self._send_every * 0.8 - now if self._send_every else timeout
            self._poller.modify(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
            self._poller.poll(max(0.0, min(timeout, due)) * 1000)
            self._flush()
            self._read()
        if self._hear_every and self._clock() - self._heard > self._hear_every * _PATIENCE:
            raise Unavailable(f"connection {self._login.connection.name}: no heartbeat for {self._hear_every * _PATIENCE:g} s")

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self._out[:sent]
            self._sent = self._clock()

    def _read(self) -> bool:
        """Whether anything came."""
        total = 0
        while total < _TURN:
            try:
                data = self._socket.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                raise activemq_errors.ended(self._login.connection, self._decoder.last_words())
            total += len(data)
            if self._server is None:
                self._look_at_first(data)
            self._dispatch(self._decoder.feed(data))
            if len(data) < _READ and self._login.secure is None:
                break
        if total:
            self._heard = self._clock()
            self._look_at_dropped()
        # What is not whole may be all there is: a length is what a producer says. The broker's next frame shows its end.
        if self._decoder.doubtful or (not total and self._decoder.pending):
            self._ask_for_a_frame()
        return total > 0

    def _ask_for_a_frame(self) -> None:
        """Of a kind that the broker answers without doing anything."""
        if not self._prompted and self._server is not None:
            self._prompted = True
            self._out += encode("BEGIN", {"transaction": "prompt", "receipt": self._prompt})
            self._out += encode("ABORT", {"transaction": "prompt"})
            self._flush()

    def _look_at_dropped(self) -> None:
        dropped, self._decoder.dropped = self._decoder.dropped, b""
        self.gap = self.gap or dropped.startswith(b"MESSAGE")
        if dropped:
            log.warning(
                "connection %s: behind a message came what is no frame: %r: a producer wrote it so, or the broker complains",
                *(self._login.connection.name, dropped.decode(errors="backslashreplace")),
            )

    def _look_at_first(self, data: bytes) -> None:
        self._first = (self._first + data[:_FIRST]).lstrip(b"\r\n")[:_FIRST]
        if not any(self._first.startswith(word[: len(self._first)]) for word in (b"CONNECTED", b"ERROR")):
            raise activemq_errors.foreign(self._login.connection, self._where, self._first)

    def _dispatch(self, frames: list[Frame]) -> None:
        inboxes = self.inboxes
        for frame in frames:
            head, body = frame
            if head.startswith(b"MESSAGE"):
                inbox = inboxes.get(raw(head, SUBSCRIPTION) or b"")
                if inbox is not None and self.acknowledges and raw(head, ACK) is None:
                    self._decoder.dropped = head[:500]
                elif inbox is not None:
                    inbox.append(frame)
            elif head.startswith(b"RECEIPT"):
                name = unescape(raw(head, RECEIPT_ID) or b"").decode(errors="replace")
                self.waiting.discard(name)
                self._prompted = self._prompted and name != self._prompt
            elif head.startswith(b"CONNECTED") and self._server is None:
                self._server = headers(head)
            elif head.startswith(b"ERROR"):
                raise activemq_errors.said(self._login.connection, (head, body), self.about)
            else:
                raise Malformed(f"an unknown frame {command(head)[:20]!r}")

    def write(self, frames: bytes) -> None:
        """Sends as much as goes at once; the next pumps send the rest."""
        if self._lost is not None:
            raise self._lost
        self._out += frames
        try:
            self._flush()
        except (OSError, ssl.SSLError):
            self.pump()  # what the broker said before it closed tells more

    def name(self) -> str:
        """A new one, for a subscription or a receipt, which no producer can know."""
        return f"{self._secret}.{next(self._numbers)}"

    def receipt(self) -> str:
        """A new receipt's name, which the broker is now expected to confirm."""
        name = self.name()
        self.waiting.add(name)
        return name

    def ask(self, command: str, headers: Mapping[str, str], body: bytes = b"", timeout: float = _REPLY) -> None:
        """Sends a frame and waits for its receipt."""
        name = self.receipt()
        self.write(encode(command, {**headers, "receipt": name}, body))
        self.wait(lambda: name not in self.waiting, timeout)

    def sync(self, timeout: float = _REPLY) -> None:
        """Returns once the broker has taken everything written before."""
        self.ask("BEGIN", {"transaction": "sync"}, timeout=timeout)
        self.ask("ABORT", {"transaction": "sync"}, timeout=timeout)

    def wait(self, done: Callable[[], object], timeout: float) -> None:
        deadline = self._clock() + timeout
        while not done():
            if (left := deadline - self._clock()) <= 0:
                error = Unavailable(f"connection {self._login.connection.name}: the broker has not answered for {timeout:g} s")
                raise self._lose(error)
            self.pump(min(left, 0.1))

    def close(self) -> None:
        """What was written before arrives before the broker sees the end; gives up after 5 s."""
        try:
            if self.alive:
                self.ask("DISCONNECT", {}, timeout=_CLOSE)
        except ConnectorError as error:
            log.debug("closing: %s", error)
        finally:
            self._lost = self._lost or Unavailable(f"connection {self._login.connection.name}: closed")
            self._socket.close()
