"""One clear line for whatever the client reports: what happened, which option is meant, what to do.

librdkafka says little: a wrong certificate authority and a wrong host name give the same text, plaintext spoken to a TLS port
gives none. Where it matters a short TLS handshake of our own finds out.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

from worker.connectors.kafka_config import redact
from worker.errors import ConnectorError, Refused, Unavailable

_PROBE = 3.0

RETRIED = frozenset(
    {
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._WAIT_COORD,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)
"""Errors of a commit that the same commit may not meet again."""

MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})

# What asking again does not heal; {group} and {stream} are filled in.
_REMEDY = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "no permission for topic {stream}: give this user the ACL {operation} on it",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "no permission for group {group}: give this user the ACL Read on it, or set `group`",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (
        "no permission: give this user the ACL {operation} on topic {stream} "
        "(before Kafka 2.8: and IdempotentWrite on the cluster)"
    ),
    KafkaError._AUTHENTICATION: "login failed: {login}",
    KafkaError.SASL_AUTHENTICATION_FAILED: "login failed: {login}",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "login failed: the broker does not know this sasl.mechanism",
    KafkaError.INVALID_GROUP_ID: "the broker takes no group named {group}: set `group`",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: (
        "group {group} has members with another partition.assignment.strategy or group.protocol: use theirs, or another `group`"
    ),
    KafkaError.UNSUPPORTED_ASSIGNOR: "the broker does not know this group.remote.assignor",
    KafkaError.UNRELEASED_INSTANCE_ID: (
        "another member of group {group} has this group.instance.id, and has it still after a session: "
        "each worker process needs its own"
    ),
    KafkaError.FENCED_INSTANCE_ID: (
        "another member of group {group} took over this group.instance.id: each worker process needs its own"
    ),
    KafkaError.INVALID_SESSION_TIMEOUT: (
        "the broker does not allow this session.timeout.ms: see its group.min.session.timeout.ms and group.max.session.timeout.ms"
    ),
    KafkaError.GROUP_MAX_SIZE_REACHED: "group {group} has as many members as the broker's group.max.size allows",
    KafkaError.UNSUPPORTED_VERSION: "the broker is too old for what the connection's options ask for (group.protocol?)",
    KafkaError._UNSUPPORTED_FEATURE: "the broker is too old for what the connection's options ask for (group.protocol?)",
    KafkaError.INVALID_REGULAR_EXPRESSION: "the broker does not understand the pattern {stream}",
}


class Explain:
    """Errors of the client of one connection, explained."""

    def __init__(self, name: str, config: Mapping[str, Any], *, stream: str, group: str = "", operation: str = "Read") -> None:
        self._where = f"connection {name}: "
        self._config = config
        self._words = {"stream": stream, "group": group, "operation": operation}

    def text(self, error: KafkaError) -> str:
        """What the client says, without its decoration and without secrets."""
        text = error.str()
        text = re.sub(r"^(\w+://)?[^ ]+/(bootstrap|\d+): ", "", text)
        text = re.sub(r" \(after \d+ms in state .*\)$", "", text)
        text = re.sub(r"^Fatal error: (.*): Fatal consumer error: .*", r"\1", text)
        return redact(text.strip().rstrip(":"), self._config)

    def known(self, error: KafkaError) -> bool:
        """Whether somebody has to do something about it: no new client helps."""
        return error.code() in _REMEDY

    def permanent(self, error: KafkaError) -> bool:
        return self.known(error) or error.fatal() or error.code() == KafkaError._FATAL

    def code(self, error: KafkaError) -> int:
        """Of a fatal error, what it was is only in the text."""
        code = error.code()
        if code == KafkaError._FATAL:
            said = self.text(error)
            return next((code for code in _REMEDY if KafkaError(code).str() in said), code)
        return code

    def error(self, error: KafkaError, stream: str | None = None) -> ConnectorError:
        """`Refused` for what will not heal, else `Unavailable`."""
        said = self.text(error)
        code = self.code(error)
        if (remedy := _REMEDY.get(code)) is not None:
            words = self._words | {"login": _login(said)} | ({"stream": stream} if stream else {})
            return Refused(f"{self._where}{remedy.format(**words)} ({said})")
        return (Refused if self.permanent(error) else Unavailable)(self._where + said)

    def unreachable(self, reason: KafkaError | None, servers: str) -> ConnectorError:
        """Why nobody answered at `servers`, as far as the client's last words and a look of our own tell."""
        said = self.text(reason) if reason else "no answer"
        if reason is not None and self.permanent(reason):
            return self.error(reason)
        if (diagnosis := self._tls(said, reason, servers)) is not None:
            return Refused(self._where + diagnosis)
        return Unavailable(f"{self._where}no broker reached at {servers}: {said}")

    def _tls(self, said: str, reason: KafkaError | None, servers: str) -> str | None:
        protocol = str(self._config.get("security.protocol", "plaintext")).lower()
        if "certificate required" in said or "bad certificate" in said or "alert handshake failure" in said:
            return (
                f"{servers} does not accept our client certificate, or we showed none: "
                f"set ssl.certificate.location and ssl.key.location ({said})"
            )
        if "certificate verify failed" in said:
            return _certificate(servers, self._config) or f"the certificate of {servers} is not trusted: check ssl.ca.location"
        if "ssl" in protocol and _speaks_plaintext(servers):
            return f"{servers} does not speak TLS: use its TLS port, or security.protocol={protocol.replace('ssl', 'plaintext')}"
        closed = reason is None or reason.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
        if "ssl" not in protocol and closed and not re.search("refused|resolve", said, re.I) and _speaks_tls(servers):
            return f"{servers} speaks TLS and we do not: set security.protocol={'sasl_ssl' if 'sasl' in protocol else 'ssl'}"
        return None


