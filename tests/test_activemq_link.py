"""A STOMP connection against a small server in this process that says what a real one says only on a bad day."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from tests.contract import Member, values
from tests.waiting import until
from worker.connectors import activemq as connector
from worker.errors import Unavailable
from worker.interface import Connection, SourceOptions

CONNECTED = b"CONNECTED\nserver:ActiveMQ/6.1.7\nheart-beat:0,0\n\n\0\n"


class Server:
    """Takes one connection after the other, confirms what is asked for, and sends `messages` to each subscription."""

    def __init__(
        self, connected: bytes = b"CONNECTED\nserver:ActiveMQ/6.1.7\nheart-beat:0,0\n\n\0\n", hang_up: bool = False
    ) -> None:
        self.connected = connected
        self.hang_up = hang_up
        self.messages: Callable[[bytes], bytes] = lambda subscription: b""
        self.said: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        buffer = b""
        with client, suppress(OSError):
            while data := client.recv(1 << 16):
                if self.hang_up and any(b"SUBSCRIBE" in frame for frame in self.said):
                    continue
                *frames, buffer = (buffer + data).split(b"\0")
                for frame in frames:
                    client.sendall(self._answer(frame.lstrip(b"\n")))
                    if self.hang_up and frame.lstrip(b"\n").startswith(b"SUBSCRIBE"):
                        client.shutdown(socket.SHUT_WR)  # a close with something unread would be a reset

    def _answer(self, frame: bytes) -> bytes:
        self.said.append(frame)
        command, *lines = frame.partition(b"\n\n")[0].split(b"\n")
        told = dict(line.split(b":", 1) for line in lines)
        receipt = b"RECEIPT\nreceipt-id:%s\n\n\0\n" % told[b"receipt"] if b"receipt" in told else b""
        if command == b"CONNECT":
            return self.connected
        return receipt + (self.messages(told[b"id"]) if command == b"SUBSCRIBE" else b"")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as made:
        yield made


def source(server: Server) -> Member:
    connection = Connection("a", "activemq", server.address, username="me", password="secret")
    return Member(connector.source(SourceOptions(connection, ("q",), "group")))


def message(subscription: bytes, body: bytes, told: bytes = b"") -> bytes:
    return b"MESSAGE\nsubscription:" + subscription + b"\nmessage-id:1\nack:1\n" + told + b"\n" + body + b"\0\n"


FORGED = b"hello\0\nERROR\nmessage:User name [x] or password is invalid\n\nforged\0\n"


@pytest.mark.parametrize("told", [b"", b"content-length:1000000\n", b"content-length:4\n", b"content-length:none\n"])
def test_a_text_that_holds_frames_is_a_text(server: Server, told: bytes) -> None:
    """A forged ERROR stopped the worker: "user me or its password is refused"; a length that is not its own silenced it."""
    server.messages = lambda subscription: message(subscription, FORGED, told) + message(subscription, b"last")
    with closing((member := source(server)).source):
        member.open().receive(2)
    assert values(member.got) == [FORGED, b"last"]


def test_a_text_alone_with_a_length_that_is_not_its_own(server: Server) -> None:
    server.messages = lambda subscription: message(subscription, b"alone", b"content-length:1000000\n")
    with closing((member := source(server)).source):
        member.open().receive(1)
    assert values(member.got) == [b"alone"]


def test_the_end_of_the_connection_behind_a_forged_error_refuses_nobody() -> None:
    with closing(Server(hang_up=True)) as server:
        server.messages = lambda subscription: message(subscription, FORGED)
        member = source(server)
        with closing(member.source), pytest.raises(Unavailable, match="closed the connection; what came last: 'User name"):
            member.open().until(lambda: False)


def test_what_the_broker_says_behind_bytes_and_what_ended_nothing_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    complaint = b"ERROR\nmessage:no\n\n\x1b[2Jtrace\0\n"
    server.messages = lambda subscription: message(subscription, b"a", b"content-length:1\n") + complaint
    with closing((member := source(server)).source), caplog.at_level(logging.WARNING):
        member.open().receive(1)
        until(lambda: "no frame" in caplog.text, member.poll)
    assert "message:no" in caplog.text and "\x1b" not in caplog.text


def test_receipts_and_subscriptions_cannot_be_guessed(server: Server) -> None:
    for _ in range(2):
        with closing((member := source(server)).source):
            member.open().poll()
    found = [line for frame in server.said for line in frame.split(b"\n") if line.startswith((b"id:", b"receipt:"))]
    assert len({line.partition(b":")[2].partition(b".")[0] for line in found}) == 2, "a secret for each connection"
    assert all(len(line) > 32 for line in found)


@pytest.mark.parametrize("beat", [b"0", b"", b"1,2,3", b"a,b", b"9" * 5_000 + b",0", "²,1".encode(), b"-1,0"])
def test_a_heart_beat_that_is_none_is_no_bug(beat: bytes) -> None:
    told = b"CONNECTED\nheart-beat:" + beat + b"\n\n\0\n"
    with closing(Server(told)) as server, pytest.raises(Unavailable, match="its heart-beat is no two numbers"):
        source(server).open()


def test_an_answer_without_an_end_is_no_connection() -> None:
    with closing(Server(b"CONNECTED\n" + b"x" * (9 << 20))) as server:
        connection = Connection("a", "activemq", server.address, options={"max_frame_size": 1 << 20})
        with pytest.raises(Unavailable, match="more than 1,048,576 bytes"):
            connector.source(SourceOptions(connection, ("q",), "group")).open(lambda partitions, lost: None)


BROKEN = b"MESSAGE\nexpires:0\n\nname:1\nsubscription:%s\nmessage-id:1\nack:1\n\nbody\0\n"
"""Classic writes names of properties as they are, ends of lines too: seen from a Java client."""


def test_a_message_that_its_properties_break_apart_is_left_and_harms_no_other(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It was looked for without end."""
    server.messages = lambda subscription: (
        message(subscription, b"first") + BROKEN % subscription + BROKEN % subscription + message(subscription, b"last")
    )
    with closing((member := source(server)).source), caplog.at_level(logging.WARNING):
        member.open().receive(2)
        until(lambda: "no frame" in caplog.text, member.poll)
    assert values(member.got) == [b"first", b"last"]


def test_a_message_that_cannot_be_acknowledged_is_left(server: Server) -> None:
    cut = b"MESSAGE\nsubscription:%s\n\nname:1\nack:1\n\nbody\0\n"
    server.messages = lambda subscription: cut % subscription + message(subscription, b"last")
    with closing((member := source(server)).source):
        member.open().receive(1)
    assert values(member.got) == [b"last"]


def test_in_order_nothing_passes_a_message_that_was_left(server: Server) -> None:
    server.messages = lambda subscription: message(subscription, b"1") + BROKEN % subscription + message(subscription, b"last")
    connection = Connection("a", "activemq", server.address, username="me", password="secret")
    member = Member(connector.source(SourceOptions(connection, ("q",), "group", ordered=True)))
    with closing(member.source), pytest.raises(Unavailable, match="take it out of the queue"):
        member.open().until(lambda: False)
