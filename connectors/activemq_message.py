"""A record as a message that is sent: a dead letter, or one for the broker's own."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.activemq_batch import STANDARD
from connectors.activemq_config import destination
from connectors.activemq_headers import Header, written
from worker.interface import KEY_HEADER, NULL_HEADER, Record

_KEPT = {name: said for said, name in STANDARD.items() if said not in ("destination", "expires")}
"""Properties of a record that its message has, too: not its expiry, which would throw it away."""


def message(record: Record[bytes], own: Sequence[Header], queue: str) -> dict[str, str]:
    """The headers for SEND: persistent, and text if the record was."""
    body = record.value or b""
    told = {"destination": destination(queue), "persistent": "true"}
    if "text" in record.properties:  # one of ours: what others call priority is no header of STOMP
        told |= {said: str(record.properties[name]) for name, said in _KEPT.items() if name in record.properties}
    if not record.properties.get("text") or b"\0" in body:
        told["content-length"] = str(len(body))
    if record.key is None:
        told |= written(own)
    else:
        told |= written([(KEY_HEADER, record.key), *own])
        told["JMSXGroupID"] = told[KEY_HEADER]
    if record.value is None:
        told[NULL_HEADER] = "value"
    return told
