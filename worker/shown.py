"""What the commands for dead letters print: for people, or as JSON."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from worker.errors import count
from worker.printable import printable

if TYPE_CHECKING:
    from worker.letters import Letter, Overview
    from worker.redrive import Moved
    from worker.settings import HandlerSettings

_TOLD = ("content_type", "content_encoding", "type", "priority", "correlation_id", "reply_to")
"""Of a record's properties, what often says why its value could not be read."""
ERASE = "\r\x1b[K"
"""Begins a line anew, on a terminal: what was longer would show behind it."""


def counted(letters: Iterator[Letter]) -> Iterator[Letter]:
    """With a line that is written over, on a terminal only."""
    terminal, last, number = sys.stderr.isatty(), time.monotonic(), 0
    for number, letter in enumerate(letters, 1):
        if terminal and time.monotonic() - last >= 0.5:
            last = time.monotonic()
            click.echo(f"{ERASE}{number:,} looked at", nl=False, err=True)
        yield letter
    if terminal and number:
        click.echo(ERASE, nl=False, err=True)


class Progress:
    """A line that is written over, on a terminal only."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, moved: Moved) -> None:
        if self._terminal and time.monotonic() - self._last >= 0.5:
            self._last = time.monotonic()
            click.echo(f"{ERASE}{moved.count:,} done, {moved.put_back:,} left", nl=False, err=True)


def tell_moved(action: str, moved: Moved, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(vars(moved)))
        return
    if sys.stderr.isatty():
        click.echo(ERASE, nl=False, err=True)
    for stream, number in moved.redriven.items():
        click.echo(f"{number:,} redriven to {stream}")
    if action == "discard":
        click.echo(f"{moved.discarded:,} discarded")
    elif not moved.redriven:
        click.echo("0 redriven")
    if moved.exhausted:
        click.secho(f"{moved.exhausted:,} left: redriven too often already; --again allows more", fg="yellow")
    for stream, number in moved.strange.items():
        click.secho(
            f"{number:,} left: the handler does not read {printable(stream) or 'the stream they do not name'}", fg="yellow"
        )
    if moved.refused:
        click.secho(f"{moved.refused:,} left: the broker does not take them: {printable(moved.reason)}", fg="red")
    if moved.unseen:
        click.secho(f"the broker has {moved.unseen:,} more and did not send them: run it again for the rest", fg="yellow")
    if moved.stopped:
        click.secho("stopped before the end: run it again for the rest", fg="yellow")


def tell_overview(settings: HandlerSettings, overview: Overview, as_json: bool) -> None:
    groups = overview.sorted()
    if as_json:
        told = [asdict(group) for group in groups]
        click.echo(json.dumps({"letters": overview.letters, "groups": told, "others": overview.others}))
        return
    assert isinstance(settings.dead_letter, tuple)
    connection, stream = settings.dead_letter
    click.echo(f"{stream} of {connection}: {count(overview.letters, 'letter')} of {settings.label}")
    if groups:
        header = ["letters", "error", "stream", "partition", "first", "last", "redriven"]
        rows = [
            [
                f"{g.letters:,}",
                *map(printable, (g.error, g.stream, g.partition)),
                _moment(g.first),
                _moment(g.last),
                str(g.redriven),
            ]
            for g in groups
        ]
        _table([header, *rows])
    for name, number in overview.others.most_common():
        strangers = count(number, "record that is no letter of a worker", "records that are no letters of a worker")
        click.echo("and " + (f"{number:,} of {printable(name)}" if name else strangers))


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if n == 0 else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(milliseconds / 1000).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def tell_letter(letter: Letter, as_json: bool) -> None:
    record = letter.original()
    where = letter.partition
    if as_json:
        told = {"stream": where.stream, "partition": where.id, "id": letter.id, "time": letter.time, "error": letter.error}
        told |= {"message": letter.message, "attempts": letter.attempts, "handler": letter.handler, "redrives": letter.redrives}
        told |= {"timestamp": record.timestamp, "key": _coded(record.key), "value": _coded(record.value)}
        click.echo(json.dumps(told | {"headers": [[name, _coded(value)] for name, value in record.headers]}))
        return
    click.secho(printable(f"{where.stream}[{where.id}] {letter.id}"), bold=True)
    tries, redrives = count(letter.attempts, "try", "tries"), count(letter.redrives, "time")
    click.echo(f"  given up {_moment(letter.time)} after {tries}, redriven {redrives}")
    click.secho(printable(f"  {letter.error}: {letter.message}"), fg="red")
    click.echo(f"  timestamp {_moment(record.timestamp)}, key {_text(record.key)}")
    for name in _TOLD:
        if record.properties.get(name) is not None:
            click.echo(f"  {name} {printable(_shown(record.properties[name]))}")
    for name, value in record.headers:
        click.echo(f"  {printable(name)}: {_text(value)}")
    click.echo(_value(record.value))


def _coded(value: bytes | None) -> Any:
    """Text as it is, anything else as {"base64": ...}."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _shown(value: Any) -> str:
    """A producer may have written bytes where others write text."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _text(value: bytes | None) -> str:
    return "none" if value is None else printable(value.decode(errors="backslashreplace"))


def _value(value: bytes | None) -> str:
    """The only thing that may have lines."""
    return "none" if value is None else "\n".join(map(printable, value.decode(errors="backslashreplace").split("\n")))
