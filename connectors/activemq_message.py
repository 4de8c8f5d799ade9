"""A record as a message that is sent: a dead letter, or one for the broker's own."""

from __future__ import annotations

from collections.abc import Sequence

from worker.connectors import left_out
from worker.connectors.activemq_batch import STANDARD
from worker.connectors.activemq_config import destination
from worker.connectors.activemq_headers import Header, fitting, written
from worker.interface import KEY_HEADER, LEFT_OUT_HEADER, NULL_HEADER, Record

_KEPT = {name: said for said, name in STANDARD.items() if said not in ("destination", "expires")}
"""Properties of a record that its message has, too: not its expiry, which would throw it away."""


def message(record: Record[bytes], own: Sequence[Header], queue: str) -> tuple[dict[str, str], str]:
    """The headers for SEND, persistent, and text if the record was; and which of the record's were left out."""
    body = record.value or b""
    told = {"destination": destination(queue), "persistent": "true"}
    if "text" in record.properties:  # one of ours: what others call priority is no header of STOMP
        told |= {said: str(record.properties[name]) for name, said in _KEPT.items() if name in record.properties}
    if not record.properties.get("text") or b"\0" in body:
        told["content-length"] = str(len(body))
    key = [] if record.key is None else [(KEY_HEADER, record.key)]
    headers, without = written([*key, *own])
    told |= headers
    if KEY_HEADER in headers:
        told["JMSXGroupID"] = told[KEY_HEADER]
    if record.value is None:
        told[NULL_HEADER] = "value"
    told, too_long = fitting(told)
    names = left_out.listed([*without, *too_long])
    return (told | {LEFT_OUT_HEADER: names} if names else told), names
