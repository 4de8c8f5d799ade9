"""`worker dead-letters list | show | redrive | discard`: what to do about records that were given up."""

from __future__ import annotations

import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.errors import ConfigError, WorkerError
from worker.loading import fail, load
from worker.shown import Progress, counted, tell_letter, tell_moved, tell_overview

if TYPE_CHECKING:
    from worker.letters import Selection
    from worker.redrive import Pass
    from worker.settings import HandlerSettings

Function = TypeVar("Function", bound=Callable[..., None])
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
        click.argument("handler", required=False),
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
def show_all(app: str, handler: str | None, as_json: bool, **told: Any) -> None:
    """Count them, by error, partition and time; none is taken."""
    from worker.letters import Overview, browse

    with _errors(as_json):
        settings, selection = _settings(app, handler, told)
        tell_overview(settings, Overview.of(counted(browse(settings)), selection), as_json)


@dead_letters.command(
    name="show", epilog="Example: worker dead-letters show shop.billing:app charge --error ValueError --limit 3"
)
@_options(changes=False)
@click.option("--limit", type=click.IntRange(1), default=1, show_default=True, help="At most so many.")
def show_some(app: str, handler: str | None, as_json: bool, limit: int, **told: Any) -> None:
    """Show the first ones with value, headers and why; exit 1 if there is none."""
    from worker.letters import browse

    with _errors(as_json):
        settings, selection = _settings(app, handler, told)
        # One more than is shown: a stream of millions need not be read to say that there are more.
        found = list(islice(filter(selection.takes, browse(settings)), limit + 1))
        for letter in found[:limit]:
            tell_letter(letter, as_json)
    if not found:
        click.echo(f"no letter: {selection}", err=True)
        sys.exit(1)
    if len(found) > limit and not as_json:
        click.echo(f"there are more letters: --limit {10 * limit} shows up to {10 * limit:,}", err=True)


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
    handler: str | None,
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
        made = Pass(settings, selection, action, limit=limit, rate=rate, redrives=again, progress=Progress())
        if dry_run or not yes:
            found = islice((letter for letter in counted(browse(settings)) if made.fate(letter) == "meant"), limit)
            overview = Overview.of(found, selection)
        if dry_run:
            tell_overview(settings, overview, as_json)
            return
        if not yes:
            _confirm(action, settings, selection, overview.letters)
        with _stopping(made):
            moved = made.run()
    tell_moved(action, moved, as_json)
    sys.exit(4 if moved.refused else 1 if moved.stopped or moved.unseen else 0)


def _settings(app: str, handler: str | None, told: dict[str, Any]) -> tuple[HandlerSettings, Selection]:
    """`handler` may be None where the app has only one."""
    from worker.letters import Selection

    handlers = load(app, [] if handler is None else [handler], told.pop("flags"), told.pop("config"))[1].handlers
    if len(handlers) > 1:
        raise ConfigError(f"{app} has several handlers: name one of {', '.join(handlers)} behind it")
    [settings] = handlers.values()
    if settings.dead_letter is None:
        raise ConfigError(f"handler {settings.name} has no dead letters: set dead_letter=")
    if settings.dead_letter == "discard":
        raise ConfigError(f"handler {settings.name} discards its dead letters: there is nothing to look at")
    if settings.dead_letter == "broker":
        raise ConfigError(f"handler {settings.name} leaves its dead letters to the broker's own policy: look there")
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