def _login(said: str) -> str:
    if supported := re.search(r"supported mechanisms: (.+)", said):
        return f"set sasl.mechanism to one the broker supports, {supported[1]}"
    if "not valid in current SASL state" in said:
        return "this port asks for no login: use the broker's SASL port, or leave out user and sasl.*"
    return "check user, password and sasl.mechanism"


def _hosts(servers: str) -> list[tuple[str, int]]:
    pairs = (server.rpartition(":") for server in servers.split(","))
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


def _speaks_tls(servers: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for address in _hosts(servers):
        with contextlib.suppress(OSError), socket.create_connection(address, _PROBE) as plain:
            try:
                context.wrap_socket(plain, server_hostname=address[0]).close()
            except ssl.SSLError as error:
                # An alert is TLS too: it wants our certificate.
                return "alert" in str(error).lower()
            return True
    return False


def _speaks_plaintext(servers: str) -> bool:
    """What the client says of it is a guess: a load balancer whose brokers start closes a handshake just so."""
    which_versions = b"\0\0\0\x0a\0\x12\0\0KAFK\xff\xff"
    for address in _hosts(servers):
        with contextlib.suppress(OSError), socket.create_connection(address, _PROBE) as plain:
            plain.sendall(which_versions)
            if plain.recv(8, socket.MSG_WAITALL)[4:] == b"KAFK":
                return True
    return False


def _certificate(servers: str, config: Mapping[str, Any]) -> str | None:
    """Whether it is the authority or the name that does not fit; None if this look finds nothing wrong."""
    ca = config.get("ssl.ca.location")
    context = ssl.create_default_context(cafile=ca if ca and ca != "probe" else None, cadata=config.get("ssl.ca.pem"))
    context.check_hostname = False
    for address in _hosts(servers):
        with contextlib.suppress(OSError), socket.create_connection(address, _PROBE) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=address[0]) as secure:
                    if said := _other_name(secure.getpeercert(), address[0]):
                        return said
            except ssl.SSLCertVerificationError as error:
                trusted = f"ssl.ca.location={ca}" if ca else "the system's authorities (ssl.ca.location is not set)"
                return f"the certificate of {address[0]}:{address[1]} is not trusted by {trusted}: {error.verify_message}"
    return None


def _other_name(certificate: Mapping[str, Any] | None, host: str) -> str | None:
    names = list(dict.fromkeys(value for _, value in (certificate or {}).get("subjectAltName", ())))
    if any(re.fullmatch(re.escape(name).replace(r"\*", "[^.]+"), host, re.I) for name in names):
        return None
    return (
        f"the certificate of {host} is for {', '.join(names) or 'nobody'}, not for that name: connect by one of these names, "
        "or give the broker a certificate with that one"
    )
