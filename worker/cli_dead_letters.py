"""`worker dead-letters list | show | redrive | discard`: what to do about records that were given up."""

from __future__ import annotations

import base64
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.errors import ConfigError, WorkerError
from worker.loading import fail, load

if TYPE_CHECKING:
    from worker.letters import Letter, Overview, Selection
    from worker.redrive import Moved, Pass
    from worker.settings import HandlerSettings

Function = TypeVar("Function", bound=Callable[..., None])
ERASE = "\r\x1b[K"
"""Begins a line anew, on a terminal: what was longer would show behind it."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Since(click.ParamType[float]):
    """2026-11-24, 2026-11-24T10:30, or so long ago: 90s, 30m, 2h, 1d. Seconds since the epoch."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            if ago := re.fullmatch(r"(\d+)([smhd])", str(value)):
                return max(0.0, time.time() - int(ago[1]) * _UNITS[ago[2]])
            return max(0.0, datetime.fromisoformat(str(value)).timestamp())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 2026-11-24T10:30, or 90s, 30m, 2h, 1d for so long ago", param, ctx)


class Rate(click.FloatRange):
    """A second."""

    def __init__(self) -> None:
        super().__init__(min=0.001, max=1_000_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        return self.fail(f"{value!r} is no number", param, ctx) if math.isnan(number) else number


def _options(*, changes: bool) -> Callable[[Function], Function]:
    """What all four take, and what the two that change a broker take besides."""
    told = [
        click.argument("app", metavar="MODULE:APP"),
        click.argument("handler"),
        click.option("--error", metavar="TYPE", help="Only those of this error: ValueError."),
        click.option("--partition", metavar="ID", help="Only those whose record was in this partition."),
        click.option("--since", type=Since(), help="Only those given up since: 2026-11-24T10:30, or 90s, 30m, 2h, 1d ago."),
        click.option("--id", metavar="ID", help="Only the one whose record had this id."),
    ]
    if changes:
        told += [
            click.option("--limit", type=click.IntRange(1), help="At most so many."),
            click.option("--rate", type=Rate(), help="At most so many a second."),
            click.option("--dry-run", is_flag=True, help="Only say which."),
            click.option("--yes", is_flag=True, help="Do not ask."),
        ]
    told += [
        click.option("--set", "flags", multiple=True, metavar="PATH=VALUE", help="A setting: connections.kafka=kafka://broker."),
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Settings file [default: worker.toml here, if there is one].",
        ),
        click.option("--json", "as_json", is_flag=True, help="The result as JSON."),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(told):
            function = option(function)
        return function

    return decorate


@click.group(name="dead-letters", epilog="Example: worker dead-letters list shop.billing:app charge")
def dead_letters() -> None:
    """Look at a handler's dead letters, send them back, or throw them away."""


@dead_letters.command(name="list", epilog="Example: worker dead-letters list shop.billing:app charge --since 2h")
@_options(changes=False)
def show_all(app: str, handler: str, as_json: bool, **told: Any) -> None:
    """Count them, by error, partition and time; none is taken."""
    from worker.letters import Overview, browse

    with _errors(as_json):
        settings, selection = _settings(app, handler, told)
        _tell_overview(settings, Overview.of(_counted(browse(settings)), selection), as_json)


@dead_letters.command(
    name="show", epilog="Example: worker dead-letters show shop.billing:app charge --error ValueError --limit 3"
)
@_options(changes=False)
@click.option("--limit", type=click.IntRange(1), default=1, show_default=True, help="At most so many.")
def show_some(app: str, handler: str, as_json: bool, limit: int, **told: Any) -> None:
    """Show the first ones with value, headers and why; exit 1 if there is none."""
    from worker.letters import browse

    with _errors(as_json):
        settings, selection = _settings(app, handler, told)
        shown = 0
        for letter in browse(settings):
            if selection.takes(letter):
                _tell_letter(letter, as_json)
                shown += 1
                if shown == limit:
                    break
    if not shown:
        click.echo(f"no letter: {selection}", err=True)
        sys.exit(1)


@dead_letters.command(epilog="Example: worker dead-letters redrive shop.billing:app charge --error TimeoutError --rate 500")
@_options(changes=True)
@click.option("--again", type=click.IntRange(1), default=3, show_default=True, help="Leave what was redriven so often.")
def redrive(**told: Any) -> None:
    """Send them back to the streams and partitions they came from, with their keys and headers.

    A run that is killed and started again loses none; the 500 letters it was at may be sent a second time.
    """
    _move("redrive", **told)


@dead_letters.command(epilog="Example: worker dead-letters discard shop.billing:app charge --error ValueError")
@_options(changes=True)
def discard(**told: Any) -> None:
    """Throw them away: they are not listed and not redriven any more."""
    _move("discard", **told)


def _move(
    action: Any,
    app: str,
    handler: str,
    as_json: bool,
    limit: int | None,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    again: int = 3,
    **told: Any,
) -> None:
    from worker.letters import Overview, browse
    from worker.redrive import Pass

    with _errors(as_json):
        settings, selection = _settings(app, handler, told)
        if not (yes or dry_run or sys.stdin.isatty()):
            raise ConfigError(f"nobody is here to ask whether to {action}: add --yes, or --dry-run to see what it would be")
        made = Pass(settings, selection, action, limit=limit, rate=rate, redrives=again, progress=_Progress())
        if dry_run or not yes:
            found = islice((letter for letter in _counted(browse(settings)) if made.fate(letter) == "meant"), limit)
            overview = Overview.of(found, selection)
        if dry_run:
            _tell_overview(settings, overview, as_json)
            return
        if not yes:
            _confirm(action, settings, selection, overview.letters)
        with _stopping(made):
            moved = made.run()
    _tell_moved(action, moved, as_json)
    sys.exit(4 if moved.refused else 1 if moved.stopped or moved.unseen else 0)


def _settings(app: str, handler: str, told: dict[str, Any]) -> tuple[HandlerSettings, Selection]:
    from worker.letters import Selection

    settings = load(app, [handler], told.pop("flags"), told.pop("config"))[1].handlers[handler]
    if settings.dead_letter is None:
        raise ConfigError(f"handler {handler} has no dead letters: set dead_letter=")
    if settings.dead_letter == "broker":
        raise ConfigError(f"handler {handler} leaves its dead letters to the broker's own policy: look there")
    return settings, Selection(settings.label, **told)


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    from worker import logs

    logs.configure(as_json=as_json, level="WARNING")
    try:
        yield
    except WorkerError as error:
        fail(error)


@contextmanager
def _stopping(made: Pass) -> Iterator[None]:
    """Ctrl-C and SIGTERM end it after the batch at hand."""

    def stop(*_: Any) -> None:
        made.stop = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _confirm(action: str, settings: HandlerSettings, selection: Selection, count: int) -> None:
    assert isinstance(settings.dead_letter, tuple)
    connection, stream = settings.dead_letter
    where = f" to {', '.join(settings.streams)} of {settings.connection}" if action == "redrive" else ""
    click.confirm(f"{action.capitalize()} {count:,} of {selection}, from {stream} of {connection}{where}?", abort=True, err=True)


def _counted(letters: Iterator[Letter]) -> Iterator[Letter]:
    """With a line that is written over, on a terminal only."""
    terminal, last, count = sys.stderr.isatty(), time.monotonic(), 0
    for count, letter in enumerate(letters, 1):
        if terminal and time.monotonic() - last >= 0.5:
            last = time.monotonic()
            click.echo(f"{ERASE}{count:,} looked at", nl=False, err=True)
        yield letter
    if terminal and count:
        click.echo(ERASE, nl=False, err=True)


class _Progress:
    """A line that is written over, on a terminal only."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, moved: Moved) -> None:
        if self._terminal and time.monotonic() - self._last >= 0.5:
            self._last = time.monotonic()
            click.echo(f"{ERASE}{moved.count:,} done, {moved.put_back:,} left", nl=False, err=True)


def _tell_moved(action: str, moved: Moved, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(vars(moved)))
        return
    if sys.stderr.isatty():
        click.echo(ERASE, nl=False, err=True)
    for stream, count in moved.redriven.items():
        click.echo(f"{count:,} redriven to {stream}")
    if action == "discard":
        click.echo(f"{moved.discarded:,} discarded")
    elif not moved.redriven:
        click.echo("0 redriven")
    if moved.exhausted:
        click.secho(f"{moved.exhausted:,} left: redriven too often already; --again allows more", fg="yellow")
    for stream, count in moved.strange.items():
        click.secho(f"{count:,} left: the handler does not read {_plain(stream) or 'the stream they do not name'}", fg="yellow")
    if moved.refused:
        click.secho(f"{moved.refused:,} left: the broker does not take them: {_plain(moved.reason)}", fg="red")
    if moved.unseen:
        click.secho(f"the broker has {moved.unseen:,} more and did not send them: run it again for the rest", fg="yellow")
    if moved.stopped:
        click.secho("stopped before the end: run it again for the rest", fg="yellow")


def _tell_overview(settings: HandlerSettings, overview: Overview, as_json: bool) -> None:
    groups = overview.sorted()
    if as_json:
        told = [asdict(group) for group in groups]
        click.echo(json.dumps({"letters": overview.letters, "groups": told, "others": overview.others}))
        return
    assert isinstance(settings.dead_letter, tuple)
    connection, stream = settings.dead_letter
    click.echo(f"{stream} of {connection}: {overview.letters:,} letters of {settings.label}")
    if groups:
        header = ["letters", "error", "stream", "partition", "first", "last", "redriven"]
        rows = [
            [f"{g.letters:,}", *map(_plain, (g.error, g.stream, g.partition)), _moment(g.first), _moment(g.last), str(g.redriven)]
            for g in groups
        ]
        _table([header, *rows])
    for name, count in overview.others.most_common():
        click.echo(f"and {count:,} " + (f"of {_plain(name)}" if name else "records that are no letters of a worker"))


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


def _tell_letter(letter: Letter, as_json: bool) -> None:
    record = letter.original()
    where = letter.partition
    if as_json:
        told = {"stream": where.stream, "partition": where.id, "id": letter.id, "time": letter.time, "error": letter.error}
        told |= {"message": letter.message, "attempts": letter.attempts, "handler": letter.handler, "redrives": letter.redrives}
        told |= {"timestamp": record.timestamp, "key": _coded(record.key), "value": _coded(record.value)}
        click.echo(json.dumps(told | {"headers": [[name, _coded(value)] for name, value in record.headers]}))
        return
    click.secho(_plain(f"{where.stream}[{where.id}] {letter.id}"), bold=True)
    click.echo(f"  given up {_moment(letter.time)} after {letter.attempts} tries, redriven {letter.redrives} times")
    click.secho(_plain(f"  {letter.error}: {letter.message}"), fg="red")
    click.echo(f"  timestamp {_moment(record.timestamp)}, key {_text(record.key)}")
    for name, value in record.headers:
        click.echo(f"  {_plain(name)}: {_text(value)}")
    click.echo(_text(record.value))


def _coded(value: bytes | None) -> Any:
    """Text as it is, anything else as {"base64": ...}."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _text(value: bytes | None) -> str:
    return "none" if value is None else _plain(value.decode(errors="backslashreplace"))


def _plain(text: str) -> str:
    """For people: nothing in it may move a terminal's cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
