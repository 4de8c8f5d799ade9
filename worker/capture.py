"""`worker run --capture DIR`: each batch that fails goes to a file, to be replayed without a broker."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.errors import ConfigError, Retry, count, say
from worker.interface import Batch, Partition, as_read, shown
from worker.options import HandlerOptions
from worker.plain import PlainBatch, columns
from worker.work import Outcome

log = logging.getLogger("worker")

SUFFIX = ".batch.json"
FILES = 100
BYTES = 64 * 1024 * 1024
"""The oldest files go when there are more."""


class Failure(BaseModel):
    """An error, of one record or of the whole batch."""

    index: int | None
    type: str
    message: str
    traceback: str


class Kept(BaseModel):
    """One record."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int | None
    id: int | str
    properties: dict[str, Any]


class Captured(BaseModel):
    """A batch as it was when it failed for the first time. Bytes are base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    version: Literal[1] = 1
    app: str
    handler: str
    ordered: bool
    """A record that fails is waited for."""
    stream: str
    partition: int | str
    time: float
    """Seconds since the epoch."""
    failures: list[Failure]
    records: list[Kept]

    @classmethod
    def load(cls, file: Path) -> Captured:
        """Raises ConfigError: one line that says what is wrong with the file."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{file}: no batch captured by this version: {where + ': ' if where else ''}{first['msg']}"
            ) from error

    def in_order(self, options: HandlerOptions) -> bool:
        """Whether a record that fails is waited for."""
        return self.ordered if options.ordered is None else options.ordered

    def batch(self) -> PlainBatch:
        native = [(r.value, r.key, as_read(tuple(r.headers)), r.timestamp, r.id, r.properties) for r in self.records]
        return PlainBatch(Partition(self.stream, self.partition), native)


class Capture:
    """Of one handler. What goes wrong with its files is told once, and stops nothing."""

    def __init__(self, folder: Path, app: str, handler: str, ordered: bool, files: int = FILES, size: int = BYTES) -> None:
        self._folder = folder
        self._app = app
        self._handler = handler
        self._ordered = ordered
        self._files = files
        self._size = size
        self._lock = threading.Lock()
        self._number = itertools.count(1)
        self._complained = False

    def __call__(self, batch: Batch, outcome: Outcome) -> None:
        """Writes the batch at the first failure of a try; later ones are of the same records."""
        if batch.attempt == 1 and (failures := list(_failures(outcome))):
            try:
                self._write(batch, failures)
            except (OSError, ValueError) as error:
                if not self._complained:
                    self._complained = True
                    log.warning("%s: a failing batch could not be captured in %s: %s", self._handler, self._folder, say(error))

    def _write(self, batch: Batch, failures: list[Failure]) -> None:
        stream, partition = batch.partition
        made = Captured(
            app=self._app,
            handler=self._handler,
            ordered=self._ordered,
            stream=stream,
            partition=partition,
            time=time.time(),
            failures=failures,
            records=[
                Kept(
                    value=value,
                    key=key,
                    headers=list(shown(headers)),
                    timestamp=stamp,
                    id=number,
                    properties=_jsonable(properties),
                )
                for value, key, headers, stamp, number, properties in columns(batch)
            ],
        )
        content = made.model_dump_json(indent=1).encode()
        if len(content) > self._size:
            raise ValueError(f"{len(content):,} bytes are more than all files may have, {self._size:,}")
        name = re.sub(r"[^\w.-]", "_", f"{self._handler}-{stream}-{partition}-{made.records[0].id}", flags=re.ASCII)[:150]
        with self._lock:
            # A queue's ids begin again with each connection, and other processes have the same.
            name += f"-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(made.time))}-{os.getpid()}-{next(self._number)}{SUFFIX}"
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(content))
            unfinished = self._folder / f".{name}"
            # Whole records, for their owner alone, and never through a link that somebody has put there.
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(content)
            unfinished.replace(self._folder / name)
        log.info("%s: captured %s in %s", self._handler, count(len(batch), "record"), self._folder / name)

    def _make_room(self, size: int) -> None:
        found = []
        for file in self._folder.glob(f"*{SUFFIX}"):  # also what a process that was killed has begun
            with suppress(FileNotFoundError):  # another process makes room, too
                found.append((file.stat().st_mtime_ns, file.stat().st_size, file))
        found.sort(reverse=True)
        while found and (len(found) >= self._files or sum(one[1] for one in found) + size > self._size):
            found.pop()[2].unlink(missing_ok=True)


def _failures(outcome: Outcome) -> Iterator[Failure]:
    if outcome.whole is not None and not isinstance(outcome.whole, Retry):
        yield _failure(None, outcome.whole)
    for index, error in sorted({**outcome.bad, **outcome.failed}.items()):
        if not isinstance(error, Retry):
            yield _failure(index, error)


def _failure(index: int | None, error: Exception) -> Failure:
    name, _, message = say(error).partition(": ")
    whole = "".join(traceback.format_exception(error))
    return Failure(index=index, type=name, message=_utf8(message), traceback=_utf8(whole))


def _utf8(text: str) -> str:
    """Names of files, for instance, may be none."""
    return text.encode(errors="backslashreplace").decode()


def _jsonable(properties: Any) -> Any:
    return json.loads(json.dumps(properties, default=str, ensure_ascii=False).encode(errors="replace"))
