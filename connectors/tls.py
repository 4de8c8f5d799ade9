"""TLS for connectors whose clients take Python's own `ssl`: the same options for all of them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from worker.errors import ConfigError
from worker.interface import Connection

OPTIONS = ("cafile", "certfile", "keyfile", "keyfile_password", "server_hostname", "verify")


def context(connection: Connection, given: Mapping[str, Any], *, scheme: str) -> ssl.SSLContext | None:
    """What `given` asks for; None if the connection has not the scheme for TLS. ConfigError for options that then make no sense,
    and for files that cannot be used."""
    if connection.scheme != scheme:
        for name in OPTIONS:
            if name in given:
                raise _wrong(connection, name, f"TLS needs {scheme}:// instead of {connection.scheme}://")
        return None
    files = {name: str(given[name]) for name in ("cafile", "certfile", "keyfile") if name in given}
    try:
        made = ssl.create_default_context(cafile=files.get("cafile"))
    except (OSError, ValueError) as error:
        raise _wrong(connection, "cafile", f"{files.get('cafile')} cannot be read, or is no PEM file ({error})") from None
    if not _verifies(given):
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if "certfile" in files:
        password = str(given.get("keyfile_password", ""))
        try:
            # Never None: then OpenSSL would ask on the terminal.
            made.load_cert_chain(files["certfile"], files.get("keyfile"), lambda: password)
        except (OSError, ValueError) as error:
            raise _wrong(connection, "certfile", f"{files['certfile']} and its keyfile cannot be used ({error})") from None
    elif "keyfile" in files:
        raise _wrong(connection, "keyfile", "it needs a certfile=")
    return made


def warnings(connection: Connection) -> list[str]:
    if _verifies(connection.options):
        return []
    return [f"verify={connection.options['verify']}: the broker's certificate is not checked"]


def _verifies(given: Mapping[str, Any]) -> bool:
    return str(given.get("verify", "true")).lower() not in ("false", "0", "no", "none")


def _wrong(connection: Connection, name: str, why: str) -> ConfigError:
    return ConfigError(f"connection {connection.name}: {name}: {why}")
