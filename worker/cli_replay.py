"""`worker replay`: a captured batch on one's own machine, under a debugger if wanted."""

from __future__ import annotations

import json
import pdb
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.errors import ConfigError, WorkerError, count, say
from worker.loading import exit_at_once, fail, load
from worker.printable import printable

if TYPE_CHECKING:
    from worker.replay import Replayed


@click.command(epilog="Example: worker replay captured/charge-orders-3-1200.batch.json shop.billing:app --pdb")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("app", metavar="MODULE:APP")
@click.option("--handler", metavar="NAME", help="Another one than the batch was captured from.")
@click.option("--set", "flags", multiple=True, metavar="PATH=VALUE", help="A setting: handlers.charge.retries=0.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file [default: worker.toml here, if there is one].",
)
@click.option("--pdb", "debug", is_flag=True, help="Open a debugger where the handler raised.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def replay(
    file: Path, app: str, handler: str | None, flags: Sequence[str], config: Path | None, debug: bool, as_json: bool
) -> None:
    """Handle a captured batch again, here, without a broker: the same tries, without their waits, and the same ends.

    What the handler does, it does: it is your function that is called. Exit code 0 if everything finished, else 1.
    """
    from worker import logs

    logs.configure(as_json=as_json, level="WARNING")
    try:
        made = _replay(file, app, handler, flags, config, debug)
    except WorkerError as error:
        fail(error)
    _tell(made, as_json)
    code = 1 if made.given_up else 0
    if made.left_behind:  # the interpreter would wait for threads that the handler has started
        exit_at_once(code)
    sys.exit(code)


def _replay(file: Path, app: str, handler: str | None, flags: Sequence[str], config: Path | None, debug: bool) -> Replayed:
    from worker.capture import Captured
    from worker.decode import shape
    from worker.isolation import isolation
    from worker.lifespan import lifespan
    from worker.replay import run
    from worker.threads import EventLoop

    captured = Captured.load(file)
    name = handler or captured.handler
    loaded, settings = load(app, [name], flags, config)
    found = settings.handlers[name]
    ordered = captured.in_order(found.options)
    with ExitStack() as stack:
        events = EventLoop()
        events.start()
        stack.callback(events.stop)
        elsewhere = None
        if found.options.isolation == "process":
            if debug:
                raise ConfigError(f"--pdb: calls of {name} are made in another process: --set handlers.{name}.isolation=thread")
            elsewhere = isolation(found, loaded.target, shape(found.function), ordered)
            stack.callback(elsewhere.close)
        elif loaded.lifespan_function is not None:
            stack.enter_context(lifespan(loaded.lifespan_function, lambda: events.loop))

        on_error = _debug if debug else _nothing
        batch = captured.batch()
        return run(name, batch, found.function, found.options, ordered, events, elsewhere=elsewhere, on_error=on_error)


def _debug(error: Exception) -> None:
    click.secho(printable(say(error)), fg="red", err=True)
    if error.__traceback__ is not None:
        pdb.post_mortem(error.__traceback__)


def _nothing(error: Exception) -> None: ...


def _tell(made: Replayed, as_json: bool) -> None:
    if as_json:
        ends = [
            {
                "id": end.id,
                "then": end.then,
                "error": type(end.error).__name__,
                "message": str(end.error),
                "attempts": end.attempts,
            }
            for end in made.given_up
        ]
        click.echo(json.dumps({"finished": made.finished, "given_up": ends, "calls": made.calls}))
        return
    click.echo(f"{len(made.finished)} finished, {len(made.given_up)} given up, in {count(made.calls, 'call')}")
    for end in made.given_up:
        told = f"{end.id}: {end.then} after {end.tried}: {say(end.error)}"
        click.secho(printable(told), fg="red")
