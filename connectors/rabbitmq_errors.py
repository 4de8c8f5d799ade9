"""What RabbitMQ and pika say when something is wrong, in one line that says what to do about it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException, AMQPConnectorPhaseErrorBase

from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Connection

NOT_FOUND, LOCKED, PRECONDITION_FAILED, ACCESS_REFUSED, NOT_ALLOWED = 404, 405, 406, 403, 530
_PROBABLY = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
"""What pika guesses also where the broker said nothing: it was cut off or stopped in the middle of a login."""
_REFUSED = re.compile(rf"\(({ACCESS_REFUSED}|{NOT_ALLOWED})\)")


def login_failed(connection: Connection, host: str, error: BaseException) -> ConnectorError:
    """Why no connection could be opened: `Refused` if asking again will not help."""
    causes = list(_causes(error))
    where = f"connection {connection.name}: {host}"
    for cause in causes:
        if isinstance(cause, _PROBABLY) and not _REFUSED.search(str(cause)):
            return Unavailable(f"{where} closed the connection during the login: {cause}")
        if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
            return Refused(f"{where} refuses user {_user(connection)} or its password")
        if isinstance(cause, exceptions.ProbableAccessDeniedError) or code(cause) == NOT_ALLOWED:
            vhost = connection.path[1:] or "/"
            return Refused(f"{where} has no virtual host {vhost}, or user {_user(connection)} may not use it: {reason(cause)}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"{where}: its certificate is not accepted: {cause.verify_message}: see cafile= and server_hostname=")
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # also while the broker starts or stops behind something
            return Unavailable(f"{where}: no TLS: it closed the connection during the handshake; amqps:// is for port 5671")
        if isinstance(cause, ssl.SSLError):
            return Refused(f"{where}: no TLS: {cause.reason or cause}: amqps:// is for the TLS port, 5671, rabbitmq:// for 5672")
        if isinstance(cause, exceptions.IncompatibleProtocolError):  # also while the broker starts or stops
            return Unavailable(f"{where} closed the connection before a login: is it RabbitMQ's port (5672, with TLS 5671)?")
        if isinstance(cause, socket.gaierror):
            return Unavailable(f"{where}: no such host ({cause.strerror})")
    return Unavailable(f"{where} cannot be reached: {reason(causes[-1])}")


def closed(connection: Connection, error: BaseException) -> Unavailable:
    """Why a connection that was open is not any more."""
    return Unavailable(f"connection {connection.name}: lost: {reason(error)}")


def channel_closed(connection: Connection, queue: str, error: BaseException) -> ConnectorError:
    """Why the broker closed a channel on which something was asked about `queue`."""
    replied, where = code(error), f"connection {connection.name}: queue {queue}"
    if replied == NOT_FOUND:
        return Refused(f"{where} does not exist: create it, or write declare=quorum into the connection")
    if replied == ACCESS_REFUSED and "exclusive" not in reason(error):
        return Refused(f"{where}: user {_user(connection)} has no permission: {reason(error)}")
    if replied == PRECONDITION_FAILED and "inequivalent" in reason(error):
        return Refused(f"{where} exists with other settings than declare= would give it, leave that out: {reason(error)}")
    return Unavailable(f"{where}: {reason(error)}")


def code(error: BaseException) -> int | None:
    """The reply code, if the broker sent one."""
    return getattr(error, "reply_code", None)


def reason(error: BaseException) -> str:
    """What the broker or the system said."""
    if (said := getattr(error, "reply_text", None)) is not None:
        return str(said)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """From the outermost to what really happened."""
    yield error
    inner: list[BaseException] = []
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        inner = [error.exception]
    elif isinstance(error, AMQPConnectorException | exceptions.AMQPConnectionError):
        inner = [*getattr(error, "exceptions", ()), *(one for one in error.args if isinstance(one, BaseException))]
    for one in inner:
        yield from _causes(one)


def _user(connection: Connection) -> str:
    return connection.username or "guest"
