"""Log lines: for people, or as JSON; inside a handler they say for which records."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
import time
from typing import Any, TextIO

from worker.interface import Batch
from worker.printable import block

running: contextvars.ContextVar[tuple[str, Batch] | None] = contextvars.ContextVar("worker_running", default=None)
"""The handler's name and the batch it is called with, in the context of the call."""

FIELDS = ("handler", "partition", "first", "last")
COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


def where() -> dict[str, str | int]:
    """The fields of a line that is written inside a handler."""
    current = running.get()
    if current is None:
        return {}
    name, batch = current
    first, last = batch.record(0).id, batch.record(len(batch) - 1).id
    return dict(zip(FIELDS, (name, str(batch.partition), first, last), strict=True))


class People(logging.Formatter):
    """`12:00:01 WARNING text`, coloured where the stream is a terminal."""

    def __init__(self, colours: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._colours = colours

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        if not record.name.startswith("worker"):
            fields = where()
            if fields:
                line += " ({handler} {partition} {first}-{last})".format_map(fields)
        line = block(line)
        colour = COLOURS.get(record.levelno)
        return f"\x1b[{colour}m{line}\x1b[0m" if self._colours and colour else line

    def formatException(self, ei: Any) -> str:
        return f"    {block(super().formatException(ei))}"


class Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **where(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Heard(logging.Logger):
    """The worker's own: whoever configures logging, and whenever, its warnings and errors reach a handler or stderr.

    `dictConfig` and `fileConfig` disable every logger that is there before them, and `logging.disable` all there are.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None: ...

    def isEnabledFor(self, level: int) -> bool:
        return level >= self.getEffectiveLevel() if level >= logging.WARNING else super().isEnabledFor(level)


def configure(*, as_json: bool, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends the root logger to `stream` (stderr). The client libraries' own lines are at DEBUG."""
    stream = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115, as it stays; closed as by 2>&-
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if as_json else People(stream.isatty() and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    ours = logging.getLogger("worker")
    ours.setLevel(level)  # its own, so that it does not depend on what the app makes of the root's
    hear()


def hear() -> None:
    """From here on all loggers of ours that there are."""
    for name in [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "worker"]:
        logging.getLogger(name).__class__ = Heard


def configured() -> dict[str, Any]:
    """What another process has to tell `configure`, to write lines as this one does."""
    root, ours = logging.getLogger(), logging.getLogger("worker")
    as_json = any(isinstance(handler.formatter, Json) for handler in root.handlers)
    return {"as_json": as_json, "level": logging.getLevelName(ours.level or root.level)}
