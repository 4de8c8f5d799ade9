"""Finds a connector by the scheme of a connection's URL, through the entry points of group `worker.connectors`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from worker.errors import ConfigError
from worker.interface import Connector

GROUP = "worker.connectors"


@cache
def connector(scheme: str) -> Connector:
    """The module behind `scheme`; ConfigError if there is none or if what it needs is not installed."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in found:
        installed = ", ".join(sorted(found)) or "none"
        raise ConfigError(
            f"no connector for {scheme}://; installed: {installed}. A package adds one by an entry point in {GROUP}"
        )
    point = found[scheme]
    try:
        return cast(Connector, point.load())
    except ImportError as error:
        extra = f"stream-worker[{scheme}]" if point.value.startswith("connectors.") else "its requirements"
        raise ConfigError(f"the connector for {scheme}:// cannot be imported: {error}; pip install {extra}") from error
