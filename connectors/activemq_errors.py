"""What ActiveMQ says when something is wrong, in one line that says what to do about it."""

from __future__ import annotations

import socket
import ssl

from worker.connectors.activemq_frames import Frame, header
from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Connection


class InUse(Unavailable):
    """Somebody has our client_id: another worker, or our own connection of before, whose end the broker has not noticed yet."""


def unreachable(connection: Connection, host: str, error: BaseException) -> ConnectorError:
    """Why no connection could be opened: `Refused` if asking again will not help."""
    where = f"connection {connection.name}: {host}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"{where}: its certificate is not accepted: {error.verify_message}: see cafile= and server_hostname=")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # also while the broker starts or stops behind something
        return Unavailable(f"{where}: no TLS: it closed the connection during the handshake; activemq+ssl:// is for the TLS port")
    if isinstance(error, ssl.SSLError):
        return Refused(f"{where}: no TLS: {error.reason or error}: activemq+ssl:// is for the TLS port, activemq:// for 61613")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{where}: no such host ({error.strerror})")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{where} cannot be reached: no answer in time")
    return Unavailable(f"{where} cannot be reached: {getattr(error, 'strerror', None) or error or type(error).__name__}")


def said(connection: Connection, frame: Frame, about: str = "") -> ConnectorError:
    """What an ERROR frame means."""
    head, body = frame
    message = (header(head, b"message") or b"").decode(errors="replace")
    kind = body.decode(errors="replace").partition("\n")[0].partition(":")[0].rpartition(".")[2]
    where = f"connection {connection.name}: {about}{': ' if about else ''}"
    if "password is invalid" in message:
        return Refused(f"{where}user {connection.username or 'of no name'} or its password is refused")
    if kind == "InvalidSelectorException":
        return Refused(f"{where}selector= cannot be read: {message}")
    if "already connected" in message or kind == "InvalidClientIDException":
        return InUse(
            f"{where}a durable subscription has one consumer at a time, and its client_id is in use: {message}; "
            "give each worker its own client_id=, or use a queue"
        )
    if "durable subscription for an advisory" in message:
        return Refused(f"{where}the broker keeps advisories for nobody: a worker cannot read them ({message})")
    if "not authorized" in message or kind == "SecurityException":
        return Refused(f"{where}user {connection.username} has no permission: {message}")
    if "frame size" in message.lower() or "max frame" in message.lower() or "data length" in message.lower():
        return Refused(f"{where}larger than the broker takes (wireFormat.maxFrameSize, maxDataLength): {message}")
    if "maximum header length" in message or "maximum number of headers" in message:
        return Refused(
            f"{where}a header longer than 10 KiB, or more than 1000 of them, which the broker does not take: {message}"
        )
    return Unavailable(f"{where}{message or kind}")


def ended(connection: Connection, head: bytes) -> Unavailable:
    """The broker closed the connection; `head` is of what may be its last words, or a part of the last message."""
    told = f"connection {connection.name}: the broker closed the connection"
    message = header(head, b"message")
    return Unavailable(told if message is None else f"{told}; what came last: {message.decode(errors='backslashreplace')!r:.500}")


def foreign(connection: Connection, host: str, first: bytes) -> Refused:
    """Something answers, but not in STOMP."""
    known = {b"AMQP": "AMQP", b"HTTP": "HTTP"}
    found = known.get(first[:4]) or ("OpenWire" if b"ActiveMQ" in first[:20] else None)
    return Refused(
        f"connection {connection.name}: {host} {f'speaks {found}' if found else 'does not speak STOMP'}: "
        "write the port of the broker's STOMP connector (61613, with TLS 61614)"
    )
