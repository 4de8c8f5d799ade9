"""Finds a connector by the scheme of a connection's URL, through the entry points of group `worker.connectors`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from worker.errors import ConfigError
from worker.interface import Connection, Connector

GROUP = "worker.connectors"
_PATTERN = re.compile(r"[\^*>#]")
"""What a stream has that may stand for others, with any connector."""


@cache
def connector(scheme: str) -> Connector:
    """The module behind `scheme`; ConfigError if there is none or if what it needs is not installed."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    if scheme not in found:
        installed = ", ".join(sorted(found)) or "none"
        near = get_close_matches(scheme, found, 1)
        hint = f"did you mean {near[0]}://? " if near else ""
        raise ConfigError(
            f"no connector for {scheme}://; {hint}installed: {installed}. A package adds one by an entry point in {GROUP}"
        )
    point, *others = found[scheme]
    if any(other.value != point.value for other in others):
        packages = " and ".join(sorted({one.dist.name if one.dist else one.value for one in found[scheme]}))
        raise ConfigError(f"two packages bring a connector for {scheme}://, {packages}: uninstall one of them")
    try:
        return cast(Connector, point.load())
    except ImportError as error:
        extra = f"stream-worker[{scheme}]" if point.value.startswith("worker.connectors.") else "its requirements"
        raise ConfigError(f"the connector for {scheme}:// cannot be imported: {error}; pip install {extra}") from error


def reads(source: Connection, stream: str, target: Connection, name: str) -> bool:
    """Whether a handler of `stream` gets what is published to `name`. What is wrong with either is said elsewhere."""
    if stream != name and not _PATTERN.search(stream):
        return False
    try:
        asked = connector(source.scheme)
        if connector(target.scheme) is asked and hasattr(asked, "reads"):
            return asked.reads(source, stream, target, name)
    except ConfigError:
        return False
    return stream == name and (source.scheme, source.hosts, source.path) == (target.scheme, target.hosts, target.path)


def grouped(source: Connection, stream: str) -> bool:
    try:
        asked = connector(source.scheme)
    except ConfigError:
        return True
    return asked.grouped(stream) if hasattr(asked, "grouped") else True


def warnings(connection: Connection) -> Sequence[str]:
    asked = connector(connection.scheme)
    return asked.warnings(connection) if hasattr(asked, "warnings") else ()
